"""What a search compares: rows z_i = w_i phi_i / |phi_i|, whole or folded, as float32 or as bytes with a scale.

Folding multiplies by random signs and adds buckets up, a count-sketch: inner products stay unbiased, with noise of
about 1/sqrt(buckets). Bytes of rows that are stored as int8 are those rows: their products are exact. This module
searches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign.scoring.rows import Floats, Integers, Rows, blocks
from learnalign.selection.neighbors.packages import torch_module

TOGETHER = 2048
"""Rows converted together; bounds what a block holds."""
WIDEST_BYTES = (1 << 17) - 8
"""Numbers a row up to which sums of products of two bytes fit into int32."""

SMALLEST_STEP = 1e-38
"""Guards a division: a row of zeros stays zero."""


class Bytes(NamedTuple):
    """Rows as z_i = scale_i values_i, both torch tensors on one device."""

    values: Any
    """[m, d'] int8, d' the dimension rounded up to a multiple of 8 with zeros, as tensor cores ask for."""
    scale: Any
    """[m] float32 >= 0; 0 for a row of zeros."""


def folded(rows: Rows, which: Integers, weight: npt.NDArray[np.float64], dimension: int, seed: int) -> Floats:
    """[m, dimension] float32 sketches of z; z itself where `dimension` is the rows' own."""
    out = np.empty((len(which), dimension), np.float32)
    start = 0
    for block in _folded_blocks(rows, which, weight, dimension, seed):
        out[start : start + len(block)] = block
        start += len(block)
    return out


def _folded_blocks(
    rows: Rows, which: Integers, weight: npt.NDArray[np.float64], dimension: int, seed: int
) -> Iterator[Floats]:
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), rows.dimension)
    missing = -rows.dimension % dimension
    for part in blocks(np.arange(len(which)), TOGETHER):
        block = rows.unit(which[part])
        block *= weight[part, None].astype(np.float32)
        if rows.dimension != dimension:
            padded = np.pad(block * signs, ((0, 0), (0, missing)))
            block = padded.reshape(len(part), -1, dimension).sum(axis=1)
        yield block


def stored_as_bytes(rows: Rows) -> bool:
    """Whether the rows are int8 already, so that their products as bytes are exact."""
    return all(shard.dtype == np.int8 for shard in rows.shards)


def as_bytes(
    rows: Rows, which: Integers, weight: npt.NDArray[np.float64], dimension: int, seed: int, device: str
) -> Bytes:
    """z as bytes on a torch device: stored int8 rows as they are, others rounded to 127 steps of their largest entry.

    Raises:
        ArrayError: a row that is not finite; the message names it.
    """
    torch = torch_module()
    m = len(which)
    values = torch.zeros((m, dimension + -dimension % 8), dtype=torch.int8, device=device)
    scale = torch.empty(m, dtype=torch.float32, device=device)
    if stored_as_bytes(rows) and dimension == rows.dimension:
        for part in blocks(np.arange(m), TOGETHER):
            stored = rows.gather(which[part])
            block = stored.astype(np.float32)
            norm = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
            values[part[0] : part[0] + len(part), :dimension] = torch.from_numpy(stored).to(device)
            factor = np.divide(weight[part], norm, out=np.zeros(len(part)), where=norm > 0)
            scale[part[0] : part[0] + len(part)] = torch.from_numpy(factor.astype(np.float32)).to(device)
        return Bytes(values, scale)
    start = 0
    for z in _folded_blocks(rows, which, weight, dimension, seed):
        moved = torch.from_numpy(z).to(device)
        step = moved.abs().amax(1, keepdim=True) / 127
        values[start : start + len(z), :dimension] = (moved / step.clamp(min=SMALLEST_STEP)).round_().to(torch.int8)
        scale[start : start + len(z)] = step[:, 0]
        start += len(z)
    return Bytes(values, scale)
