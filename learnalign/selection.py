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


def facility_location(
    indptr: Any, indices: Any, weights: Any, n: int, rows: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Greedy facility location: n times the candidate that represents the points best beside those picked.

    The objective is F(S) = sum_i max(0, max_{j in S} w_ji) over the points i; greedy reaches at least 1 - 1/e of
    its optimum (Nemhauser, Wolsey, Fisher 1978). Lazy evaluation (Minoux 1978) gives the picks of the plain loop
    exactly; of equal gains the lower row is picked. Ctrl-C works.

    Args:
        indptr: [candidates + 1] whole numbers, the rows of a sparse matrix in CSR form.
        indices: [entries] points that a candidate represents: 0 to rows - 1, each at most once a candidate.
        weights: [entries] float32 similarities w_ji; those below 0 never count.
        n: how many candidates to pick, 1 to their number.
        rows: points there are; with a square matrix the number of candidates.

    Returns:
        [n] int64 candidates in the order of picking, and [n] float64 what each added to F, never rising.

    Raises:
        ArrayError: wrong shapes or dtypes, an index out of range or twice in a row, or a weight not finite.
    """
    pointers, points = _whole_numbers(indptr, "indptr"), _whole_numbers(indices, "indices")
    values = np.asarray(weights)
    if values.ndim != 1 or values.dtype != np.float32 or len(values) != len(points):
        raise ArrayError(f"weights must be float32 [{len(points)}], found {values.dtype} {list(values.shape)}")
    if len(pointers) < 1:
        raise ArrayError("indptr must have one entry more than there are candidates, found 0")
    count = _count(n, len(pointers) - 1)
    return _core.facility_location(pointers, points, np.ascontiguousarray(values), count, operator.index(rows))


def _whole_numbers(values: Any, name: str) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ArrayError(f"{name} must be 1-dimensional and of whole numbers, found {array.dtype} {list(array.shape)}")
    return np.ascontiguousarray(array, np.int64)


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
