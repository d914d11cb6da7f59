"""Scores against a target set: how well a prompt's gradient agrees with what the target's prompts ask for.

As LESS (Xia et al. 2024, arXiv 2402.04333) selects for a validation set, but with the mean of the target's unit
gradients m_T in the place of the pool's mean: score_i = V_i u_i . m_T, u = phi / |phi|. This module makes no sketches.
"""

from __future__ import annotations

import numpy as np

from learnalign.errors import ArrayError
from learnalign.rows import Rows, blocks
from learnalign.scoring import Scores, score_shards
from learnalign.selection.prompts import Doubles

BLOCK = 2048


def mean_direction(rows: Rows) -> Doubles:
    """[d] m_T, the mean of the unit rows; rows of zeros, prompts without a gradient, are left out.

    Raises:
        ArrayError: no row has a gradient.
    """
    total, count = np.zeros(rows.dimension), 0
    for part in blocks(np.arange(len(rows)), BLOCK):
        unit, length = rows.unit(part)
        total += unit.sum(axis=0, dtype=np.float64)
        count += int(np.count_nonzero(length))
    if not count:
        raise ArrayError(
            "no prompt of the target set has a gradient (0 < p < 1): take easier or harder ones, or more responses"
        )
    mean: Doubles = total / count
    return mean


def score_against(rows: Rows, learnability: Doubles, mean: Doubles) -> Scores:
    """Scores and alignments [N] of rows against m_T.

    Args:
        rows: [N, d] sketches.
        learnability: [N] V_i >= 0; rows with V = 0 score exactly 0.
        mean: [d] `mean_direction` of the target.

    Raises:
        ArrayError: the target has another dimension.
    """
    if rows.dimension != len(mean):
        raise ArrayError(f"the target's sketches have {len(mean)} numbers a row, the pool's {rows.dimension}")
    return score_shards(rows.shards, learnability, pool_size=len(rows), total=mean * len(rows))
