"""What is known of every prompt's success rate while the policy moves: verdicts that count less the older they are.

A prompt's evidence is a pair of discounted numbers, correct responses s and all responses m, of the training's own.
Every stage multiplies both, and every further step that a prompt is in. So with Beta(a + s, b + m - s) an old prompt
drifts back to what is known of the pool: it may have become learnable; and one that training has settled is known to be
so. The prior's mean is the pool's mean success rate. This module samples nothing and picks nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from learnalign.rows import Integers

Doubles = npt.NDArray[np.float64]

PRIOR_STRENGTH = 1.0
"""a + b of the Beta prior: as much as one response."""


class History:
    """Discounted verdicts of N prompts."""

    def __init__(self, size: int) -> None:
        self.correct: Doubles = np.zeros(size)
        """[N] discounted number of correct responses, s."""
        self.responses: Doubles = np.zeros(size)
        """[N] discounted number of responses, m."""
        self.visits: Integers = np.zeros(size, np.int64)
        """[N] steps of the training that a prompt was in."""

    def follow(self, prompts: Integers, correct: npt.ArrayLike, decay: float) -> None:
        """Count the verdicts of a training step: correct[k], 0 or 1, of prompts[k]; a prompt is named several times.

        Since a prompt was seen before, the policy has trained on it: what was known of it counts `decay` times.
        """
        trained = np.unique(prompts)
        self.visits[trained] += 1
        self.correct[trained] *= decay
        self.responses[trained] *= decay
        np.add.at(self.correct, prompts, np.asarray(correct, np.float64))
        np.add.at(self.responses, prompts, 1.0)

    def aged(self, decay: float) -> History:
        """A copy in which all evidence counts `decay` times what it did."""
        older = History(len(self.correct))
        older.correct, older.responses = self.correct * decay, self.responses * decay
        older.visits = self.visits.copy()
        return older

    def success_rate(self) -> Doubles:
        """[N] posterior mean of p."""
        a, b = self._posterior()
        mean: Doubles = a / (a + b)
        return mean

    def promise(self) -> Doubles:
        """[N] posterior mean of p (1 - p): what a prompt may teach."""
        return _mean_of_product(*self._posterior())

    def prior_promise(self) -> float:
        """The same of a prompt of which nothing is known."""
        return float(_mean_of_product(*map(np.asarray, self._prior())))

    def _prior(self) -> tuple[float, float]:
        mean = (float(self.correct.sum()) + 0.5) / (float(self.responses.sum()) + 1.0)  # 1/2 before anything is known
        return PRIOR_STRENGTH * mean, PRIOR_STRENGTH * (1 - mean)

    def _posterior(self) -> tuple[Doubles, Doubles]:
        a, b = self._prior()
        return a + self.correct, b + self.responses - self.correct


def _mean_of_product(a: Doubles, b: Doubles) -> Doubles:
    """E[p (1 - p)] = a b / ((a + b)(a + b + 1)) of p ~ Beta(a, b)."""
    expected: Doubles = a * b / ((a + b) * (a + b + 1))
    return expected
