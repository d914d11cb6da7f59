"""MoPPS, model predictive prompt selection (arXiv 2507.04632): a posterior of p, and the prompts that it puts near 1/2.

Before a batch, random candidates are taken from the pool, p_i ~ Beta(a_i, b_i) is drawn for each, and the n of smallest
(p_i - 1/2)^2 are trained on. Of the k responses of one that was, s are right:

    a_i <- decay a_i + (1 - decay) a_0 + s,    b_i <- decay b_i + (1 - decay) b_0 + k - s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.outcome import grpo
from bench.outcome.choosers import Chooser
from bench.outcome.measuring import Integers

DECAY = 0.5
"""Verdicts of earlier visits are of a policy that has moved since. The authors' recipe in verl leaves it at 1, off."""
PRIOR = 1.0
"""a_0 and b_0."""
CANDIDATES = 16
"""Prompts among which a batch is chosen, as a multiple of it; as in the authors' recipes."""
TARGET = 0.5


class Thompson(Chooser):
    """Knows of every prompt a discounted Beta posterior."""

    def __init__(self, pool: int, seed: int) -> None:
        self.right, self.wrong = np.full(pool, PRIOR), np.full(pool, PRIOR)
        self._rng = np.random.default_rng([seed, 1])

    def next(self, n: int) -> Integers:
        """See `Chooser`."""
        pool = len(self.right)
        candidates = self._rng.permutation(pool)[: CANDIDATES * n]
        p = self._rng.beta(self.right[candidates], self.wrong[candidates])
        return candidates[np.argsort((p - TARGET) ** 2)[:n]]

    def observe(self, prompts: Integers, groups: Sequence[grpo.Group]) -> None:
        """Update the posteriors."""
        right = np.array([sum(group.rewards) for group in groups])
        wrong = np.array([len(group.rewards) for group in groups]) - right
        for posterior, seen in ((self.right, right), (self.wrong, wrong)):
            posterior[prompts] = DECAY * posterior[prompts] + (1 - DECAY) * PRIOR + seen
