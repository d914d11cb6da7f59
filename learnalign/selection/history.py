"""Success rates of prompts over an earlier training run, and what two papers make of them.

    spread   the standard deviation of a prompt's success rates: 1-shot RLVR (Wang et al. 2025, arXiv 2504.20571)
    impact   how closely they follow the mean curve of all prompts: LIMR (Li et al. 2025, arXiv 2502.11886)

This module does not read histories (see `learnalign.pool.history`), and does not rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from learnalign.selection.prompts import Doubles

Histories = Sequence[Sequence[float]]


def spread(histories: Histories) -> Doubles:
    """[N] standard deviation of each history (of the visits there were: ddof 0); NaN for an empty one."""
    return np.array([float(np.std(rates)) if len(rates) else math.nan for rates in histories])


def impact(histories: Histories) -> Doubles:
    """[N] LIMR's alignment with the learning curve; 1 follows it exactly, NaN for an empty history.

    s_i = 1 - sum_k (r_ik - r_k)^2 / sum_k (1 - r_k)^2, r_k the mean of the k-th visits. Histories of different
    lengths (visits are not epochs everywhere) are compared over the visits that they have. Where the curve is 1 at
    every one of these visits, following it gives 1 and anything else minus infinity.
    """
    longest = max((len(rates) for rates in histories), default=0)
    table = np.full((len(histories), longest), np.nan)
    for row, rates in enumerate(histories):
        table[row, : len(rates)] = rates
    visited = np.isfinite(table)
    curve = np.where(visited, table, 0.0).sum(axis=0) / np.maximum(visited.sum(axis=0), 1)
    away = np.where(visited, (table - curve) ** 2, 0.0).sum(axis=1)
    scale = np.where(visited, (1.0 - curve) ** 2, 0.0).sum(axis=1)
    ratio = np.divide(away, scale, out=np.where(away > 0, np.inf, 0.0), where=scale > 0)
    return np.where(visited.any(axis=1), 1.0 - ratio, np.nan)
