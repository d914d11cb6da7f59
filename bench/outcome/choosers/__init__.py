"""How an arm chooses the prompts of its next batch. A family a file.

passes     the pool as it comes, in endless passes; and batches kept for groups with a signal (dynamic sampling)
measured   some prompts of a pool that was measured, once or again and again
thompson   MoPPS: a posterior of p, prompts near 1/2
skipping   passes that leave out what history says is solved or hopeless
oracle     exact probabilities and right answers, which nobody has
ours       the package's online selection
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.outcome import grpo
from bench.outcome.measuring import Integers


class Chooser:
    """What a run asks. Prompts are positions in the pool. Unless it says otherwise, a chooser needs no policy."""

    def prepare(self, model: Any, step: int) -> None:
        """Before a step (from 0): look at the policy, if this is the time."""

    def next(self, n: int) -> Integers:
        """[n] the prompts of the next batch."""
        raise NotImplementedError

    def observe(self, prompts: Integers, groups: Sequence[grpo.Group]) -> None:
        """What training has sampled of the last batch."""
