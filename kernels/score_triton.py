"""The two passes of scoring over int8 rows on a GPU, each of which reads every row once and writes a number a row.

    first    n_i = |q_i| and sum_i V_i q_i / n_i: a row stays in registers from its norm to its part of the sum
    second   q_i . m

Rows are the stored integers; their scales cancel (see `learnalign.scoring`). Sums run in float32 within a program and
in float64 over the programs, always in the same order: no atomics, the same bits every time on one kind of GPU.
Nothing here checks rows. The plain reference implementation, in float64, is in `learnalign.scoring.gpu`, which also
takes other types and devices.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 2048
"""At most: some waves on any GPU, so that the last one costs little. Fixed, and so is the order of additions."""
BLOCK_NUMBERS = 1 << 14
"""Numbers of the rows that a program holds at a time: 64 a thread."""
WIDEST = 1 << 14
"""Longest rows that stay in a program's registers."""


@triton.jit
def some_rows(rows, numbers, there, columns, inside, stride):
    """float32 [BLOCK, WIDTH]; zeros where there is no row or column."""
    places = rows + numbers.to(tl.int64)[:, None] * stride + columns[None, :]
    return tl.load(places, mask=there[:, None] & inside[None, :], other=0).to(tl.float32)


@triton.jit
def sum_unit_rows(norms, partial, rows, values, count, dimension, stride,
                  WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """norms float32 [N], and its share of sum_i values_i rows_i / lengths_i, partial float32 [P, WIDTH]."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    columns = tl.arange(0, WIDTH)
    inside = columns < dimension
    total = tl.zeros((WIDTH,), tl.float32)
    for first in tl.range(program * BLOCK, count, programs * BLOCK, num_stages=3):
        numbers = first + tl.arange(0, BLOCK)
        there = numbers < count
        part = some_rows(rows, numbers, there, columns, inside, stride)
        norm = tl.sqrt(tl.sum(part * part, axis=1))
        value = tl.load(values + numbers, mask=there, other=0.0)
        weight = tl.where(norm > 0.0, value / tl.where(norm > 0.0, norm, 1.0), 0.0)
        total += tl.sum(part * weight[:, None], axis=0)
        tl.store(norms + numbers, norm, mask=there)
    tl.store(partial + program * WIDTH + columns, total)


@triton.jit
def dot_rows(dots, rows, vector, count, dimension, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """dots float32 [N] of the rows and one vector float32 [dimension]."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    columns = tl.arange(0, WIDTH)
    inside = columns < dimension
    numbers_of = tl.load(vector + columns, mask=inside, other=0.0)
    for first in tl.range(program * BLOCK, count, programs * BLOCK, num_stages=3):
        numbers = first + tl.arange(0, BLOCK)
        there = numbers < count
        part = some_rows(rows, numbers, there, columns, inside, stride)
        tl.store(dots + numbers, tl.sum(part * numbers_of[None, :], axis=1), mask=there)


def norms_and_sum(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """|q_i|, float32 [N], and sum_i values_i q_i / |q_i|, float64 [d]; a zero row adds nothing.

    rows: int8 [N, d] with contiguous rows, 0 < d <= `WIDEST`. values: float32 [N].
    """
    width, block, programs = _launch(rows)
    norms = torch.empty(len(rows), device=rows.device)
    partial = torch.empty(programs, width, device=rows.device)
    if not programs:
        return norms, torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    with torch.cuda.device_of(rows):  # Triton launches on the current device, whatever the tensors say
        sum_unit_rows[(programs,)](
            *(norms, partial, rows, values, len(rows), rows.shape[1], rows.stride(0)),
            WIDTH=width,
            BLOCK=block,
            num_warps=8,
        )
    return norms, partial.sum(0, dtype=torch.float64)[: rows.shape[1]]


def dots(rows: Tensor, vector: Tensor) -> Tensor:
    """q_i . vector, float32 [N]; rows as for `norms_and_sum`, vector float32 [d]."""
    width, block, programs = _launch(rows)
    found = torch.empty(len(rows), device=rows.device)
    if programs:
        with torch.cuda.device_of(rows):
            dot_rows[(programs,)](
                *(found, rows, vector, len(rows), rows.shape[1], rows.stride(0)),
                WIDTH=width,
                BLOCK=block,
                num_warps=8,
            )
    return found


def _launch(rows: Tensor) -> tuple[int, int, int]:
    """Width and number of the rows of a program's step, and how many programs there are."""
    width = max(triton.next_power_of_2(rows.shape[1]), 16)
    block = max(1, min(BLOCK_NUMBERS // width, 64))
    return width, block, min(PROGRAMS, triton.cdiv(len(rows), block))
