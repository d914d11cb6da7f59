"""What is known of every prompt's success rate while the policy moves: verdicts that count less the older they are.

A prompt's evidence is a pair of discounted numbers, correct responses s and all responses m, of the training's own;
every further step that the prompt is in multiplies both. With Beta(a + s, b + m - s) a prompt that training has settled
is known to be so. The prior's mean is the pool's mean success rate, from two sums that are kept, so that no call
goes over the pool. This module samples nothing and picks nothing.
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
        self.all_correct, self.all_responses = 0.0, 0.0
        """The sums of `correct` and `responses`, up to rounding."""

    def follow(self, prompts: Integers, correct: Doubles, responses: Doubles, decay: float) -> None:
        """Count a training step: of prompts[k], all different, responses[k] responses, correct[k] of them correct.

        Since a prompt was seen before, the policy has trained on it: what was known of it counts `decay` times.
        """
        before = self.correct[prompts], self.responses[prompts]
        after = before[0] * decay + correct, before[1] * decay + responses
        self.correct[prompts], self.responses[prompts] = after
        self.visits[prompts] += 1
        self.all_correct += float((after[0] - before[0]).sum())
        self.all_responses += float((after[1] - before[1]).sum())

    @property
    def mean(self) -> float:
        """Mean of the prior of p."""
        return prior_mean(max(self.all_responses, 0.0), max(self.all_correct, 0.0))

    def success_rate(self, prompts: Integers) -> Doubles:
        """[M] posterior mean of p of some prompts."""
        return expected_success_rate(self.responses[prompts], self.correct[prompts], self.mean)

    def expected_learnability(self, prompts: Integers) -> Doubles:
        """[M] posterior mean of p (1 - p) of some prompts."""
        return expected_learnability(self.responses[prompts], self.correct[prompts], self.mean)
