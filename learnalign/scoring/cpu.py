"""The LearnAlign score of every prompt: its learnability, times how much its gradient agrees with the pool's.

With V_i = p_i (1 - p_i), u_i = phi_i / |phi_i| and z_i = V_i u_i (Li et al., arXiv 2506.11480),

    score_i = mean_j S_ij = mean_j z_i . z_j = z_i . (mean_j z_j),    the diagonal included,

so two streaming passes in C++ give the exact quantity and the N x N matrix never exists. Sums run in float64 and in a
fixed order, for int8 rows in exact integers: any number of threads, any split into shards and any SIMD path give the
same bits. Two things are rounded beyond float64. For int8 rows the weights V_j / |q_j|, by at most 2^-30 of the largest
of their block of 1,024 rows, and the mean, by at most 2^-30 of its largest entry: together less than 1e-10 of |z||m|
on the dense rows of d = 4,096 that the tests hold it to. For float16 rows both are rounded to 42 bits: less than 5e-13
there. Their squares are summed in compensated float32, whose error grows with d and with the range of the entries:
where these span many orders of magnitude a score may be off by 2e-11 of itself at d = 8,192, by 1e-9 at 65,536.
This module does not choose prompts (see `selection`) or read files (see `store`). Tensors on a GPU are scored there, by
`gpu`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign import _core
from learnalign.errors import ArrayError
from learnalign.scoring.arrays import NO_DIRECTION, as_numpy, column, native, refuse_rows, sketch_array, target_array
from learnalign.scoring.floats import ieee_floats
from learnalign.scoring.learnability import learnability_of


class Scores(NamedTuple):
    """Scores and alignments of N rows."""

    score: npt.NDArray[np.float64]
    """[N] score_i = V_i u_i . mean_j z_j; exactly 0 where V_i = 0."""
    alignment: npt.NDArray[np.float64]
    """[N] cosine of row i with the pool's mean z, in [-1, 1]; 0 where either is zero."""


@ieee_floats()
def score(phi: Any, success_rate: Any, *, target: Any = None) -> npt.NDArray[np.float64]:
    """Score every row of `phi` against the mean of all rows: score_i = mean_j S_ij, exactly.

    With a target the pool's mean is replaced by that of the target's M unit gradients t_j / |t_j|:
    score_i = V_i u_i . (1 / M) sum_j t_j / |t_j|, the mean cosine to the target times the learnability (LESS, Xia et
    al., arXiv 2402.04333, ranks by such a similarity).

    Args:
        phi: [N, d] gradient sketches, one row a prompt, any norm: float16, float32 or float64, as a NumPy
            array, a memory map or a tensor; or int8, as a store keeps rows. Float64 rows are never rounded to less. A
            tensor on a GPU is scored there (`learnalign.scoring.gpu`), and may be bfloat16, too.
        success_rate: [N] share p of correct responses, in [0, 1]. Rows with p = 0 or 1 teach nothing: they
            count in the mean's N, score exactly 0, and may be all zeros.
        target: [M, d] sketches made with the same seed, any norm; rows of zeros are left out. They need no success
            rate.

    Returns:
        [N] float64 scores, in the order of the rows.

    Raises:
        ArrayError: wrong shape or dtype, NaN or infinity anywhere, p outside [0, 1], or an all-zero row with
            0 < p < 1; the message names the first rows. An int8 row may be zero: so a store keeps a prompt whose
            gradient was zero, and it scores 0.
    """
    if _on_accelerator(phi):
        on_device = import_module("learnalign.scoring.gpu").score_tensor
        values = learnability_of(success_rate, len(phi))
        scores: npt.NDArray[np.float64] = on_device(phi, values, target)
        return scores
    rows = sketch_array(phi)
    learnability = learnability_of(success_rate, len(rows))
    if target is not None:
        goal = mean_direction([target_array(target, rows.shape[1])])
        return Scores(*_core.score_rows([rows], learnability, goal, 1, _zero_rows_refused(rows), 0)).score
    return Scores(*_core.score_rows([rows], learnability, None, len(rows), _zero_rows_refused(rows), 0)).score


@ieee_floats()
def score_against(
    shards: Sequence[npt.NDArray[Any]], learnability: npt.NDArray[np.float64], mean: npt.NDArray[np.float64]
) -> Scores:
    """Scores and alignments [N] of stored rows against m_T, a target's `mean_direction` [d].

    As LESS (Xia et al. 2024, arXiv 2402.04333) selects for a validation set: score_i = V_i u_i . m_T. Rows with V = 0
    score exactly 0. Raises `ArrayError` where the target has another dimension.
    """
    if shards and shards[0].shape[1] != len(mean):
        raise ArrayError(f"the target's sketches have {len(mean)} numbers a row, the pool's {shards[0].shape[1]}")
    return Scores(*_core.score_rows(list(shards), np.ascontiguousarray(learnability, np.float64), mean, 1, False, 0))


