"""What is known of every prompt's success rate while the policy moves: verdicts that count less the older they are.

A prompt's evidence is a pair of discounted numbers, correct responses s and all responses m. Every stage multiplies
both by `decay` before new verdicts are added, and for a prompt that is trained on, every further step that it is in. So
with Beta(a + s, b + m - s) an old prompt drifts back to what is known of the pool: it may have become learnable; and
one that training has settled is known to be so. The prior's mean is the pool's mean success rate. This module samples
nothing and picks nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from learnalign.errors import ArrayError
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

    def add(self, prompts: Integers, correct: npt.ArrayLike, responses: npt.ArrayLike) -> None:
        """Count further verdicts: of prompts[k], correct[k] of responses[k]. A prompt may be named several times.

        Raises `ArrayError` unless 0 <= correct <= responses everywhere.
        """
        right, all_ = np.broadcast_arrays(np.asarray(correct, np.float64), np.asarray(responses, np.float64))
        if not bool(((right >= 0) & (right <= all_)).all()):
            raise ArrayError("correct responses must be from 0 to the number of responses, and no NaN")
        np.add.at(self.correct, prompts, right)
        np.add.at(self.responses, prompts, all_)

    def follow(self, prompts: Integers, correct: npt.ArrayLike, decay: float) -> None:
        """Count single verdicts of training steps: correct[k], 0 or 1, of prompts[k].

        Since a prompt was seen before, the policy has trained on it: what was known of it counts `decay` times.
        """
        trained = np.unique(prompts)
        self.correct[trained] *= decay
        self.responses[trained] *= decay
        self.add(prompts, correct, 1)

    def aged(self, decay: float) -> History:
        """A copy in which all evidence counts `decay` times what it did."""
        older = History(len(self.correct))
        older.correct, older.responses = self.correct * decay, self.responses * decay
        return older

    def success_rate(self) -> Doubles:
        """[N] posterior mean of p."""
        a, b = self._posterior()
        mean: Doubles = a / (a + b)
        return mean

    def promise(self) -> Doubles:
        """[N] posterior mean of p (1 - p) = a b / ((a + b)(a + b + 1)): what a prompt may teach."""
        a, b = self._posterior()
        expected: Doubles = a * b / ((a + b) * (a + b + 1))
        return expected

    def _posterior(self) -> tuple[Doubles, Doubles]:
        total = float(self.responses.sum())
        mean = (float(self.correct.sum()) + 0.5) / (total + 1.0)  # 1/2 before anything is known
        return PRIOR_STRENGTH * mean + self.correct, PRIOR_STRENGTH * (1 - mean) + self.responses - self.correct
