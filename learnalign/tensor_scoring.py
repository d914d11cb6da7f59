"""Scores of sketches that are already on a GPU: the two passes of `scoring` in plain torch, in float64, chunk by chunk.

A twin of the C++ scorer: the same quantity from the same formula, equal to it within 1e-12 of the largest |score| on
any device, though not to the bit. The rows are read, never copied as a whole, and only N numbers come back to the host.
This module does not check success rates and does not score stored rows (see `scoring`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from learnalign.errors import ArrayError

CHUNK_NUMBERS = 1 << 25
"""Entries that are widened to float64 at once: 256 MiB."""
SHOWN_ROWS = 5


def score_tensor(
    phi: torch.Tensor, learnability: npt.NDArray[np.float64], target: Any = None
) -> npt.NDArray[np.float64]:
    """score_i = V_i u_i . mean, the mean over the pool's z_j or over the target's unit rows (see `scoring.score`).

    Args:
        phi: [N, d] float16, bfloat16, float32 or float64, on any device.
        learnability: [N] V = p (1 - p).
        target: [M, d] tensor or array, or None.

    Returns:
        [N] float64 on the host.

    Raises:
        ArrayError: wrong shape or dtype, a row that is not finite, or a zero row with V > 0 or in the target.
    """
    phi = phi.detach()
    _check(phi, "phi", None)
    values = torch.from_numpy(learnability).to(phi.device)
    norms = _norms(phi, values > 0.0, "phi")
    weights = torch.where(values > 0.0, values / norms, 0.0)
    if target is None:
        mean = _weighted_sum(phi, weights) / max(len(phi), 1)
    else:
        goal = torch.as_tensor(target).detach().to(phi.device)
        _check(goal, "target", phi.shape[1])
        everyone = torch.ones(len(goal), dtype=torch.bool, device=phi.device)
        mean = _weighted_sum(goal, 1.0 / _norms(goal, everyone, "target")) / len(goal)
    scores = weights * _map_rows(phi, lambda part: part @ mean)
    found: npt.NDArray[np.float64] = scores.cpu().numpy()
    return found


def _check(rows: torch.Tensor, name: str, dimension: int | None) -> None:
    if rows.dim() != 2 or (dimension is not None and (rows.shape[1] != dimension or len(rows) == 0)):
        wanted = "[N, d] (one row a prompt)" if dimension is None else f"[M, {dimension}] with M > 0"
        raise ArrayError(f"{name} must have shape {wanted}, found {list(rows.shape)}")
    if not rows.is_floating_point():
        raise ArrayError(f"{name} must be floating point, found {rows.dtype}: convert it first")


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


def _norms(rows: torch.Tensor, needed: torch.Tensor, name: str) -> torch.Tensor:
    """Lengths of all rows, computed at the scale of a row's largest entry, so that no square leaves float64's range."""

    def length(part: torch.Tensor) -> torch.Tensor:
        largest = part.abs().amax(dim=1, keepdim=True) if part.shape[1] else part.new_zeros((len(part), 1))
        unit = torch.where(largest > 0.0, largest, 1.0)
        return (part / unit).square().sum(dim=1).sqrt() * unit[:, 0]

    norms = _map_rows(rows, length)
    _refuse(~torch.isfinite(norms), f"{name} must be finite: NaN or infinity", "drop or repair these rows")
    _refuse(
        (norms == 0.0) & needed, f"{name} has no direction (all zeros)", "drop these rows or compute their gradients"
    )
    return norms


def _refuse(bad: torch.Tensor, what: str, advice: str) -> None:
    where = bad.nonzero()[:, 0].tolist()
    if where:
        more = f", ... ({len(where)} rows)" if len(where) > SHOWN_ROWS else ""
        raise ArrayError(f"{what} in row {', '.join(map(str, where[:SHOWN_ROWS]))}{more}; {advice}")
