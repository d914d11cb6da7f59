"""Sketches as rows of one array or of the mapped shards of a store, read some at a time as float32.

A million rows of int8 are 4 GB on the disk and 16 GB as float32: whoever compares rows asks for those they need, and
what is in memory is bounded by what they ask for. This module computes nothing from rows but their direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from learnalign.errors import ArrayError
from learnalign.scoring.arrays import native

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
SMALLEST, LARGEST = 1e-15, 1e15
"""Norms between which products of float32 rows neither vanish nor overflow."""
FAR = 64
"""Rows outside of that range that are widened together."""


class Rows:
    """[N, d] rows over arrays of one width; indexing is by row number through all of them."""

    def __init__(self, shards: Sequence[npt.NDArray[Any]]) -> None:
        """Take [rows_k, d] arrays, all of int8, float16, float32 or float64. Raises `ArrayError` for others."""
        widths = {shard.shape[1] if shard.ndim == 2 else -1 for shard in shards}
        if len(widths) > 1 or -1 in widths:
            raise ArrayError(f"sketches must be [N, d] arrays of one d, found {[list(s.shape) for s in shards]}")
        if len(dtypes := {str(shard.dtype) for shard in shards}) > 1:
            raise ArrayError(f"sketches must be arrays of one dtype, found {', '.join(sorted(dtypes))}")
        self._shards = [native(shard, "sketches") for shard in shards if len(shard)]
        self._ends = np.cumsum([0, *map(len, self._shards)])
        self.dimension = widths.pop() if widths else 0

    @property
    def shards(self) -> list[npt.NDArray[Any]]:
        """The arrays, without empty ones."""
        return self._shards

    def __len__(self) -> int:
        return int(self._ends[-1])

    def gather(self, rows: Integers) -> npt.NDArray[Any]:
        """[len(rows), d] copy of these rows as they are stored, in this order."""
        if len(self._shards) == 1:
            copied: npt.NDArray[Any] = self._shards[0][rows]
            return copied
        out = np.empty((len(rows), self.dimension), self._shards[0].dtype if self._shards else np.float32)
        shard_of = np.searchsorted(self._ends, rows, side="right") - 1
        for number, shard in enumerate(self._shards):
            at = np.flatnonzero(shard_of == number)
            if len(at):
                out[at] = shard[rows[at] - self._ends[number]]
        return out

    def unit(self, rows: Integers) -> Floats:
        """[len(rows), d] float32 rows divided by their own norm; rows of zeros stay zero.

        Rows whose squares leave float32's range are brought into it first, by a power of two.

        Raises:
            ArrayError: a row that is not finite; the message names it.
        """
        stored = self.gather(rows)
        with np.errstate(over="ignore"):  # of float64 rows
            block = stored.astype(np.float32)
        norm = _norms(block)
        for far in blocks(np.flatnonzero(~((norm >= SMALLEST) & (norm <= LARGEST))), FAR):
            block[far] = _brought_near(stored[far], rows[far])
            norm[far] = _norms(block[far])
        block /= np.where(norm > 0, norm, 1.0)[:, None].astype(np.float32)
        return block


def _norms(block: Floats) -> npt.NDArray[np.float64]:
    norm: npt.NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
    return norm


def _brought_near(stored: npt.NDArray[Any], rows: Integers) -> Floats:
    """Rows times the power of two that brings their largest entry below 1, as float32."""
    wide = stored.astype(np.float64)
    largest = np.abs(wide).max(axis=1, initial=0.0)
    bad = np.flatnonzero(~np.isfinite(largest))
    if len(bad):
        raise ArrayError(f"sketches must be finite: NaN or infinity in row {rows[bad[0]]}; drop or repair it")
    near: Floats = np.ldexp(wide, -np.frexp(largest)[1][:, None]).astype(np.float32)
    return near


def blocks(rows: Integers, size: int) -> Iterator[Integers]:
    """Consecutive parts of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
