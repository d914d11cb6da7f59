"""What is known of every prompt's success rate while the policy moves: verdicts that count less the older they are.

A prompt's evidence is a pair of discounted numbers, correct responses s and all responses m, of the training's own.
Every update multiplies both, and every further step that a prompt is in. So with Beta(a + s, b + m - s) an old prompt
drifts back to what is known of the pool: it may have become learnable; and one that training has settled is known to be
so. The prior's mean is the pool's mean success rate. This module samples nothing and picks nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from learnalign.scoring.learnability import expected_learnability, expected_success_rate, prior_mean
from learnalign.scoring.rows import Integers

Doubles = npt.NDArray[np.float64]


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
        return expected_success_rate(self.responses, self.correct, self._mean)

    def expected_learnability(self) -> Doubles:
        """[N] posterior mean of p (1 - p): what a prompt may teach."""
        return expected_learnability(self.responses, self.correct, self._mean)

    def prior_expected_learnability(self) -> float:
        """The same of a prompt of which nothing is known."""
        return float(expected_learnability(np.zeros(1), np.zeros(1), self._mean)[0])

    @property
    def _mean(self) -> float:
        return prior_mean(self.responses, self.correct)
