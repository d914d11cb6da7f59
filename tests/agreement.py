"""Do two sets of verdicts come from the same success rates? A permutation test over the prompts."""

from __future__ import annotations

import numpy as np

PERMUTATIONS = 20_000


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
