"""The LearnAlign score of every prompt: its learnability, times how much its gradient agrees with the pool's.

With V_i = p_i (1 - p_i), u_i = phi_i / |phi_i| and z_i = V_i u_i (Li et al., arXiv 2506.11480),

    score_i = mean_j S_ij = mean_j z_i . z_j = z_i . (mean_j z_j),    the diagonal included,

so two streaming passes in C++ give the exact quantity and the N x N matrix never exists. Sums run in float64 and in a
fixed order, for int8 rows in exact integers: any number of threads, any split into shards and any SIMD path give the
same bits. Two things are rounded beyond float64. For int8 rows the weights V_j / |q_j|, by at most 2^-30 of the largest
of their block of 1,024 rows, and the mean, by at most 2^-30 of its largest entry: together less than 1e-10 of |z||m|
on the dense rows of d = 4,096 that the tests hold it to. For float16 rows both are rounded to 42 bits: less than 5e-13.
This module does not choose prompts (see `selection`) or read files (see `store`). Tensors on a GPU are scored there, by
`tensor_scoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign import _core
from learnalign.errors import ArrayError

SHOWN_ROWS = 5
"""Row numbers that an error message lists before it stops."""


class Scores(NamedTuple):
    """Scores and alignments of N rows."""

    score: npt.NDArray[np.float64]
    """[N] score_i = V_i u_i . mean_j z_j; exactly 0 where V_i = 0."""
    alignment: npt.NDArray[np.float64]
    """[N] cosine of row i with the pool's mean z, in [-1, 1]; 0 where either is zero."""


def score(phi: Any, success_rate: Any, *, target: Any = None) -> npt.NDArray[np.float64]:
    """Score every row of `phi` against the mean of all rows: score_i = mean_j S_ij, exactly.

    With a target the pool's mean is replaced by that of the target's M unit gradients t_j / |t_j|:
    score_i = V_i u_i . (1 / M) sum_j t_j / |t_j|, the mean cosine to the target times the learnability (LESS, Xia et
    al., arXiv 2402.04333, ranks by such a similarity).

    Args:
        phi: [N, d] gradient sketches, one row a prompt, any length: float16, float32 or float64, as a NumPy
            array, a memory map or a tensor. Float64 rows are never rounded to less. A tensor on a GPU is scored there
            (`learnalign.tensor_scoring`), and may be bfloat16 or a store's int8 rows, too.
        success_rate: [N] share p of correct responses, in [0, 1]. Rows with p = 0 or 1 teach nothing: they
            count in the mean's N, score exactly 0, and may be all zeros.
        target: [M, d] sketches made with the same seed, any length, none of them zero; they need no success rate.

    Returns:
        [N] float64 scores, in the order of the rows.

    Raises:
        ArrayError: wrong shape or dtype, NaN or infinity anywhere, p outside [0, 1], or an all-zero row with
            0 < p < 1 or in the target; the message names the first rows.
    """
    if _on_accelerator(phi):
        on_device = import_module("learnalign.tensor_scoring").score_tensor
        values = learnability_of(success_rate, len(phi))
        scores: npt.NDArray[np.float64] = on_device(phi, values, target)
        return scores
    rows = sketch_array(phi)
    learnability = learnability_of(success_rate, len(rows))
    total, pool = None, len(rows)
    if target is not None:
        goal = _target_array(target, rows.shape[1])
        try:
            total, pool = _core.sum_unit_rows([goal], np.ones(len(goal)), True, 0), len(goal)
        except ArrayError as error:
            raise ArrayError(f"target: {error}") from None
    return Scores(*_core.score_rows([rows], learnability, total, pool, True, 0)).score


