"""Which prompts to train on: strategies that pick n rows given their scores.

`STRATEGIES` is the one table; a strategy is a function of scores and learnability. This module does not score
the shards of a store (see `scoring`) and does not write the selection.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign import _core
from learnalign.errors import ArrayError
from learnalign.scoring import learnability_of, score, sketch_array


class Selection(NamedTuple):
    """The rows picked, best first, and the scores of all rows."""

    indices: npt.NDArray[np.int64]
    """[n] row numbers in the order of picking."""
    gains: npt.NDArray[np.float64]
    """[n] what each pick added to the strategy's objective; for `top` its score."""
    scores: npt.NDArray[np.float64]
    """[N] score of every row."""


def top(score: npt.NDArray[np.float64], learnability: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.int64]:
    """The n best rows: learnable ones (V > 0) first, then the higher score, then the lower row.

    A learnable row can score below 0 and still goes before every row with V = 0, which teaches nothing.

    Args:
        score: [N] float64.
        learnability: [N] float64, V = p (1 - p).
        n: how many, 1 to N.

    Returns:
        [n] int64 row numbers, best first.

    Raises:
        ArrayError: n outside 1..N, arrays of different shape, or a NaN; the message names its row.
    """
    scores, values = np.asarray(score), np.asarray(learnability)
    if scores.ndim != 1 or scores.shape != values.shape:
        raise ArrayError(
            "score and learnability must be 1-dimensional and of one length, "
            f"found shapes {list(scores.shape)} and {list(values.shape)}"
        )
    count = _count(n, len(scores))
    return _core.top(np.ascontiguousarray(scores, np.float64), np.ascontiguousarray(values, np.float64), count)


STRATEGIES: dict[str, Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64], int], npt.NDArray[np.int64]]] = {
    "top": top
}
"""Name -> function (score [N], learnability [N], n) -> row numbers [n], best first."""


def select(phi: Any, success_rate: Any, n: int, *, strategy: str = "top") -> Selection:
    """Score all rows of `phi` and pick `n` of them.

    Args:
        phi: [N, d] gradient sketches (see `learnalign.scoring.score`).
        success_rate: [N] p in [0, 1].
        n: how many rows, 1 to N. With fewer learnable rows than n, the learnable ones come first.
        strategy: a key of `STRATEGIES`; `top` is the paper's.

    Raises:
        ArrayError: arrays that cannot be scored, an n outside 1..N, or an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ArrayError(f"unknown strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}")
    rows = sketch_array(phi)
    count = _count(n, len(rows))
    learnability = learnability_of(success_rate, len(rows))
    scores = score(rows, success_rate)
    indices = STRATEGIES[strategy](scores, learnability, count)
    return Selection(indices, scores[indices], scores)


def _count(n: int, rows: int) -> int:
    try:
        count = operator.index(n)
    except TypeError:
        raise ArrayError(f"n (how many rows to select) must be a whole number, found {n!r}") from None
    if isinstance(n, bool) or not 1 <= count <= rows:
        raise ArrayError(f"n (how many rows to select) must lie between 1 and {rows} (all rows), found {n}")
    return count
