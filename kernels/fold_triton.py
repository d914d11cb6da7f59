"""The signed fold on a GPU: tiles of delta^T x stay in registers, and are signed and folded where they were made.

A program owns one segment and every P-th tile of its weight gradient. It adds the folded tiles to a partial sketch
of its own in device memory, and a second kernel adds the P partials in order: no float atomics, the same bits every
time. Nothing here makes float64 sketches or checks shapes: see `fold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from learnalign.kernels.signs import BUCKET_STREAM, SIGN_STREAM, TILE
from torch import Tensor

PROGRAMS = 128
"""Programs of one segment, at most: fixed, so that the order of additions does not depend on the GPU."""
PARTIAL_BYTES = 1 << 28
"""Partial sketches that exist at once; more segments than fit are folded one group after another."""
GRID_LIMIT = 65535
"""CUDA's bound on the second axis of a grid."""
GROUPED_ROWS = 8
"""Tile rows that neighboring programs share, so that the inputs' tiles come from the cache."""
SUM_BLOCK = 256
SUM_DEPTH = 16
"""Buckets of a program of the second kernel, and partial sketches that it takes at a time."""

SETTINGS: dict[torch.dtype, dict[str, int]] = {
    torch.bfloat16: {"BLOCK_T": 64, "num_warps": 8, "num_stages": 3},
    torch.float16: {"BLOCK_T": 64, "num_warps": 8, "num_stages": 3},
    torch.float32: {"BLOCK_T": 32, "num_warps": 8, "num_stages": 2},
}
"""Tokens of a step, warps and pipeline stages, by the inputs' type; the tile itself is part of the sketch."""


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Philox-4x32-10; all arguments uint32 and of one shape. The reference implementation is `signs.philox`."""
    for _ in tl.static_range(10):
        h0, l0 = tl.umulhi(c0, tl.full(c0.shape, 0xD2511F53, tl.uint32)), c0 * tl.full(c0.shape, 0xD2511F53, tl.uint32)
        h1, l1 = tl.umulhi(c2, tl.full(c2.shape, 0xCD9E8D57, tl.uint32)), c2 * tl.full(c2.shape, 0xCD9E8D57, tl.uint32)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0 += tl.full(k0.shape, 0x9E3779B9, tl.uint32)
        k1 += tl.full(k1.shape, 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def tile_words(first_counter, tile_column, layer, stream: tl.constexpr, seed_low, seed_high):
    """Philox words of a block of first counters (int32 of any shape) in one tile column."""
    zero = tl.zeros(first_counter.shape, tl.uint32)
    return philox(
        first_counter.to(tl.uint32),
        zero + tile_column.to(tl.uint32),
        zero + layer.to(tl.uint32),
        zero + stream,
        zero + seed_low.to(tl.uint32),
        zero + seed_high.to(tl.uint32),
    )


@triton.jit
def tile_product(delta, x, begin, end, row, column, rows, columns, delta_stride, x_stride,
                 TILE: tl.constexpr, BLOCK_T: tl.constexpr, WIDEN: tl.constexpr):  # fmt: skip
    """delta[begin:end, row : row + TILE]^T x[begin:end, column : column + TILE], float32 [TILE, TILE]."""
    lanes = tl.arange(0, TILE)
    steps = tl.arange(0, BLOCK_T)
    row_numbers, column_numbers = row + lanes, column + lanes
    product = tl.zeros((TILE, TILE), tl.float32)
    for token in range(begin, end, BLOCK_T):
        tokens = token + steps
        there = (tokens < end)[:, None]
        left = tl.load(delta + tokens[:, None] * delta_stride + row_numbers[None, :],
                       mask=there & (row_numbers < rows)[None, :], other=0.0)  # fmt: skip
        right = tl.load(x + tokens[:, None] * x_stride + column_numbers[None, :],
                        mask=there & (column_numbers < columns)[None, :], other=0.0)  # fmt: skip
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        product = tl.dot(tl.trans(left), right, product, input_precision="ieee")
    return product


@triton.jit
def signed(product, row, tile_column, layer, seed_low, seed_high, TILE: tl.constexpr, STREAM: tl.constexpr):
    """The tile with its signs; row is the tile's first row in the whole matrix."""
    lanes = tl.arange(0, TILE)
    w0, w1, w2, w3 = tile_words(row + lanes, tile_column, layer, STREAM, seed_low, seed_high)
    which = (lanes // 32)[None, :]
    word = tl.where(
        which == 0, w0[:, None], tl.where(which == 1, w1[:, None], tl.where(which == 2, w2[:, None], w3[:, None]))
    )
    bit = (word >> (lanes % 32)[None, :].to(tl.uint32)) & 1
    return tl.where(bit == 0, product, -product)


@triton.jit(do_not_specialize=["first_row", "layer", "seed_low", "seed_high"])
def fold_tiles(partial, delta, x, offsets, rows, columns, delta_stride, x_stride, first_row, layer, seed_low, seed_high,
               DIMENSION: tl.constexpr, TILE: tl.constexpr, BLOCK_T: tl.constexpr, GROUPED_ROWS: tl.constexpr,
               SIGN_STREAM: tl.constexpr, BUCKET_STREAM: tl.constexpr, WIDEN: tl.constexpr):  # fmt: skip
    """Add the fold of this program's tiles to partial[segment, program], partial float32 [S, P, DIMENSION]."""
    segment, program, programs = tl.program_id(1), tl.program_id(0), tl.num_programs(0)
    begin, end = tl.load(offsets + segment), tl.load(offsets + segment + 1)
    mine = partial + (segment.to(tl.int64) * programs + program) * DIMENSION
    tile_rows, tile_columns = tl.cdiv(rows, TILE), tl.cdiv(columns, TILE)
    BLOCKS: tl.constexpr = min(DIMENSION // TILE, TILE)  # blocks of phi that a tile fills; rows go round them
    lanes = tl.arange(0, TILE)
    local = tl.arange(0, BLOCKS)[:, None] * TILE + lanes[None, :]
    tiles = tile_rows * tile_columns
    if end == begin:
        tiles = 0
    for number in range(program, tiles, programs):
        above = number // (GROUPED_ROWS * tile_columns) * GROUPED_ROWS
        height = min(tile_rows - above, GROUPED_ROWS)
        inside = number % (GROUPED_ROWS * tile_columns)
        tile_row, tile_column = above + inside % height, inside // height
        row = tile_row * TILE
        product = tile_product(delta, x, begin, end, row, tile_column * TILE, rows, columns, delta_stride, x_stride,
                               TILE, BLOCK_T, WIDEN)  # fmt: skip
        product = signed(product, first_row + row, tile_column, layer, seed_low, seed_high, TILE, SIGN_STREAM)
        if BLOCKS < TILE:
            product = tl.sum(tl.reshape(product, (TILE // BLOCKS, BLOCKS, TILE)), axis=0)
        mask_word = tile_words(tl.zeros((1, 1), tl.int32) + first_row // TILE + tile_row, tile_column, layer,
                               BUCKET_STREAM, seed_low, seed_high)[0]  # fmt: skip
        bucket = local ^ (mask_word & (DIMENSION - 1)).to(tl.int32)
        tl.store(mine + bucket, tl.load(mine + bucket) + product)
        # The next tile's mask hands these buckets to other threads of the program.
        tl.debug_barrier()


@triton.jit
def add_partials(phi, partial, offsets, programs,
                 DIMENSION: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """phi[segment] += partial[segment].sum(0), always in the same order."""
    segment = tl.program_id(1).to(tl.int64)
    buckets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, programs, DEPTH):
        numbers = first + tl.arange(0, DEPTH)
        rows = partial + (segment * programs + numbers)[:, None] * DIMENSION + buckets[None, :]
        total += tl.sum(tl.load(rows, mask=(numbers < programs)[:, None], other=0.0), axis=0)
    if tl.load(offsets + segment) < tl.load(offsets + segment + 1):
        target = phi + segment * DIMENSION + buckets
        tl.store(target, tl.load(target) + total)


INTERPRETED = not isinstance(fold_tiles, triton.JITFunction)
"""Under TRITON_INTERPRET=1 bfloat16 arithmetic is silently wrong: there tiles are widened after the load."""


def fold_triton(
    phi: Tensor, delta: Tensor, x: Tensor, offsets: Sequence[int], *, layer: int, seed: int, first_row: int = 0
) -> None:
    """`fold.fold_segments` for contiguous float32 phi; delta and x are taken in the wider of their two types."""
    common = torch.promote_types(delta.dtype, x.dtype)
    if common not in SETTINGS:
        common = torch.float32
    delta, x = rows_in_line(delta.to(common)), rows_in_line(x.to(common))
    dimension, rows, columns = phi.shape[1], delta.shape[1], x.shape[1]
    tiles = triton.cdiv(rows, TILE) * triton.cdiv(columns, TILE)
    if phi.shape[0] == 0 or tiles == 0:
        return
    programs = min(tiles, PROGRAMS)
    at_once = min(max(1, PARTIAL_BYTES // (4 * programs * dimension)), GRID_LIMIT)
    places = on_device(tuple(offsets), phi.device)
    with torch.cuda.device_of(phi):  # Triton launches on the current device, whatever the tensors say
        for first in range(0, phi.shape[0], at_once):
            part = phi[first : first + at_once]
            partial = torch.zeros(len(part), programs, dimension, dtype=torch.float32, device=phi.device)
            fold_tiles[(programs, len(part))](
                *(partial, delta, x, places[first:], rows, columns, delta.stride(0), x.stride(0)),
                *(first_row, signed32(layer), signed32(seed), signed32(seed >> 32)),
                DIMENSION=dimension,
                TILE=TILE,
                GROUPED_ROWS=GROUPED_ROWS,
                SIGN_STREAM=SIGN_STREAM,
                BUCKET_STREAM=BUCKET_STREAM,
                WIDEN=INTERPRETED,
                **SETTINGS[common],
            )
            block = min(dimension, SUM_BLOCK)
            add_partials[(dimension // block, len(part))](
                part, partial, places[first:], programs, DIMENSION=dimension, BLOCK=block, DEPTH=SUM_DEPTH
            )


def rows_in_line(matrix: Tensor) -> Tensor:
    """The matrix itself where its rows are contiguous, else a copy."""
    return matrix if matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1] else matrix.contiguous()


def signed32(bits: int) -> int:
    """The low 32 bits as a signed number: one argument type, and so one compiled kernel, for every key."""
    low = bits & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


@lru_cache(maxsize=64)
def on_device(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    """Offsets as int64 in device memory: all layers of a batch share them, and every copy would wait for the GPU."""
    return torch.tensor(offsets, dtype=torch.int64, device=device)
