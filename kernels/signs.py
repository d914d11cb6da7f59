"""Signs and buckets of the fold, as a pure function of (seed, layer, row, column).

Both come from Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), a
counter-based generator: nothing is stored, any device and any order of batches gives the same bits. A weight
matrix [m, n] is cut into tiles of 128 x 128. One Philox call gives the 128 sign bits of one row of one tile,
another call, from a stream of its own, gives the tile's bucket mask. The streams must differ: with sign and
bucket taken from one hash every bucket would hold one sign only and nothing would cancel.

This module is the readable reference; it does not fold anything (see `fold`).
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 128
SIGN_STREAM = 0
BUCKET_STREAM = 1

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: int) -> tuple[Tensor, ...]:
    """Philox-4x32-10 on tensors.

    counter: four broadcastable int64 tensors with values in [0, 2^32). key: 64 bits.
    Returns four int64 tensors with values in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & _MASK, key >> 32 & _MASK
    for _ in range(10):
        # int64 products wrap around, but their bit patterns are those of the unsigned product.
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> 32 & _MASK) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32 & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def signs(seed: int, layer: int, rows: Tensor, columns: int) -> Tensor:
    """Signs of whole tile rows.

    layer: 32-bit key of the weight matrix. rows: int64 [r], global row numbers. columns: n, the matrix's width.
    Returns int8 [r, ceil(n / 128) * 128] of +1 and -1; columns past n belong to the padding of the last tile.
    Bit (c mod 32) of word (c mod 128) // 32 decides column c; a set bit means -1.
    """
    tiles = torch.arange(-(-columns // TILE), device=rows.device)
    words = philox((rows[:, None], tiles[None, :], _scalar(layer, rows), _scalar(SIGN_STREAM, rows)), seed)
    packed = torch.stack(words, dim=-1)  # [r, tiles, 4]
    bits = packed[..., None] >> torch.arange(32, device=rows.device) & 1  # [r, tiles, 4, 32]
    return (1 - 2 * bits).to(torch.int8).reshape(len(rows), -1)


def bucket_masks(seed: int, layer: int, row_tiles: Tensor, column_tiles: int, dimension: int) -> Tensor:
    """XOR masks of tiles.

    row_tiles: int64 [a], numbers of tile rows. Returns int64 [a, column_tiles] with values in [0, dimension).
    Entry (r, c) of a tile lands in bucket ((r * 128 + c) XOR mask) mod dimension, dimension a power of two.
    """
    columns = torch.arange(column_tiles, device=row_tiles.device)
    counter = (
        row_tiles[:, None],
        columns[None, :],
        _scalar(layer, row_tiles),
        _scalar(BUCKET_STREAM, row_tiles),
    )
    return philox(counter, seed)[0] & (dimension - 1)


def _scalar(value: int, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=torch.int64, device=like.device)
