"""Passes that leave out what history says is solved or hopeless: the filter of GRESO (arXiv 2506.02177).

A prompt whose last z visits all gave one verdict is skipped in a pass with probability 1 - q^z, so that it is looked at
again now and then. There are two q, for prompts whose last visit was all right and for those where it was all wrong.
After the first pass each moves by `STEP` a batch: down where more groups of its kind are in it than `WANTED`, or up.

GRESO itself also samples until the batch is full of groups with both verdicts; here a batch is trained on as it is, so
that the arm shows what leaving out prompts is worth (the arm `dynamic` shows the other half).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.outcome import grpo
from bench.outcome.choosers import Chooser
from bench.outcome.measuring import Integers

FIRST, LEAST, MOST, STEP = 0.5, 0.05, 0.95, 0.01
"""Of q, as in the authors' code."""
WANTED = {"solved": 0.25 / 3, "hopeless": 0.25 * 2 / 3}
"""Shares of sampled groups: a quarter without a signal, a third of these solved."""


class Skipping(Chooser):
    """Knows of every prompt its consecutive visits without a signal, and the last verdict."""

    def __init__(self, pool: int, seed: int) -> None:
        self.without = np.zeros(pool, np.int64)
        self.solved = np.zeros(pool, np.bool_)
        self.q = dict.fromkeys(WANTED, FIRST)
        self._rng = np.random.default_rng([seed, 2])
        self._left = np.zeros(0, np.int64)
        self.passes = 0

    def keeps(self, k: int) -> float:
        """Probability that a pass does not skip a prompt."""
        return float(self.q["solved" if self.solved[k] else "hopeless"] ** self.without[k])

    def next(self, n: int) -> Integers:
        """See `Chooser`. A prompt is skipped, or not, when its turn comes."""
        batch: list[int] = []
        while len(batch) < n:
            if not len(self._left):
                self._left = self._rng.permutation(len(self.without))
                self.passes += 1
            k, self._left = int(self._left[0]), self._left[1:]
            if self._rng.random() < self.keeps(k):
                batch.append(k)
        return np.array(batch)

    def observe(self, prompts: Integers, groups: Sequence[grpo.Group]) -> None:
        """Count visits without a signal; let q follow."""
        mixed = np.array([group.mixed for group in groups])
        right = np.array([group.rewards[0] == 1.0 for group in groups])
        self.without[prompts] = np.where(mixed, 0, self.without[prompts] + 1)
        self.solved[prompts] = right
        if self.passes > 1:
            for kind, of_kind in (("solved", ~mixed & right), ("hopeless", ~mixed & ~right)):
                moved = self.q[kind] - STEP if of_kind.mean() >= WANTED[kind] else self.q[kind] + STEP
                self.q[kind] = float(np.clip(moved, LEAST, MOST))
