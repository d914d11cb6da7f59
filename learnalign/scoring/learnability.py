"""Learnability V = p (1 - p): from a success rate, from counts, and as what is expected of a prompt known little of.

Where rewards are graded and none means correct, it is their variance within the group, which p (1 - p) is for rewards
of 1 and 0.

This module knows no gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from learnalign.scoring.arrays import column, refuse_rows

Doubles = npt.NDArray[np.float64]

PRIOR_STRENGTH = 1.0
"""a + b of the Beta prior: as much as one response, so that two equal verdicts already outweigh it."""


def learnability_of(success_rate: Any, rows: int) -> npt.NDArray[np.float64]:
    """V = p (1 - p), float64 [rows].

    Raises:
        ArrayError: another shape, not real numbers, or a p outside [0, 1]; the message names the first rows.
    """
    p = column(success_rate, "success_rate", rows)
    refuse_rows(~((p >= 0.0) & (p <= 1.0)), p, "success_rate must lie in [0, 1]")
    learnability: npt.NDArray[np.float64] = p * (1.0 - p)
    return learnability


def learnability_of_counts(sampled: npt.ArrayLike, correct: npt.ArrayLike) -> Doubles:
    """[N] p (1 - p) of every prompt from s correct of G responses: s (G - s) / (G (G - 1)); NaN where G < 2.

    For a G that was fixed beforehand this is without bias, while (s / G)(1 - s / G) is too small by (1 - 1 / G),
    which favors prompts of larger G.
    """
    responses, right = np.asarray(sampled, np.float64), np.asarray(correct, np.float64)
    pairs = responses * (responses - 1.0)
    value: Doubles = np.divide(right * (responses - right), pairs, out=np.full(len(responses), np.nan), where=pairs > 0)
    return value


class RewardMoments:
    """Variance of every prompt's rewards, which are added part by part (Chan, Golub and LeVeque, 1983)."""

    def __init__(self, prompts: int) -> None:
        self.count, self._mean, self._squares = (np.zeros(prompts) for _ in range(3))
        self._low, self._high = np.full(prompts, np.inf), np.full(prompts, -np.inf)

    def add(self, prompt: npt.NDArray[np.int64], rewards: Doubles) -> None:
        """prompt: [R] number of the prompt that each of the rewards, [R], is of."""
        size = len(self.count)
        count = np.bincount(prompt, minlength=size).astype(np.float64)
        mean = np.divide(np.bincount(prompt, rewards, size), count, out=np.zeros(size), where=count > 0)
        squares = np.bincount(prompt, (rewards - mean[prompt]) ** 2, size)
        total = np.maximum(self.count + count, 1.0)
        step = np.where(count > 0, mean - self._mean, 0.0)
        self._squares += squares + step**2 * self.count * count / total
        self._mean += step * count / total
        self.count += count
        np.minimum.at(self._low, prompt, rewards)
        np.maximum.at(self._high, prompt, rewards)

    @property
    def differ(self) -> npt.NDArray[np.bool_]:
        """[N] whether a prompt has two different rewards."""
        return self._high > self._low

    def variance(self, unbiased: bool) -> Doubles:
        """[N] variance of each prompt's rewards, 0 exactly where all are equal, NaN without any.

        unbiased: divided by one less than their number, so that groups of different size compare.
        """
        divisor = self.count - 1.0 if unbiased else self.count
        value = np.divide(self._squares, divisor, out=np.zeros(len(divisor)), where=divisor > 0)
        found: Doubles = np.where(self.count > 0, np.where(self.differ, value, 0.0), np.nan)
        return found


def prior_mean(responses: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """The pool's success rate, (sum s + 1/2) / (sum m + 1): 1/2 before anything is known."""
    return (float(np.sum(correct)) + 0.5) / (float(np.sum(responses)) + 1.0)


def expected_success_rate(responses: npt.ArrayLike, correct: npt.ArrayLike, mean: float) -> Doubles:
    """[N] posterior mean of p after s correct of m responses (discounted counts allowed), prior mean `mean`."""
    a, b = _posterior(responses, correct, mean)
    rate: Doubles = a / (a + b)
    return rate


def expected_learnability(responses: npt.ArrayLike, correct: npt.ArrayLike, mean: float) -> Doubles:
    """[N] E[p (1 - p)] = a b / ((a + b)(a + b + 1)) of p ~ Beta(a, b), the posterior after s correct of m responses.

    responses, correct: [N] m and s, whole numbers or discounted ones. mean: of the prior (see `prior_mean`).
    """
    a, b = _posterior(responses, correct, mean)
    expected: Doubles = a * b / ((a + b) * (a + b + 1))
    return expected


def expected_both(responses: npt.ArrayLike, correct: npt.ArrayLike, mean: float, group: int) -> Doubles:
    """[N] probability that a group of so many responses holds both a correct and an incorrect one.

    1 - E[p^G] - E[(1 - p)^G] of p ~ Beta(a, b), the posterior of `expected_learnability`:
    E[p^G] = prod over j < G of (a + j) / (a + b + j).
    """
    a, b = _posterior(responses, correct, mean)
    all_correct, none_correct = np.ones_like(a), np.ones_like(a)
    for j in range(group):
        all_correct *= (a + j) / (a + b + j)
        none_correct *= (b + j) / (a + b + j)
    both: Doubles = 1.0 - all_correct - none_correct
    return both


def _posterior(responses: npt.ArrayLike, correct: npt.ArrayLike, mean: float) -> tuple[Doubles, Doubles]:
    m, s = np.asarray(responses, np.float64), np.asarray(correct, np.float64)
    return PRIOR_STRENGTH * mean + s, PRIOR_STRENGTH * (1 - mean) + m - s
