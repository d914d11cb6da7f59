"""Do two sets of verdicts come from the same success rates? Two tests, both conditional on every prompt's total.

`compare` (Cochran-Mantel-Haenszel, one stratum a prompt) sees a shift in one direction over the prompts, and says how
small a shift it would have seen; `p_value` (a permutation test) sees differences in any direction.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

SIGNIFICANCE = 0.001
"""Of either test. Seeds are fixed, so that a test of ours passes always or never; this is how unlucky they may be."""
POWER = 0.9
_DEVIATES = 3.2905 + 1.2816
"""Standard errors of a difference that is found at SIGNIFICANCE (two-sided) with probability POWER."""
PERMUTATIONS = 20_000


class Agreement(NamedTuple):
    """Of two sets of verdicts."""

    difference: float
    """Mean success rate of the second less that of the first."""
    error: float
    """Its standard error where the rates are equal."""
    p: float
    """Two-sided, of the Cochran-Mantel-Haenszel statistic (normal approximation, without continuity correction)."""

    @property
    def detectable(self) -> float:
        """The smallest difference that is found at SIGNIFICANCE with probability POWER."""
        return _DEVIATES * self.error


def compare(one: np.ndarray, two: np.ndarray, responses: int) -> Agreement:
    """one, two: [N] correct of `responses` each. Given s_i + t_i, s_i is hypergeometric where the rates are equal.

    difference^2 / error^2 is the statistic: (sum_i s_i - E s_i)^2 / sum_i var s_i. Raises `ValueError` where every
    verdict of every prompt is the same: nothing can be said then.
    """
    total = (one + two).astype(np.float64)
    variance = (total * (2 * responses - total) / (4 * (2 * responses - 1))).sum()
    if variance == 0:
        raise ValueError("all verdicts of every prompt are the same")
    size = len(one) * responses
    difference, error = float((two - one).sum() / size), float(2 * math.sqrt(variance) / size)
    return Agreement(difference, error, math.erfc(abs(difference) / error / math.sqrt(2)))


def p_value(one: np.ndarray, two: np.ndarray, responses: int) -> float:
    """Of sum_i (s_i - t_i)^2, where every prompt's 2 G verdicts are dealt anew to the two sides.

    one, two: [N] correct of `responses` each. Small where the success rates differ. Exact but for the number of
    permutations, whatever the rates are.
    """
    assert len(one) == len(two)
    total = one + two
    found = ((one - two) ** 2).sum()
    rng = np.random.default_rng(0)
    dealt = rng.hypergeometric(total, 2 * responses - total, responses, (PERMUTATIONS, len(one)))
    return float(np.mean(((2 * dealt - total) ** 2).sum(axis=1) >= found))