@ieee_floats()
def mean_direction(shards: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """[d] m_T = mean of t_j / |t_j| over a target set's rows; rows of zeros, which have no direction, are left out.

    Raises:
        ArrayError: no row has a direction, or one is not finite.
    """
    arrays = [shard for shard in shards if len(shard)]
    try:
        total, directed = _core.sum_unit_rows(arrays, np.ones(sum(map(len, arrays))), False, 0)
    except ArrayError as error:
        raise ArrayError(f"target: {error}") from None
    if not directed:
        raise ArrayError(NO_DIRECTION)
    return total / directed


@ieee_floats()
def sum_unit_rows(rows: npt.NDArray[Any], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[d] sum_j w_j u_j over rows [M, d] without zeros, u the unit rows: the `total` of `score_shards`."""
    return _core.sum_unit_rows([rows], weights, True, 0)[0]


@ieee_floats()
def score_shards(
    shards: Sequence[npt.NDArray[Any]],
    learnability: npt.NDArray[np.float64],
    *,
    pool_size: int,
    scale: npt.NDArray[np.float32] | None = None,
    total: npt.NDArray[np.float64] | None = None,
    threads: int = 0,
) -> Scores:
    """Score stored rows: score_i = V_i u_i . (1 / pool_size) sum_j V_j u_j, and alignment_i.

    u_i is the stored row divided by its own norm, which rounding to int8 leaves up to 1.5 % off 1
    (Student-t entries, d = 8,192; Gaussian ones 0.04 %). Dividing by it keeps every cosine in [-1, 1] and the
    diagonal S_ii at V_i^2, as for unrounded rows, and a row's scale cancels. The error of int8 scores against
    unrounded ones depends on it little: 0.82 to 1.16 times the error without dividing, over d = 64, 1,024 and
    8,192 with Gaussian, Student-t and sparse rows.

    Args:
        shards: [rows_k, d] arrays of one dtype (int8, float16, float32 or float64), in row order.
        learnability: [rows] V_i >= 0, p (1 - p) or an unbiased estimate of it.
        pool_size: prompts in the mean, at least the number of rows; prompts without a row count as z = 0.
        scale: [rows] scales of int8 rows. They are checked (finite, not negative) and cancel.
        total: [d] sum_j V_j u_j where it is already known (`SketchReader.total`): then one pass over the rows does.
        threads: 0 uses every core. The result does not depend on it.

    Raises:
        ArrayError: wrong shape or dtype, a value that is not finite, or pool_size < rows. A zero row is no
            error here: it is how a store keeps a prompt whose gradient was zero or excluded, and scores 0.
    """
    arrays = [native(as_numpy(shard, f"shard {number}"), f"shard {number}") for number, shard in enumerate(shards)]
    for number, array in enumerate(arrays):
        if array.ndim != 2:
            raise ArrayError(f"shard {number} must have shape [rows, d], found {list(array.shape)}")
    rows = sum(len(array) for array in arrays)
    values = column(learnability, "learnability", rows)
    refuse_rows(~(np.isfinite(values) & (values >= 0.0)), values, "learnability must be finite and >= 0")
    if scale is not None:
        factors = column(scale, "scale", rows)
        refuse_rows(~(np.isfinite(factors) & (factors >= 0.0)), factors, "scale must be finite and >= 0")
    if threads < 0:
        raise ArrayError(f"threads must be 0 (every core) or more, found {threads}")
    if rows > 0 and pool_size < rows:
        raise ArrayError(f"pool_size must be at least the number of rows ({rows}), found {pool_size}")
    if total is not None and arrays:
        total = column(total, "total", arrays[0].shape[1])
        refuse_rows(~np.isfinite(total), total, "total must be finite")
    return Scores(*_core.score_rows(arrays, values, total, pool_size, False, threads))


def _on_accelerator(phi: Any) -> bool:
    """Whether it is a tensor of a device with memory of its own. Tensors are known by their methods."""
    return hasattr(phi, "detach") and hasattr(phi, "device") and phi.device.type not in ("cpu", "meta")


def _zero_rows_refused(rows: npt.NDArray[Any]) -> bool:
    """int8 rows come from a store, which keeps a prompt without a gradient as a row of zeros."""
    return rows.dtype != np.int8
