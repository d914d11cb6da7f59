"""What may not be picked together: too many of one group, and near-duplicates.

A strategy says in which order it wants prompts; an `Admission` goes through that order and lets in what the constraints
allow, so that of two near-duplicates the one that the strategy prefers stays. This module ranks nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from learnalign.errors import ArrayError
from learnalign.scoring.rows import Floats, Integers, blocks
from learnalign.selection.prompts import Prompts

Mask = npt.NDArray[np.bool_]
CHUNK = 256
"""Prompts compared with the picks at a time."""
ROUNDING = 1e-6
"""How far below 1 the cosine of multiples of one row can be, whose entries are rounded to float32."""


@dataclass(frozen=True)
class Constraints:
    """What a selection must keep to; nothing by default."""

    group: Integers | None = None
    """[N] number of each prompt's source or category, from 0."""
    quota: Integers | None = None
    """[groups] most picks of each."""
    duplicate_cosine: float | None = None
    """No two picks have gradients with this cosine or a larger one. Prompts without a gradient are not compared."""


def constraints_of(
    group: Sequence[Any] | None, quota: int | None, duplicate_cosine: float | None, rows: int
) -> Constraints:
    """Constraints from a user's arguments: at most `quota` picks with the same value of `group`.

    Raises:
        ArrayError: a quota without groups or the reverse, one below 1, another number of groups than `rows`, or a
            cosine outside (0, 1].
    """
    if duplicate_cosine is not None and not 0.0 < duplicate_cosine <= 1.0:
        raise ArrayError(f"duplicate_cosine must lie above 0 and up to 1, found {duplicate_cosine}")
    if (group is None) != (quota is None):
        raise ArrayError("group and quota belong together: the source of every prompt, and the most picks of each")
    if group is None or quota is None:
        return Constraints(duplicate_cosine=duplicate_cosine)
    if len(group) != rows:
        raise ArrayError(f"group must hold one value a prompt: {rows}, found {len(group)}")
    if quota < 1:
        raise ArrayError(f"quota must be at least 1, found {quota}")
    numbers: dict[str, int] = {}
    codes = np.fromiter((numbers.setdefault(str(name), len(numbers)) for name in group), np.int64, rows)
    return Constraints(codes, np.full(len(numbers), quota, np.int64), duplicate_cosine)


def quota_of(share: float, n: int) -> int:
    """The most picks of a group that may have this share of n, rounded up. The share is the decimal that it reads as.

    As a float 0.07 is a little more than 7 of 100.
    """
    return math.ceil(Fraction(str(float(share))) * n)


class Admission:
    """Lets in up to n prompts, one after the other."""

    def __init__(self, prompts: Prompts, constraints: Constraints, n: int) -> None:
        self._prompts, self._constraints, self.left = prompts, constraints, n
        self._room = None if constraints.quota is None else constraints.quota.copy()
        self._kept = np.empty((0, prompts.rows.dimension), np.float32)
        self._count = 0  # rows of _kept that are filled

    @property
    def free(self) -> bool:
        """Nothing is limited but the number."""
        return self._room is None and self._constraints.duplicate_cosine is None

    def take(self, order: Integers, until_refused: bool = False) -> Integers:
        """[admitted] those of `order` that are let in, until all are looked at, n are in, or the first is refused."""
        if self.free:
            admitted = order[: self.left]
            self.left -= len(admitted)
            return admitted
        admitted_rows: list[int] = []
        for chunk in blocks(order, CHUNK):
            allowed, near = self._compare(chunk)
            for place, prompt in enumerate(chunk.tolist()):
                if not self.left:
                    return np.array(admitted_rows, np.int64)
                if allowed[place] and self._has_room(prompt):
                    admitted_rows.append(prompt)
                    self._keep(prompt)
                    allowed &= ~near[place]
                elif until_refused:
                    return np.array(admitted_rows, np.int64)
        return np.array(admitted_rows, np.int64)

    def allows(self, prompts: Integers) -> Mask:
        """Which of these could be let in now."""
        clear = [np.zeros(0, np.bool_), *(self._compare(chunk)[0] for chunk in blocks(prompts, CHUNK))]
        return np.asarray(np.concatenate(clear) & self.has_room(prompts), np.bool_)

    def has_room(self, prompts: Integers) -> Mask:
        """Whose group is not full."""
        if self._room is None or self._constraints.group is None:
            return np.ones(len(prompts), np.bool_)
        room: Mask = self._room[self._constraints.group[prompts]] > 0
        return room

    def _has_room(self, prompt: int) -> bool:
        return bool(self.has_room(np.array([prompt]))[0])

    def _compare(self, chunk: Integers) -> tuple[Mask, Mask]:
        """Which of a chunk are no near-duplicate of what was let in, and who in it is one of whom [chunk, chunk]."""
        size = len(chunk)
        cosine = self._constraints.duplicate_cosine
        if cosine is None:
            return np.ones(size, np.bool_), np.zeros((size, size), np.bool_)
        units = self._units(chunk)
        near = _similar(units, self._kept[: self._count], cosine).any(axis=1)
        return np.asarray(~near, np.bool_), _similar(units, units, cosine)

    def _keep(self, prompt: int) -> None:
        self.left -= 1
        if self._room is not None and self._constraints.group is not None:
            self._room[self._constraints.group[prompt]] -= 1
        if self._constraints.duplicate_cosine is not None:
            if self._count == len(self._kept):
                more = np.empty((max(self._count, CHUNK), self._kept.shape[1]), np.float32)
                self._kept = np.concatenate([self._kept, more])
            self._kept[self._count] = self._units(np.array([prompt]))[0]
            self._count += 1

    def _units(self, prompts: Integers) -> Floats:
        """[len(prompts), d] unit rows; zeros for a prompt without a gradient, which is like nothing."""
        row = self._prompts.row_of[prompts]
        units = np.zeros((len(prompts), self._prompts.rows.dimension), np.float32)
        there = row >= 0
        if there.any():
            units[there] = self._prompts.rows.unit(row[there])
        return units


def _similar(units: Floats, others: Floats, cosine: float) -> Mask:
    """[n, m] whether the cosine of two unit rows reaches `cosine`, up to the rounding of the rows themselves.

    Products summed in float32 can be off by d 2^-24, as where a large entry swallows many small ones. What is as near
    the threshold as that is summed again in float64.
    """
    products, threshold = units @ others.T, cosine - ROUNDING
    similar: Mask = products >= threshold
    slack = units.shape[1] * 2.0**-24
    rows, columns = np.nonzero(np.abs(products - threshold) <= slack)
    for part in blocks(np.arange(len(rows)), CHUNK):
        pair = rows[part], columns[part]
        exact = np.einsum("ij,ij->i", units[pair[0]], others[pair[1]], dtype=np.float64)
        similar[pair] = exact >= threshold
    return similar