def sum_unit_rows(rows: npt.NDArray[Any], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[d] sum_j w_j u_j over rows [M, d] without zeros, u the unit rows: the `total` of `score_shards`."""
    return _core.sum_unit_rows([rows], weights, True, 0)


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

    u_i is the stored row divided by its own length, which rounding to int8 leaves up to 1.5 % off 1
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
            error here: it is how a store keeps a prompt whose gradient was zero or set aside, and scores 0.
    """
    arrays = [_native(np.asarray(shard), f"shard {number}") for number, shard in enumerate(shards)]
    for number, array in enumerate(arrays):
        if array.ndim != 2:
            raise ArrayError(f"shard {number} must have shape [rows, d], found {list(array.shape)}")
    rows = sum(len(array) for array in arrays)
    values = _column(learnability, "learnability", rows)
    _refuse_rows(~(np.isfinite(values) & (values >= 0.0)), values, "learnability must be finite and >= 0")
    if scale is not None:
        factors = _column(scale, "scale", rows)
        _refuse_rows(~(np.isfinite(factors) & (factors >= 0.0)), factors, "scale must be finite and >= 0")
    if threads < 0:
        raise ArrayError(f"threads must be 0 (every core) or more, found {threads}")
    if rows > 0 and pool_size < rows:
        raise ArrayError(f"pool_size must be at least the number of rows ({rows}), found {pool_size}")
    if total is not None and arrays:
        total = _column(total, "total", arrays[0].shape[1])
        _refuse_rows(~np.isfinite(total), total, "total must be finite")
    return Scores(*_core.score_rows(arrays, values, total, pool_size, False, threads))


def _on_accelerator(phi: Any) -> bool:
    """Whether it is a tensor of a device with memory of its own. Tensors are known by their methods."""
    return hasattr(phi, "detach") and hasattr(phi, "device") and phi.device.type not in ("cpu", "meta")


def _target_array(target: Any, dimension: int) -> npt.NDArray[Any]:
    try:
        goal = sketch_array(target)
    except ArrayError as error:
        raise ArrayError(f"target: {error}") from None
    if len(goal) == 0 or goal.shape[1] != dimension:
        raise ArrayError(f"target must have shape [M, {dimension}] with M > 0, found {list(goal.shape)}")
    return goal


def sketch_array(phi: Any) -> npt.NDArray[Any]:
    """`phi` as a C-contiguous [N, d] float16, float32 or float64 array; a copy only where it is not one.

    Raises:
        ArrayError: another shape or dtype, or a tensor that is not on the CPU.
    """
    array = _as_numpy(phi, "phi")
    if array.ndim != 2:
        raise ArrayError(f"phi must have shape [N, d] (one row a prompt), found {list(array.shape)}")
    if array.dtype.kind != "f" or array.dtype.itemsize not in (2, 4, 8):
        raise ArrayError(f"phi must be float16, float32 or float64, found {array.dtype}: convert it first")
    return _native(array, "phi")


def learnability_of(success_rate: Any, rows: int) -> npt.NDArray[np.float64]:
    """V = p (1 - p), float64 [rows].

    Raises:
        ArrayError: another shape, not real numbers, or a p outside [0, 1]; the message names the first rows.
    """
    p = _column(_as_numpy(success_rate, "success_rate"), "success_rate", rows)
    _refuse_rows(~((p >= 0.0) & (p <= 1.0)), p, "success_rate must lie in [0, 1]")
    learnability: npt.NDArray[np.float64] = p * (1.0 - p)
    return learnability


def _as_numpy(values: Any, name: str) -> npt.NDArray[Any]:
    """NumPy's view of an array or a CPU tensor. Tensors are known by their methods: torch is not imported."""
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "detach") and hasattr(values, "numpy"):
        if values.device.type != "cpu":
            raise ArrayError(f"{name} must be on the CPU, found it on {values.device}: pass {name}.cpu()")
        if str(values.dtype) == "torch.bfloat16":
            raise ArrayError(f"{name} is bfloat16, which NumPy does not have: pass {name}.float()")
        array: npt.NDArray[Any] = values.detach().numpy()
        return array
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ArrayError(f"{name} must be an array of numbers: {error}") from error


def _native(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if array.dtype.hasobject:
        raise ArrayError(f"{name} must hold numbers, found dtype {array.dtype}")
    return np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "A"])


def _column(values: Any, name: str, rows: int) -> npt.NDArray[np.float64]:
    array = np.asarray(values)
    if array.shape != (rows,):
        raise ArrayError(f"{name} must hold one number a row, shape [{rows}], found {list(array.shape)}")
    if array.dtype.kind not in "fiub":
        raise ArrayError(f"{name} must be real numbers, found dtype {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float64)


def _refuse_rows(bad: npt.NDArray[np.bool_], values: npt.NDArray[np.float64], rule: str) -> None:
    where = np.flatnonzero(bad)
    if len(where) == 0:
        return
    listed = ", ".join(f"{values[row]:g} in row {row}" for row in where[:SHOWN_ROWS].tolist())
    more = f", ... ({len(where)} rows)" if len(where) > SHOWN_ROWS else ""
    raise ArrayError(f"{rule}, found {listed}{more}")
