"""The signed fold on a GPU: tiles of delta^T x stay in registers, and are signed and folded where they were made.

A program owns one segment and every P-th tile of its weight gradient (of a small matrix: of one part of the segment's
tokens). It adds the folded tiles to a partial sketch of its own in device memory, and a second kernel adds the P
partials in order: no float atomics, the same bits every time. From Hopper on blocks come through tensor descriptors,
one pair a segment, which give zeros past the segment's end. Nothing here makes float64 sketches or checks shapes: see
`fold`. What the compiler makes of it is printed by `python -m bench.kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from itertools import pairwise

import torch
import triton
import triton.language as tl
from learnalign.kernels.signs import BUCKET_STREAM, SIGN_STREAM, TILE
from learnalign.kernels.transfers import on_device
from torch import Tensor

PROGRAMS = 1024
"""Of one launch, about: some waves on any GPU. Fixed, so that the order of additions does not depend on the GPU."""
FEWEST, MOST = 32, 256
"""Programs of one segment; every one of them has a partial sketch, which is made and read once."""
SPLIT_TOKENS = 512
"""Least tokens of a part of a segment: below, a tile's fold takes longer than its product."""
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
HOPPER, HOPPER_WARPS, HOPPER_DIMENSION = 9, 4, 8192
"""With 4 warps Hopper runs two programs side by side, one's product over the other's fold; larger sketches would
not fit into their registers, and Blackwell, which brings a tile back from tensor memory whole, takes more of them."""
DESCRIPTOR_BYTES = 16
"""What a descriptor's base and rows are multiples of."""


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
def tile_product(delta, x, segment_begin, begin, end, row, column, rows, columns, delta_stride, x_stride,
                 delta_blocks, x_blocks, TILE: tl.constexpr, BLOCK_T: tl.constexpr, DESCRIBED: tl.constexpr,
                 WIDEN: tl.constexpr):  # fmt: skip
    """delta[begin:end, row : row + TILE]^T x[begin:end, column : column + TILE], float32 [TILE, TILE].

    begin, end: tokens counted from segment_begin. With DESCRIBED blocks come through the segment's tensor descriptors,
    delta_blocks and x_blocks, which give zeros past its end.
    """
    lanes = tl.arange(0, TILE)
    steps = tl.arange(0, BLOCK_T)
    row_numbers, column_numbers = row + lanes, column + lanes
    product = tl.zeros((TILE, TILE), tl.float32)
    for token in range(begin, end, BLOCK_T):
        if DESCRIBED:
            left = delta_blocks.load([token, row])
            right = x_blocks.load([token, column])
        else:
            tokens = segment_begin + token + steps
            there = (token + steps < end)[:, None]
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
    sign_bit = (word << (31 - lanes % 32)[None, :].to(tl.uint32)) & 0x80000000
    return (product.to(tl.uint32, bitcast=True) ^ sign_bit).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["splits", "first_row", "layer", "seed_low", "seed_high"])
