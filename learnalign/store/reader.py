"""The reading side of a store: memory-mapped rows, what is known about them, and the check of every byte.

This module opens nothing for writing; what it finds damaged stays as it is.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from learnalign import _core
from learnalign.errors import StoreCorruptError, StoreError
from learnalign.store.description import StoreDescription, read_description

HEADER_BYTES = 4096
"""Length of a shard's .npy header: rows begin on a page."""
INDEX_HEADER_BYTES = 64


@dataclass(frozen=True)
class Damage:
    """One place where a store's bytes are not what was written."""

    file: str
    reason: str
    block: int | None = None
    """Number of the block in its shard, where one is damaged."""
    first_row: int | None = None
    prompt_ids: tuple[str, ...] = ()
    """The rows to compute again."""

    def __str__(self) -> str:
        if self.block is None or self.first_row is None:
            return f"{self.file}: {self.reason}"
        last = self.first_row + len(self.prompt_ids) - 1
        return (
            f"{self.file}: {self.reason} in block {self.block}, rows {self.first_row} to {last} "
            f"(prompts {self.prompt_ids[0]} to {self.prompt_ids[-1]})"
        )


@dataclass(frozen=True)
class _OpenShard:
    core: _core.Shard
    index_path: Path
    data_path: Path | None
    first_row: int

    @property
    def named_final(self) -> bool:
        return self.data_path is not None and self.data_path.suffix == ".npy"


class SketchReader:
    """A store, finished or not; of an unfinished one the committed rows. Opening reads the index only.

    Raises:
        StoreMismatchError: another format version.
        StoreCorruptError: `store.json` or the head of an index is damaged. (Damage behind the head shortens
            the store to the rows before it and makes it incomplete; `check` names it.)
        StoreError: not a store, or a file is missing.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        description = read_description(self.directory)
        self.dimension = description.dimension
        self.dtype = description.dtype
        self.identity = description.identity
        self._shards: list[_OpenShard] = []
        self.rows = 0
        for index_path in sorted(self.directory.glob("shard-*.index")):
            shard = _open_shard(index_path, description, self.rows)
            self._shards.append(shard)
            self.rows += shard.core.rows
        self.complete = bool(self._shards) and all(shard.core.closed and shard.named_final for shard in self._shards)
        """True when every shard was closed and all its rows are there."""

    @cached_property
    def prompt_ids(self) -> list[str]:
        """[rows] prompt ids, in row order."""
        return [prompt_id for shard in self._shards for prompt_id in shard.core.prompt_ids()]

    @cached_property
    def success_rate(self) -> npt.NDArray[np.float64]:
        """[rows] success rates as appended."""
        return np.concatenate([np.empty(0), *(shard.core.success_rate() for shard in self._shards)])

    @cached_property
    def norm(self) -> npt.NDArray[np.float64]:
        """[rows] lengths before normalizing: 0 for a zero row, NaN for one that was not finite."""
        return np.concatenate([np.empty(0), *(shard.core.norm() for shard in self._shards)])

    @cached_property
    def scale(self) -> npt.NDArray[np.float32]:
        """[rows] factors that turn stored rows into unit rows; 1 for floats, 0 for a row stored as zeros."""
        return np.concatenate([np.empty(0, np.float32), *(shard.core.scale() for shard in self._shards)])

    @cached_property
    def shards(self) -> list[npt.NDArray[Any]]:
        """Zero-copy memory-mapped views [rows_k, d] of the stored dtype, in row order."""
        return [self._view(shard) for shard in self._shards]

    def blocks(self, rows: int = 4096) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """(first row, float32 unit rows [<= rows, d]) through the whole store; no block crosses a shard."""
        for shard, view in zip(self._shards, self.shards, strict=True):
            for start in range(0, len(view), rows):
                first = shard.first_row + start
                yield first, self._decode(view[start : start + rows], first)

    def __getitem__(self, prompt_id: str) -> npt.NDArray[np.float32]:
        """The unit row [d] of a prompt. Raises `KeyError` for a prompt without a row."""
        row = self._row_of[prompt_id]
        number = bisect_right([shard.first_row + shard.core.rows for shard in self._shards], row)
        start = row - self._shards[number].first_row
        unit: npt.NDArray[np.float32] = self._decode(self.shards[number][start : start + 1], row)[0]
        return unit

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self._row_of

    def __len__(self) -> int:
        return self.rows

    def check(self) -> list[Damage]:
        """Read every byte and compare it with its checksum; the list is empty when all is well."""
        return [damage for shard in self._shards for damage in self._check_shard(shard)]

    def _check_shard(self, shard: _OpenShard) -> Iterator[Damage]:
        core, index = shard.core, shard.index_path.name
        if core.valid_bytes != core.file_bytes:
            reason = f"no valid record at byte {core.valid_bytes}: rows {core.listed_rows} and on are missing"
            yield Damage(index, reason)
        if shard.data_path is None:
            return
        data = shard.data_path.name
        if core.listed_rows != core.rows:
            yield Damage(data, f"cut short: it holds {core.rows} of the {core.listed_rows} committed rows")
        if shard.named_final and not core.closed:
            yield Damage(index, "no valid closing record: opening the store for writing and closing it adds one")
        if shard.named_final and core.closed:
            with open(shard.data_path, "rb") as file:
                header = file.read(HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
            if header != _core.data_header(core.rows, self.dimension, self.dtype):
                yield Damage(data, "the header is damaged")
            row_bytes = self.dimension * np.dtype(self.dtype).itemsize
            if size != HEADER_BYTES + core.rows * row_bytes:
                yield Damage(data, f"expected {HEADER_BYTES + core.rows * row_bytes} bytes, found {size}")
        blocks = core.blocks
        for number in core.damaged_blocks():
            first, rows = blocks[number]
            first += shard.first_row
            ids = tuple(self.prompt_ids[first : first + rows])
            yield Damage(data, "checksum mismatch", number, first, ids)

    def _view(self, shard: _OpenShard) -> npt.NDArray[Any]:
        shape = (shard.core.rows, self.dimension)
        if shard.core.rows == 0 or shard.data_path is None:
            return np.empty(shape, self.dtype)
        return np.memmap(shard.data_path, np.dtype(self.dtype), "r", HEADER_BYTES, shape)

    def _decode(self, rows: npt.NDArray[Any], first: int) -> npt.NDArray[np.float32]:
        units: npt.NDArray[np.float32] = np.array(rows, np.float32)
        if self.dtype == "int8":
            units *= self.scale[first : first + len(rows), None]
        return units

    @cached_property
    def _row_of(self) -> dict[str, int]:
        rows = {prompt_id: row for row, prompt_id in enumerate(self.prompt_ids)}
        if len(rows) != self.rows:
            raise StoreCorruptError(f"{self.directory} lists a prompt id twice: delete it to sketch again")
        return rows


def _open_shard(index_path: Path, description: StoreDescription, first_row: int) -> _OpenShard:
    match = re.fullmatch(r"shard-(\d{5})\.index", index_path.name)
    if match is None:
        raise StoreError(f"{index_path} is not a shard's index: names look like shard-00000.index")
    stem = index_path.with_suffix("")
    names = [Path(f"{stem}.npy"), Path(f"{stem}.npy.unfinished")]
    data_path = next((path for path in names if path.exists()), None)
    core = _core.Shard(str(index_path), str(data_path or ""), int(match[1]), description.dimension, description.dtype)
    if data_path is None and core.file_bytes > INDEX_HEADER_BYTES:
        raise StoreError(f"{names[0]} is missing, though its index lists rows: restore it or delete the store")
    return _OpenShard(core, index_path, data_path, first_row)
