"""The two rankings of the C++ core, with their arguments checked: the best by score, and greedy facility location.

They know nothing of prompts, sketches or neighbors: `strategies` and `greedy` build on them.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from learnalign import _core
from learnalign.errors import ArrayError
from learnalign.scoring.arrays import as_numpy


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
    scores, values = as_numpy(score, "score"), as_numpy(learnability, "learnability")
    if scores.ndim != 1 or scores.shape != values.shape:
        raise ArrayError(
            "score and learnability must be 1-dimensional and of one length, "
            f"found shapes {list(scores.shape)} and {list(values.shape)}"
        )
    count = count_of(n, len(scores))
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
    values = as_numpy(weights, "weights")
    if values.ndim != 1 or values.dtype != np.float32 or len(values) != len(points):
        raise ArrayError(f"weights must be float32 [{len(points)}], found {values.dtype} {list(values.shape)}")
    if len(pointers) < 1:
        raise ArrayError("indptr must have one entry more than there are candidates, found 0")
    count = count_of(n, len(pointers) - 1)
    return _core.facility_location(pointers, points, np.ascontiguousarray(values), count, operator.index(rows))


def _whole_numbers(values: Any, name: str) -> npt.NDArray[np.int64]:
    array = as_numpy(values, name)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ArrayError(f"{name} must be 1-dimensional and of whole numbers, found {array.dtype} {list(array.shape)}")
    return np.ascontiguousarray(array, np.int64)


def count_of(n: int, rows: int) -> int:
    """n as an int from 1 to `rows`. Raises `ArrayError` for anything else."""
    try:
        count = operator.index(n)
    except TypeError:
        raise ArrayError(f"n (how many rows to select) must be a whole number, found {n!r}") from None
    if isinstance(n, bool) or not 1 <= count <= rows:
        raise ArrayError(f"n (how many rows to select) must lie between 1 and {rows} (all rows), found {n}")
    return count
