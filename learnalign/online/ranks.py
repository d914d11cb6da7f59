"""Several processes that train together: each keeps the same selector, since each learns what all of them sampled.

So all pick the same prompts, and nothing has to be sent for it. Only the main process writes. This module trains
nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate.utils import broadcast_object_list, gather_object

from learnalign.online.measurer import Measurer
from learnalign.online.selector import OnlineSelector
from learnalign.scoring.rows import Integers


def follow_main(selector: OnlineSelector, accelerator: Any) -> None:
    """Have every process go on from what the main process's selector knows, which alone keeps its directory.

    Raises `RunError` in a process whose pool is another.
    """
    if accelerator.num_processes == 1:
        return
    state = [selector.state_dict() if accelerator.is_main_process else {}]
    broadcast_object_list(state)
    if not accelerator.is_main_process:
        selector.leave_directory()
        selector.load_state_dict(state[0])


class SplitPolicy:
    """A `Measurer` in each of several processes, of which each sketches its share of the prompts."""

    def __init__(self, policy: Measurer, accelerator: Any) -> None:
        self.policy, self.rank, self.ranks = policy, accelerator.process_index, accelerator.num_processes

    def sketch(self, prompts: Integers) -> tuple[Integers, npt.NDArray[Any]]:
        """See `Measurer.sketch`; all processes ask for the same prompts and get the same rows, by position."""
        parts = gather_object([self.policy.sketch(prompts[self.rank :: self.ranks])])
        found = np.concatenate([part[0] for part in parts])
        order = np.argsort(found)
        return found[order], np.concatenate([part[1] for part in parts])[order]
