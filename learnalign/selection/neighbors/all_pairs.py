"""Every row against every row, in tiles of a torch matrix product: of bytes (`int8`) or of float16 (`flat` on a GPU).

Products of bytes are summed exactly in int32 (`torch._int_mm`); float16 is summed in float32. Both run on a CPU too,
which is where they are tested; there int8 is fast where the processor multiplies bytes (VNNI).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from learnalign.scoring.rows import Floats, Integers
from learnalign.selection.neighbors.largest import largest
from learnalign.selection.neighbors.packages import torch_module
from learnalign.selection.neighbors.vectors import Bytes

FEWEST_ROWS = 17
"""Rows of the left matrix that `torch._int_mm` asks for on a GPU; those of the right one come in eights."""
QUERIES = 2048
BYTES_A_PRODUCT = 16
"""Of memory: int32, float32, and what selecting the largest takes."""
LARGEST_TILE = 1 << 16

Found = Iterator[tuple[Integers, Integers]]
"""(queries [q], the rows found for each [q, fetch])."""


def bytes_in_tiles(z: Bytes, fetch: int, room: int) -> Found:
    """All pairs of bytes, the best `fetch` of every row kept; about `room` bytes of memory beside them."""

    def products(queries: slice, others: slice) -> Any:
        return byte_products(z.values[queries], z.values[others]).float().mul_(z.scale[others])

    return _in_tiles(products, len(z.values), fetch, *tiles(room, fetch))


def byte_products(left: Any, right: Any) -> Any:
    """[q, n] int32 products of [q, d] and [n, d] int8 rows, d a multiple of 8. Exact for d <= `WIDEST_BYTES`."""
    torch = torch_module()
    count, width = len(left), len(right)
    left = torch.nn.functional.pad(left, (0, 0, 0, max(FEWEST_ROWS - count, 0)))
    right = torch.nn.functional.pad(right, (0, 0, 0, -width % 8))
    return torch._int_mm(left, right.T)[:count, :width]


def on_device(vectors: Floats, device: str, tile: int = 8192) -> Any:
    """The vectors as a torch tensor on the device: float16 of a common scale on a GPU, float32 elsewhere."""
    torch = torch_module()
    half = torch.device(device).type == "cuda"
    scale = float(max(vectors.max(initial=0.0), -vectors.min(initial=0.0))) or 1.0  # small products leave float16
    base = torch.empty(vectors.shape, dtype=torch.float16 if half else torch.float32, device=device)
    for start in range(0, len(vectors), tile):
        base[start : start + tile] = torch.from_numpy(vectors[start : start + tile]).to(device) / scale
    return base


def tiled(base: Any, fetch: int, tile: int = 8192) -> Found:
    """All pairs of what `on_device` gives, the best `fetch` of every row kept."""
    return _in_tiles(lambda queries, others: base[queries] @ base[others].T, len(base), fetch, tile, tile)


def tiles(room: int, fetch: int) -> tuple[int, int]:
    """Queries and rows of a tile whose products take about `room` bytes; a multiple of 32 rows, 32 x fetch of them."""
    width = int(np.clip(room // (QUERIES * BYTES_A_PRODUCT), 4 * fetch, LARGEST_TILE))
    return QUERIES, width + -width % 32


def _in_tiles(products: Callable[[slice, slice], Any], rows: int, fetch: int, high: int, wide: int) -> Found:
    torch = torch_module()
    for start in range(0, rows, high):
        queries = slice(start, min(start + high, rows))
        best, at = [], []
        for other in range(0, rows, wide):
            values, columns = largest(products(queries, slice(other, other + wide)), fetch)
            best.append(values)
            at.append(columns + other)
        kept = torch.cat(best, 1).topk(min(fetch, rows), dim=1)
        yield np.arange(queries.start, queries.stop), torch.cat(at, 1).gather(1, kept.indices).cpu().numpy()
