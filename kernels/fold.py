"""The signed fold of per-prompt weight gradients: what it is, in plain torch, and which kernel does it where.

For a linear layer with inputs x [T, n] and output gradients delta [T, m] the weight gradient of prompt s is
W_s = sum over its tokens of delta_t x_t^T, [m, n]. Its sketch multiplies every entry by a random sign and adds it
into one of d buckets (a count-sketch, or sparse Johnson-Lindenstrauss map), all layers into the same d numbers:

    phi_s[b] += sum over entries (r, c) with bucket(r, c) = b of sign(r, c) W_s[r, c]

so that E[phi_s . phi_t] = <W_s, W_t>. Signs and buckets come from `signs`. `fold_segments` hands the work to
`fold_native` (CPU) or `fold_triton` (CUDA). `fold_reference` is the reference implementation of
both: right and bounded, not fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Literal

import torch
from learnalign.kernels.precision import plain_float32
from learnalign.kernels.signs import TILE, bucket_masks, signs
from torch import Tensor

TILE_ENTRIES = TILE * TILE
BAND_ENTRIES = 1 << 24


def backend(phi: Tensor) -> Literal["native", "triton", "reference"]:
    """Which code adds to phi: float32 rows have a kernel on CPU and on CUDA (there with Triton installed only).

    Everything else, float64 above all, goes to plain torch, which gives the same sums up to rounding.
    """
    if phi.dtype == torch.float32 and phi.is_contiguous():
        if phi.device.type == "cpu":
            return "native"
        if phi.device.type == "cuda" and find_spec("triton"):
            return "triton"
    return "reference"


def fold_segments(
    phi: Tensor,
    delta: Tensor,
    x: Tensor,
    offsets: Sequence[int],
    *,
    layer: int,
    seed: int,
    first_row: int = 0,
    scale: float = 1.0,
) -> None:
    """Add every segment's folded weight gradient to its row of phi, in place.

    phi: [S, d] float32 or float64, d a power of two and at least 128.
    delta: [T, m], x: [T, n], any floating dtype; products are summed in phi's dtype.
    offsets: S + 1 increasing token numbers; segment s holds tokens offsets[s] to offsets[s + 1]; may be empty.
    layer: 32-bit key of the weight matrix. seed: 64-bit key of the whole map. first_row: the matrix's row that
    delta's first column belongs to, a multiple of 128 (a vocabulary head may come in pieces). scale: multiplies what
    is added; products are made of delta as it is, in the units for narrow numbers where delta and x are narrow.
    The same call gives the same bits every time. Raises ValueError for shapes that do not fit together.
    """
    _check(phi, delta, x, offsets, first_row)
    delta, x = delta.detach(), x.detach()
    match backend(phi):
        case "native":
            from learnalign.kernels.fold_native import fold_native

            fold_native(phi, delta, x, offsets, layer=layer, seed=seed, first_row=first_row, scale=scale)
        case "triton":
            from learnalign.kernels.fold_triton import fold_triton

            fold_triton(phi, delta, x, offsets, layer=layer, seed=seed, first_row=first_row, scale=scale)
        case "reference":
            with plain_float32():
                fold_reference(phi, delta, x, offsets, layer=layer, seed=seed, first_row=first_row, scale=scale)


def fold_reference(
    phi: Tensor,
    delta: Tensor,
    x: Tensor,
    offsets: Sequence[int],
    *,
    layer: int,
    seed: int,
    first_row: int = 0,
    scale: float = 1.0,
) -> None:
    """`fold_segments` in plain torch on any device; W_s is made in bands of at most `BAND_ENTRIES` numbers."""
    segments, columns = phi.shape[0], x.shape[1]
    if segments == 0:
        return
    x = x.to(phi.dtype)
    band = max(1, BAND_ENTRIES // max(1, segments * columns * TILE)) * TILE
    for first in range(0, delta.shape[1], band):
        part = delta[:, first : first + band].to(phi.dtype) * scale
        gradient = torch.stack([part[a:b].T @ x[a:b] for a, b in pairwise(offsets)])
        fold_matrices(phi, gradient, layer=layer, seed=seed, first_row=first_row + first)


def fold_matrices(phi: Tensor, matrices: Tensor, *, layer: int, seed: int, first_row: int = 0) -> None:
    """Add the fold of whole matrices to phi, in place.

    phi: [S, d]. matrices: [S, r, n], rows first_row to first_row + r of [m, n] matrices; first_row must be a
    multiple of 128. A fixed order of additions makes the result independent of how calls are split into bands
    of whole tiles up to rounding, and reproducible to the bit for the same calls.
    """
    segments, rows, columns = matrices.shape
    dimension, device = phi.shape[1], phi.device
    row_tiles, column_tiles = -(-rows // TILE), -(-columns // TILE)
    row_numbers = torch.arange(first_row, first_row + row_tiles * TILE, device=device)
    signed = matrices.new_zeros(segments, row_tiles * TILE, column_tiles * TILE)
    signed[:, :rows, :columns] = matrices
    signed *= signs(seed, layer, row_numbers, columns)
    tiles = signed.view(segments, row_tiles, TILE, column_tiles, TILE).transpose(2, 3)
    tiles = tiles.reshape(segments, row_tiles * column_tiles, TILE_ENTRIES)
    width = min(dimension, TILE_ENTRIES)
    if width < TILE_ENTRIES:
        tiles = tiles.view(segments, -1, TILE_ENTRIES // width, width).sum(2)
    tile_rows = torch.arange(first_row // TILE, first_row // TILE + row_tiles, device=device)
    masks = bucket_masks(seed, layer, tile_rows, column_tiles, dimension).reshape(-1)
    lanes = torch.arange(width, device=device)
    for block in range(dimension // width):  # more than one only where d exceeds a tile
        here = masks // width == block
        index = lanes ^ (masks[here, None] & (width - 1))  # XOR is its own inverse: a gather is the scatter
        landed = tiles[:, here].gather(2, index.expand(segments, -1, -1)).sum(1)
        phi[:, block * width : (block + 1) * width] += landed


def _check(phi: Tensor, delta: Tensor, x: Tensor, offsets: Sequence[int], first_row: int) -> None:
    if phi.ndim != 2 or delta.ndim != 2 or x.ndim != 2:
        raise ValueError(f"phi, delta and x must have 2 axes, found {phi.shape}, {delta.shape}, {x.shape}")
    if delta.shape[0] != x.shape[0]:
        raise ValueError(f"delta has {delta.shape[0]} tokens, x has {x.shape[0]}")
    if not phi.device == delta.device == x.device:
        raise ValueError(f"phi, delta and x must share a device, found {phi.device}, {delta.device}, {x.device}")
    if first_row < 0 or first_row % TILE:
        raise ValueError(f"first_row must be a multiple of {TILE}, found {first_row}")
    dimension = phi.shape[1]
    if dimension < TILE or dimension & (dimension - 1):
        raise ValueError(f"the dimension must be a power of two of at least {TILE}, found {dimension}")
    steps = [b - a for a, b in pairwise(offsets)]
    if len(steps) != phi.shape[0] or offsets[0] < 0 or offsets[-1] > x.shape[0] or min(steps, default=0) < 0:
        raise ValueError(
            f"offsets must rise from 0 to at most {x.shape[0]} in {phi.shape[0]} steps, found {list(offsets)}"
        )
