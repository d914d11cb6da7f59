"""What an online selection asks of the policy as it is now: the gradients of some prompts.

`learnalign.online.live` answers with a model in this process, `learnalign.online.next` with a checkpoint and the
training's logs; a bench or a test may bring its own.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy.typing as npt

from learnalign.scoring.rows import Integers


class Measurer(Protocol):
    """The policy at one time. Prompts are positions in the pool."""

    def sketch(self, prompts: Integers) -> tuple[Integers, npt.NDArray[Any]]:
        """Sketches of the gradients of these prompts, from responses that the training itself has sampled.

        Only of prompts of which training has sampled both a correct and an incorrect response of late (see `pairs`).
        [M] positions, [M, d] rows.
        """
        ...
