"""Sketches as rows of one array or of the mapped shards of a store, read some at a time as float32.

A million rows of int8 are 4 GB on the disk and 16 GB as float32: whoever compares rows asks for those they need, and
what is in memory is bounded by what they ask for. This module computes nothing from rows but their norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from learnalign.errors import ArrayError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
SMALLEST, LARGEST = 1e-15, 1e15
"""Norms between which products of float32 rows neither vanish nor overflow."""


class Rows:
    """[N, d] rows over arrays of one width; indexing is by row number through all of them."""

    def __init__(self, shards: Sequence[npt.NDArray[Any]]) -> None:
        """Take [rows_k, d] arrays of int8, float16, float32 or float64. Raises `ArrayError` for other shapes."""
        widths = {shard.shape[1] if shard.ndim == 2 else -1 for shard in shards}
        if len(widths) > 1 or -1 in widths:
            raise ArrayError(f"sketches must be [N, d] arrays of one d, found {[list(s.shape) for s in shards]}")
        self._shards = [shard for shard in shards if len(shard)]
        self._ends = np.cumsum([0, *map(len, self._shards)])
        self.dimension = widths.pop() if widths else 0

    @property
    def shards(self) -> list[npt.NDArray[Any]]:
        """The arrays, without empty ones."""
        return self._shards

    def __len__(self) -> int:
        return int(self._ends[-1])

    def gather(self, rows: Integers) -> Floats:
        """[len(rows), d] float32 copy of these rows as they are stored, in this order."""
        out = np.empty((len(rows), self.dimension), np.float32)
        if len(self._shards) == 1:
            out[:] = self._shards[0][rows]
            return out
        shard_of = np.searchsorted(self._ends, rows, side="right") - 1
        for number, shard in enumerate(self._shards):
            at = np.flatnonzero(shard_of == number)
            if len(at):
                out[at] = shard[rows[at] - self._ends[number]]
        return out

    def unit(self, rows: Integers) -> tuple[Floats, npt.NDArray[np.float64]]:
        """[len(rows), d] float32 rows divided by their own norm, and [len(rows)] the norms; zero rows stay zero.

        Raises:
            ArrayError: a row whose norm float32 cannot work with; the message names it.
        """
        block = self.gather(rows)
        norm = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
        bad = ~((norm == 0) | ((norm >= SMALLEST) & (norm <= LARGEST)))
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise ArrayError(
                f"sketches must have norms from {SMALLEST:g} to {LARGEST:g} to be compared, "
                f"found {norm[first]:g} in row {rows[first]}: multiply all of them by one number"
            )
        block /= np.where(norm > 0, norm, 1.0)[:, None].astype(np.float32)
        return block, norm


def blocks(rows: Integers, size: int) -> Iterator[Integers]:
    """Consecutive parts of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
