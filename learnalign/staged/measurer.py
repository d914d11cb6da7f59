"""What a staged selection asks of the policy as it is now: responses, and the gradients of some prompts.

`learnalign.staged.live` answers with a model in this process, `learnalign.staging` with a checkpoint and a run
directory; a bench or a test may bring its own.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy.typing as npt

from learnalign.rows import Integers


class Measurer(Protocol):
    """The policy of one stage. Prompts are positions in the pool."""

    def respond(self, prompts: Integers, responses: int) -> Integers:
        """Sample so many further responses of every prompt: [len(prompts)] how many of these are correct."""
        ...

    def sketch(self, prompts: Integers) -> tuple[Integers, npt.NDArray[Any]]:
        """Of these prompts the ones whose responses in this stage differ in reward, and their gradients' sketches.

        A group is all the responses of a prompt that this measurer has sampled. [M] positions, [M, d] rows.
        """
        ...
