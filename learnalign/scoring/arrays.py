"""What arrays `score` and `select` accept, checked once: shape, dtype, place, and what to do about what does not fit.

This module computes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from learnalign.errors import ArrayError

NO_DIRECTION = (
    "target: no prompt of the target set has a gradient (0 < p < 1): take easier or harder ones, or more responses"
)
SHOWN_ROWS = 5
"""Row numbers that an error message lists before it stops."""


def sketch_array(phi: Any, name: str = "phi") -> npt.NDArray[Any]:
    """`phi` as a C-contiguous [N, d] float16, float32, float64 or int8 array; a copy only where it is not one.

    int8 is what a store keeps (`SketchReader.shards`): a row's scale cancels in its direction.

    Raises:
        ArrayError: another shape or dtype, or a tensor that is not on the CPU.
    """
    array = as_numpy(phi, name)
    if array.ndim != 2:
        raise ArrayError(f"{name} must have shape [N, d] (one row a prompt), found {list(array.shape)}")
    if array.dtype != np.int8 and (array.dtype.kind != "f" or array.dtype.itemsize not in (2, 4, 8)):
        raise ArrayError(f"{name} must be float16, float32, float64 or int8, found {array.dtype}: convert it first")
    return native(array, name)


def target_array(target: Any, dimension: int) -> npt.NDArray[Any]:
    """`target` as `sketch_array` of at least one row of `dimension` numbers. Raises `ArrayError`."""
    goal = sketch_array(target, "target")
    if len(goal) == 0 or goal.shape[1] != dimension:
        raise ArrayError(f"target must have shape [M, {dimension}] with M > 0, found {list(goal.shape)}")
    return goal


def as_numpy(values: Any, name: str) -> npt.NDArray[Any]:
    """NumPy's view of an array or a CPU tensor, detached. Tensors are known by their methods: torch is not imported.

    Raises:
        ArrayError: a masked array, whose gaps NumPy would fill with what lies below; a tensor that NumPy has no view
            of (another device, sparse, bfloat16, float8, quantized); or no array of numbers.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise ArrayError(f"{name} is a masked array: pass {name}.filled(...) or drop the rows that are masked")
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "detach") and hasattr(values, "numpy"):
        return _tensor_as_numpy(values, name)
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ArrayError(f"{name} must be an array of numbers: {error}") from error


def _tensor_as_numpy(tensor: Any, name: str) -> npt.NDArray[Any]:
    layout, dtype = str(tensor.layout).removeprefix("torch."), str(tensor.dtype).removeprefix("torch.")
    if layout != "strided":
        raise ArrayError(f"{name} is a {layout} tensor: pass {name}.to_dense()")
    if tensor.device.type != "cpu":
        raise ArrayError(f"{name} must be on the CPU, found it on {tensor.device}: pass {name}.cpu()")
    if dtype == "bfloat16" or dtype.startswith("float8"):
        raise ArrayError(f"{name} is {dtype}, which NumPy does not have: pass {name}.float()")
    try:
        array: npt.NDArray[Any] = tensor.detach().resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError) as error:
        raise ArrayError(f"{name} is a {dtype} tensor that NumPy cannot look at: {error}") from error
    return array


def native(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """The array in the machine's byte order, C-contiguous and aligned. Raises `ArrayError` for objects."""
    if array.dtype.hasobject:
        raise ArrayError(f"{name} must hold numbers, found dtype {array.dtype}")
    return np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "A"])


def column(values: Any, name: str, rows: int) -> npt.NDArray[np.float64]:
    """One real number a row, as float64 [rows]. Raises `ArrayError`."""
    array = as_numpy(values, name)
    if array.shape != (rows,):
        raise ArrayError(f"{name} must hold one number a row, shape [{rows}], found {list(array.shape)}")
    if array.dtype.kind not in "fiub":
        raise ArrayError(f"{name} must be real numbers, found dtype {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float64)


def refuse_rows(bad: npt.NDArray[np.bool_], values: npt.NDArray[np.float64], rule: str) -> None:
    """Raise `ArrayError` that lists the first rows where `bad` is true, with their values."""
    where = np.flatnonzero(bad)
    if len(where) == 0:
        return
    listed = ", ".join(f"{values[row]:g} in row {row}" for row in where[:SHOWN_ROWS].tolist())
    more = f", ... ({len(where)} rows)" if len(where) > SHOWN_ROWS else ""
    raise ArrayError(f"{rule}, found {listed}{more}")