def fold_tiles(partial, delta, x, offsets, rows, columns, delta_stride, x_stride, splits,
               first_row, layer, seed_low, seed_high,
               DIMENSION: tl.constexpr, TILE: tl.constexpr, BLOCK_T: tl.constexpr, GROUPED_ROWS: tl.constexpr,
               SPLIT_TOKENS: tl.constexpr, SIGN_STREAM: tl.constexpr, BUCKET_STREAM: tl.constexpr,
               DESCRIBED: tl.constexpr, WIDEN: tl.constexpr):  # fmt: skip
    """Add the fold of this program's tiles to partial[segment, program], partial float32 [S, P, DIMENSION].

    A long segment's tokens are cut into at most `splits` parts, whose tiles are items of their own.
    """
    segment, program, programs = tl.program_id(1), tl.program_id(0), tl.num_programs(0)
    segment_begin = tl.load(offsets + segment)
    tokens = (tl.load(offsets + segment + 1) - segment_begin).to(tl.int32)
    mine = partial + (segment.to(tl.int64) * programs + program) * DIMENSION
    tile_rows, tile_columns = tl.cdiv(rows, TILE), tl.cdiv(columns, TILE)
    splits = min(splits, tl.cdiv(tokens, SPLIT_TOKENS))  # none where there are no tokens
    depth = tl.cdiv(tl.cdiv(tokens, max(splits, 1)), BLOCK_T) * BLOCK_T
    delta_blocks, x_blocks = delta, x
    if DESCRIBED:
        there = max(tokens, 1)  # a descriptor must not be empty, even if nothing is read through it
        delta_blocks = tl.make_tensor_descriptor(delta + segment_begin * delta_stride, [there, rows],
                                                 [delta_stride, 1], [BLOCK_T, TILE])  # fmt: skip
        x_blocks = tl.make_tensor_descriptor(x + segment_begin * x_stride, [there, columns],
                                             [x_stride, 1], [BLOCK_T, TILE])  # fmt: skip
    BLOCKS: tl.constexpr = min(DIMENSION // TILE, TILE)  # blocks of phi that a tile fills; rows go round them
    # One axis: with two, a compiler that knows nothing of the XOR may give the lanes of a warp a row each.
    local = tl.arange(0, BLOCKS * TILE)
    tiles = tile_rows * tile_columns
    for item in range(program, tiles * splits, programs):
        number = item % tiles
        begin = item // tiles * depth
        above = number // (GROUPED_ROWS * tile_columns) * GROUPED_ROWS
        height = min(tile_rows - above, GROUPED_ROWS)
        inside = number % (GROUPED_ROWS * tile_columns)
        tile_row, tile_column = above + inside % height, inside // height
        row = tile_row * TILE
        product = tile_product(delta, x, segment_begin, begin, min(begin + depth, tokens), row, tile_column * TILE,
                               rows, columns, delta_stride, x_stride, delta_blocks, x_blocks,
                               TILE, BLOCK_T, DESCRIBED, WIDEN)  # fmt: skip
        product = signed(product, first_row + row, tile_column, layer, seed_low, seed_high, TILE, SIGN_STREAM)
        if BLOCKS < TILE:
            product = tl.sum(tl.reshape(product, (TILE // BLOCKS, BLOCKS, TILE)), axis=0)
        mask_word = tile_words(tl.zeros((1,), tl.int32) + first_row // TILE + tile_row, tile_column, layer,
                               BUCKET_STREAM, seed_low, seed_high)[0]  # fmt: skip
        bucket = local ^ (mask_word & (DIMENSION - 1)).to(tl.int32)
        tl.store(mine + bucket, tl.load(mine + bucket) + tl.reshape(product, (BLOCKS * TILE,)))
        # The next tile's mask hands these buckets to other threads of the program.
        tl.debug_barrier()


@triton.jit(do_not_specialize=["programs"])
def add_partials(phi, partial, offsets, programs, scale,
                 DIMENSION: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """phi[segment] += scale * partial[segment].sum(0), always in the same order."""
    segment = tl.program_id(1).to(tl.int64)
    buckets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, programs, DEPTH):
        numbers = first + tl.arange(0, DEPTH)
        rows = partial + (segment * programs + numbers)[:, None] * DIMENSION + buckets[None, :]
        total += tl.sum(tl.load(rows, mask=(numbers < programs)[:, None], other=0.0), axis=0)
    if tl.load(offsets + segment) < tl.load(offsets + segment + 1):
        target = phi + segment * DIMENSION + buckets
        tl.store(target, tl.load(target) + scale * total)


INTERPRETED = not isinstance(fold_tiles, triton.JITFunction)
"""Under TRITON_INTERPRET=1 bfloat16 arithmetic is silently wrong: there tiles are widened after the load."""


def fold_triton(
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
    """`fold.fold_segments` for contiguous float32 phi; delta and x are taken in the wider of their two types."""
    common = torch.promote_types(delta.dtype, x.dtype)
    if common not in SETTINGS:
        common = torch.float32
    delta, x = rows_in_line(delta.to(common)), rows_in_line(x.to(common))
    dimension, rows, columns = phi.shape[1], delta.shape[1], x.shape[1]
    tiles = triton.cdiv(rows, TILE) * triton.cdiv(columns, TILE)
    if phi.shape[0] == 0 or tiles == 0:
        return
    programs, splits = shares(tiles, phi.shape[0], max(b - a for a, b in pairwise(offsets)))
    at_once = min(max(1, PARTIAL_BYTES // (4 * programs * dimension)), GRID_LIMIT)
    places = on_device(tuple(offsets), phi.device)
    generation = 0 if INTERPRETED else torch.cuda.get_device_capability(phi.device)[0]
    described = (INTERPRETED or generation >= HOPPER) and describable(delta) and describable(x)
    block = min(dimension, SUM_BLOCK)

    def launch(first: int) -> None:
        part = phi[first : first + at_once]
        sums = torch.zeros(len(part), programs, dimension, dtype=torch.float32, device=phi.device)
        fold_tiles[(programs, len(part))](
            *(sums, delta, x, places[first:], rows, columns, delta.stride(0), x.stride(0), splits),
            *(first_row, signed32(layer), signed32(seed), signed32(seed >> 32)),
            DIMENSION=dimension,
            TILE=TILE,
            GROUPED_ROWS=GROUPED_ROWS,
            SPLIT_TOKENS=SPLIT_TOKENS,
            SIGN_STREAM=SIGN_STREAM,
            BUCKET_STREAM=BUCKET_STREAM,
            DESCRIBED=described,
            WIDEN=INTERPRETED,
            **settings(common, dimension, described, generation),
        )
        add_partials[(dimension // block, len(part))](
            part, sums, places[first:], programs, scale, DIMENSION=dimension, BLOCK=block, DEPTH=SUM_DEPTH
        )

    with torch.cuda.device_of(phi):  # Triton launches on the current device, whatever the tensors say
        for first in range(0, phi.shape[0], at_once):
            with_scratch(partial(launch, first), phi.device)


def shares(tiles: int, segments: int, longest: int) -> tuple[int, int]:
    """Programs of a segment, and parts that a segment's tokens are cut into at most, so that there are enough of them.

    tiles: of the matrix. longest: tokens of the longest segment.
    """
    wanted = min(max(FEWEST, PROGRAMS // segments), MOST)
    splits = max(1, min(wanted // tiles, triton.cdiv(longest, SPLIT_TOKENS)))
    return min(wanted, tiles * splits), splits


def settings(dtype: torch.dtype, dimension: int, described: bool, generation: int) -> dict[str, int]:
    """Tokens of a step, warps and stages. generation: the GPU's compute capability, its first number."""
    slim = described and generation == HOPPER and dimension <= HOPPER_DIMENSION
    return SETTINGS[dtype] | ({"num_warps": HOPPER_WARPS} if slim else {})


def describable(matrix: Tensor) -> bool:
    """Whether any of its rows can begin a tensor descriptor of matrix units' numbers."""
    stride, address = matrix.stride(0) * matrix.itemsize, matrix.data_ptr()
    return matrix.itemsize == 2 and stride % DESCRIPTOR_BYTES == 0 and address % DESCRIPTOR_BYTES == 0


def with_scratch(launch: Callable[[], None], device: torch.device) -> None:
    """Call it where Triton takes the memory of descriptors from torch, whatever the program around it has set."""

    def scratch(size: int, alignment: int, stream: int | None) -> Tensor:
        return torch.empty(size, dtype=torch.int8, device=device)

    context = copy_context()
    context.run(triton.set_allocator, scratch)
    context.run(launch)


def rows_in_line(matrix: Tensor) -> Tensor:
    """The matrix itself where its rows are contiguous, else a copy."""
    return matrix if matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1] else matrix.contiguous()


def signed32(bits: int) -> int:
    """The low 32 bits as a signed number: one argument type, and so one compiled kernel, for every key."""
    low = bits & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low
