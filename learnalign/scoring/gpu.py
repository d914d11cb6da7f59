"""Scores of sketches that are already on a GPU: the two passes of `scoring` in plain torch, in float64, chunk by chunk.

The quantity of the C++ scorer from the same formula, equal to it within 1e-12 of the largest |score| on
any device, though not to the bit. The rows are read, never copied as a whole, and only N numbers come back to the
host. int8 rows on a GPU have kernels (`learnalign.kernels.score_triton`) that read them twice and widen nothing in
memory; they sum in float32, within 1e-6 of the product of a row's learnability and the mean's norm. This module does
not check success rates and does not score stored rows (see `scoring`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from learnalign.errors import ArrayError
from learnalign.scoring.arrays import NO_DIRECTION, SHOWN_ROWS

CHUNK_NUMBERS = 1 << 25
"""Entries that are widened to float64 at once: 256 MiB."""


def score_tensor(
    phi: torch.Tensor, learnability: npt.NDArray[np.float64], target: Any = None
) -> npt.NDArray[np.float64]:
    """score_i = V_i u_i . mean, the mean over the pool's z_j or over the target's unit rows (see `scoring.score`).

    Args:
        phi: [N, d] float16, bfloat16, float32 or float64, or int8 as a store keeps rows (their scales cancel), on any
            device.
        learnability: [N] V = p (1 - p).
        target: [M, d] tensor or array, or None.

    Returns:
        [N] float64 on the host.

    Raises:
        ArrayError: wrong shape or dtype, a row that is not finite, or a zero row with V > 0 that is not int8,
            or a target of zero rows alone (others of a target are left out).
    """
    phi = phi.detach()
    _check(phi, "phi", None)
    values = torch.from_numpy(learnability).to(phi.device)
    norms, total = _norms_and_sum(phi, values, "phi", zero_rows_refused=phi.dtype != torch.int8)
    mean = total / max(len(phi), 1)
    if target is not None:
        goal = torch.as_tensor(target).detach().to(phi.device)
        _check(goal, "target", phi.shape[1])
        everyone = torch.ones(len(goal), dtype=torch.float64, device=phi.device)
        target_norms, target_sum = _norms_and_sum(goal, everyone, "target", zero_rows_refused=False)
        directions = int(torch.count_nonzero(target_norms))
        if not directions:
            raise ArrayError(NO_DIRECTION)
        mean = target_sum / directions
    scores = _weights(values, norms) * _dots(phi, mean)
    found: npt.NDArray[np.float64] = scores.cpu().numpy()
    return found


def backend(rows: torch.Tensor) -> Literal["triton", "torch"]:
    """Which code reads these rows: kernels where they are int8, on CUDA, not too long, and Triton is installed."""
    if rows.dtype == torch.int8 and rows.device.type == "cuda" and rows.stride(1) == 1 and find_spec("triton"):
        from learnalign.kernels.score_triton import WIDEST

        if 0 < rows.shape[1] <= WIDEST:
            return "triton"
    return "torch"


def _check(rows: torch.Tensor, name: str, dimension: int | None) -> None:
    if rows.dim() != 2 or (dimension is not None and (rows.shape[1] != dimension or len(rows) == 0)):
        wanted = "[N, d] (one row a prompt)" if dimension is None else f"[M, {dimension}] with M > 0"
        raise ArrayError(f"{name} must have shape {wanted}, found {list(rows.shape)}")
    if not rows.is_floating_point() and rows.dtype != torch.int8:
        raise ArrayError(f"{name} must be floating point or int8, found {rows.dtype}: convert it first")


def _norms_and_sum(
    rows: torch.Tensor, values: torch.Tensor, name: str, zero_rows_refused: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Norms [N] and sum_i values_i rows_i / |rows_i| [d], float64; zero rows are refused or add nothing."""
    needed = values > 0.0 if zero_rows_refused else torch.zeros_like(values, dtype=torch.bool)
    if backend(rows) == "triton":
        from learnalign.kernels.score_triton import norms_and_sum

        norms32, total = norms_and_sum(rows, values.float())
        norms = norms32.double()
        _refuse_without_direction(norms, needed, name)
        return norms, total
    norms = _norms(rows)
    _refuse_without_direction(norms, needed, name)
    return norms, _weighted_sum(rows, _weights(values, norms))


def _weights(values: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    return torch.where((values > 0.0) & (norms > 0.0), values / norms, 0.0)


def _dots(rows: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Float64 [N]."""
    if backend(rows) == "triton":
        from learnalign.kernels.score_triton import dots

        found: torch.Tensor = dots(rows, vector.float()).double()
        return found
    return _map_rows(rows, lambda part: part @ vector)


def _chunks(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    for part in torch.split(rows, max(1, CHUNK_NUMBERS // max(rows.shape[1], 1))):
        yield part.double()


def _map_rows(rows: torch.Tensor, one: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """One number a row."""
    found = [one(part) for part in _chunks(rows)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=rows.device)


def _weighted_sum(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    start = 0
    for part in _chunks(rows):
        total += weights[start : start + len(part)] @ part
        start += len(part)
    return total


def _norms(rows: torch.Tensor) -> torch.Tensor:
    """Norms of all rows, computed at the scale of a row's largest entry, so that no square leaves float64's range."""

    def norm(part: torch.Tensor) -> torch.Tensor:
        largest = part.abs().amax(dim=1, keepdim=True) if part.shape[1] else part.new_zeros((len(part), 1))
        unit = torch.where(largest > 0.0, largest, 1.0)
        return (part / unit).square().sum(dim=1).sqrt() * unit[:, 0]

    return _map_rows(rows, norm)


def _refuse_without_direction(norms: torch.Tensor, needed: torch.Tensor, name: str) -> None:
    _refuse(~torch.isfinite(norms), f"{name} must be finite: NaN or infinity", "drop or repair these rows")
    _refuse(
        (norms == 0.0) & needed, f"{name} has no direction (all zeros)", "drop these rows or compute their gradients"
    )


def _refuse(bad: torch.Tensor, what: str, advice: str) -> None:
    where = bad.nonzero()[:, 0].tolist()
    if where:
        more = f", ... ({len(where)} rows)" if len(where) > SHOWN_ROWS else ""
        raise ArrayError(f"{what} in row {', '.join(map(str, where[:SHOWN_ROWS]))}{more}; {advice}")
