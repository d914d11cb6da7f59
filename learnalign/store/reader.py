"""The reading side of a store: memory-mapped rows, what is known about them, and the check of every byte.

This module opens nothing for writing; what it finds damaged stays as it is.
"""

from __future__ import annotations

import os
import re
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from learnalign import _core
from learnalign.errors import ArrayError, StoreCorruptError, StoreError
from learnalign.store.description import StoreDescription, read_description

HEADER_BYTES = 4096
"""Length of a shard's .npy header: rows begin on a page."""
INDEX_HEADER_BYTES = 64
NO_FILE = -1
UNCLOSED = "no valid closing record: whoever resumes the store adds one"
PATIENCE = 1.0
"""Seconds for which a shard without one may be a writer's that is just closing it."""
TRIES, WAIT = 5, 0.01
"""How often a shard is looked at that a writer changes meanwhile, and the seconds between."""


@dataclass(frozen=True)
class Damage:
    """One place where a store's bytes are not what was written."""

    index: str
    """Name of the index of the shard; empty where two shards contradict each other, which no repair can settle."""
    file: str
    """Name of the damaged file: the index, the data or the sum."""
    reason: str
    first_row: int | None = None
    """Row number of the first damaged row, where rows are damaged whose record is intact."""
    prompt_ids: tuple[str, ...] = ()
    """The rows to compute again, as far as they are known."""

    def __str__(self) -> str:
        line = f"{self.file}: {self.reason}" if self.file else self.reason
        if self.first_row is not None:
            line += f" in rows {self.first_row} to {self.first_row + len(self.prompt_ids) - 1}"
        return f"{line}: prompts {', '.join(self.prompt_ids)}" if self.prompt_ids else line


@dataclass(frozen=True)
class _OpenShard:
    """One shard as it was when it was opened: later renames do not touch what is mapped."""

    core: _core.Shard
    index_path: Path
    data_name: str
    """Of the data file; empty where there is none."""
    rows: npt.NDArray[Any]
    """[end_row, d] the mapped data file, holes included."""
    first_row: int

    @property
    def named_final(self) -> bool:
        return self.data_name.endswith(".npy")

    @property
    def sum_path(self) -> Path:
        return self.index_path.with_suffix(".sum")

    @property
    def state(self) -> tuple[Any, ...]:
        """Differs where a writer was at work between two openings."""
        return self.core.file_bytes, self.core.digest, self.core.closed, self.data_name

    def runs(self) -> list[tuple[int, int]]:
        """Ranges [first, end) of rows of the data file that count: all of them, unless some were excluded."""
        ends = [0, *(row for hole in self.core.holes for row in hole), self.core.end_row]
        return [(first, end) for first, end in zip(ends[::2], ends[1::2], strict=True) if end > first]

    def total(self) -> npt.NDArray[np.float64] | None:
        return self.core.total(os.fsencode(self.sum_path))


class SketchReader:
    """A store, finished or not; of an unfinished one the committed rows. Opening reads the indexes and maps the rows.

    Rows are numbered shard by shard, in the order of the shards' numbers, and within a shard in the order of its
    file. Every valid row is there, whatever is damaged around it. Writers may close or resume the store meanwhile.

    Raises:
        StoreMismatchError: another format version.
        StoreCorruptError: `store.json` is damaged, or an index is another store's. (Other damage makes the store
            incomplete and leaves out rows without a valid record; `check` names it.)
        StoreError: not a store, or a file is missing.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._description = description = read_description(self.directory)
        self.dimension = description.dimension
        self.dtype = description.dtype
        self.identity = description.identity
        self._shards: list[_OpenShard] = []
        self.rows = 0
        for index_path in _index_paths(self.directory):
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

    def total(self, learnability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """[d] float64 sum_j V_j u_j as the writers kept it, if it is known for these V; else None.

        It saves the first pass of `learnalign.scoring.score_shards`, and has the bits of that pass where there is one
        shard; the sums of several are added in their order. Writers use V = p (1 - p) of the success rates that they
        are given, so that any other V is not known, nor is that of an unfinished shard or of one whose sum is lost.

        Args:
            learnability: [rows] V_j. Those of rows stored as zeros do not matter.

        Raises:
            ArrayError: another shape.
        """
        if learnability.shape != (self.rows,):
            raise ArrayError(f"learnability must have shape [{self.rows}], found {list(learnability.shape)}")
        summed = self.norm > 0
        kept = self.success_rate * (1.0 - self.success_rate)
        if not np.array_equal(learnability[summed], kept[summed]):
            return None
        total = np.zeros(self.dimension)
        for shard in self._shards:
            if shard.core.rows == 0:
                continue
            part = shard.total()
            if part is None:
                return None
            total += part
        return total

    @cached_property
    def shards(self) -> list[npt.NDArray[Any]]:
        """Zero-copy memory-mapped views [rows_k, d] of the stored dtype, in row order.

        One a shard; more where rows of it were excluded and their place was not filled.
        """
        return [view for shard in self._shards for view in self._views(shard)]

    @cached_property
    def _starts(self) -> list[int]:
        """Row number of the first row of each view."""
        return [0, *accumulate(len(view) for view in self.shards)][:-1]

    def blocks(self, rows: int = 4096) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """(first row, float32 unit rows [<= rows, d]) through the whole store; no block crosses a view of `shards`."""
        for first_row, view in zip(self._starts, self.shards, strict=True):
            for start in range(0, len(view), rows):
                yield first_row + start, self._decode(view[start : start + rows], first_row + start)

    def __getitem__(self, prompt_id: str) -> npt.NDArray[np.float32]:
        """The unit row [d] of a prompt. Raises `KeyError` for a prompt without a row."""
        row = self._row_of[prompt_id]
        number = bisect_right(self._starts, row) - 1
        start = row - self._starts[number]
        unit: npt.NDArray[np.float32] = self._decode(self.shards[number][start : start + 1], row)[0]
        return unit

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self._row_of

    def __len__(self) -> int:
        return self.rows

    def check(self) -> list[Damage]:
        """Read every byte and compare it with its checksum; the list is empty when all is well."""
        found = [damage for shard in self._shards for damage in self._check_shard(shard)]
        try:
            _ = self._row_of
        except StoreCorruptError as error:
            found.append(Damage("", "", str(error)))
        return found

    def _check_shard(self, shard: _OpenShard) -> list[Damage]:
        """What is wrong with a shard, and not only under way: what a writer changed meanwhile is looked at again."""
        found: list[Damage] = []
        for _ in range(TRIES):
            found = list(self._problems(shard))
            if not found:
                return []
            closing = [damage.reason for damage in found] == [UNCLOSED]
            changed = self._changed(shard, PATIENCE if closing else 0.0)
            if changed is None:
                return found
            shard = changed
        return found

    def _changed(self, shard: _OpenShard, seconds: float) -> _OpenShard | None:
        """The shard as it is now, if a writer was or within so many seconds is at work on it."""
        deadline = time.monotonic() + seconds
        while True:
            again = _open_shard(shard.index_path, self._description, shard.first_row)
            if again.state != shard.state:
                return again
            if time.monotonic() >= deadline:
                return None
            time.sleep(WAIT)

    def _problems(self, shard: _OpenShard) -> Iterator[Damage]:
        index = shard.index_path.name
        found = [Damage(index, index, reason) for reason in _index_problems(shard)]
        if shard.data_name:
            with _opened_data(shard.index_path) as file:
                if file is not None:
                    found += self._data_problems(shard, file)
            if shard.core.closed and shard.sum_path.exists() and shard.total() is None:
                reason = "not the sum of these rows, so that it is not used: whoever resumes the store writes it again"
                found.append(Damage(index, shard.sum_path.name, reason))
            if shard.named_final and not shard.core.closed and not found:
                found.append(Damage(index, index, UNCLOSED))
        yield from found

    def _data_problems(self, shard: _OpenShard, file: BinaryIO) -> Iterator[Damage]:
        index, data = shard.index_path.name, shard.data_name
        if missing := shard.core.missing_ids():
            yield Damage(index, data, f"cut short: {len(missing)} rows are missing", None, tuple(missing))
        for reason in self._frame_problems(shard, file):
            yield Damage(index, data, reason)
        yield from self._damaged_rows(shard, file)

    def _frame_problems(self, shard: _OpenShard, file: BinaryIO) -> Iterator[str]:
        """What is wrong about the header and the length of a finished data file."""
        if not (shard.named_final and shard.core.closed):
            return
        header = file.read(HEADER_BYTES)
        size = os.fstat(file.fileno()).st_size
        end_row = shard.core.end_row
        if header != _core.data_header(end_row, self.dimension, self.dtype):
            yield "the header is damaged"
        expected = HEADER_BYTES + end_row * self.dimension * np.dtype(self.dtype).itemsize
        if size != expected:
            yield f"expected {expected} bytes, found {size}"

    def _damaged_rows(self, shard: _OpenShard, file: BinaryIO) -> Iterator[Damage]:
        ids = shard.core.prompt_ids()
        sizes = [end - first for first, end in shard.core.blocks]
        starts = [0, *accumulate(sizes)]
        for number in shard.core.damaged_blocks(
            file.fileno(), os.fsencode(shard.index_path.with_name(shard.data_name))
        ):
            first, end = starts[number], starts[number + 1]
            row = shard.first_row + first
            yield Damage(shard.index_path.name, shard.data_name, "checksum mismatch", row, tuple(ids[first:end]))

    def _views(self, shard: _OpenShard) -> list[npt.NDArray[Any]]:
        if shard.core.rows == 0:
            return [shard.rows[:0]]
        return [shard.rows[first:end] for first, end in shard.runs()]

    def _decode(self, rows: npt.NDArray[Any], first: int) -> npt.NDArray[np.float32]:
        units: npt.NDArray[np.float32] = np.array(rows, np.float32)
        if self.dtype == "int8":
            units *= self.scale[first : first + len(rows), None]
        return units

    @cached_property
    def _row_of(self) -> dict[str, int]:
        rows: dict[str, int] = {}
        for row, prompt_id in enumerate(self.prompt_ids):
            other = rows.setdefault(prompt_id, row)
            if other != row:
                raise StoreCorruptError(
                    f"{self.directory} lists prompt id {prompt_id!r} twice, in rows {other} and {row}: two writers "
                    "were given the same prompt; delete the store to sketch again"
                )
        return rows


def shard_number(index_path: Path) -> int:
    """The number in the name of a shard's index."""
    match = re.fullmatch(r"shard-(\d{5})\.index", index_path.name)
    if match is None:
        raise StoreError(f"{index_path} is not a shard's index: names look like shard-00000.index")
    return int(match[1])


def _index_paths(directory: Path) -> list[Path]:
    """The indexes of all shards; a data file without one is refused, since its rows would silently be missing."""
    paths = sorted(directory.glob("shard-*.index"))
    stems = {path.name.removesuffix(".index") for path in paths}
    for data in sorted(directory.glob("shard-*.npy*")):
        stem = data.name.split(".")[0]
        if stem not in stems and not (directory / f"{stem}.index").exists():
            raise StoreError(f"{directory / stem}.index is missing beside {data.name}: restore it or delete the data")
    return paths


def _index_problems(shard: _OpenShard) -> Iterator[str]:
    core = shard.core
    if not core.header_valid and core.file_bytes >= INDEX_HEADER_BYTES:
        yield "the header is damaged"
    for begin, end in core.bad_bytes:
        yield f"no valid record in bytes {begin} to {end - 1}"
    if core.bad_bytes:
        for first, end in core.holes:
            yield f"rows {first} to {end - 1} of the shard have no valid record, so that their prompts are not known"


def _open_shard(index_path: Path, description: StoreDescription, first_row: int) -> _OpenShard:
    """Opens a shard that a writer may be renaming, closing or cutting meanwhile: then it is looked at again."""
    for _ in range(TRIES):
        with _opened_data(index_path) as file:
            core = _core.Shard(
                os.fsencode(index_path),
                NO_FILE if file is None else file.fileno(),
                shard_number(index_path),
                description.dimension,
                description.dtype,
                description.crc,
            )
            rows = _mapped(file, core, description)
            name = Path(file.name).name if file is not None else ""
            missing = file is None and core.file_bytes > INDEX_HEADER_BYTES
            renamed = core.closed and not name.endswith(".npy")
            if rows is not None and not missing and not renamed:
                return _OpenShard(core, index_path, name, rows, first_row)
        time.sleep(WAIT)
    if missing:
        raise StoreError(
            f"{index_path.with_suffix('.npy')} is missing, though its index lists rows: restore it or delete the store"
        )
    if rows is None:
        raise StoreError(f"{index_path.with_suffix('')} is being changed by a writer all the time: try again later")
    return _OpenShard(core, index_path, name, rows, first_row)


def _mapped(file: BinaryIO | None, core: _core.Shard, description: StoreDescription) -> npt.NDArray[Any] | None:
    """The data file's rows [end_row, d], mapped; None where it was cut since the index was read."""
    shape = (core.end_row, description.dimension)
    if file is None or core.end_row == 0:
        return np.empty((0, description.dimension), description.dtype)
    try:
        return np.memmap(file, np.dtype(description.dtype), "r", HEADER_BYTES, shape)
    except ValueError:
        return None
    except OSError as error:
        raise StoreError(f"cannot map {file.name}: {error.strerror or error}") from error


@contextmanager
def _opened_data(index_path: Path) -> Iterator[BinaryIO | None]:
    """The data file of a shard under the name that it has just now, or None where there is none."""
    stem = index_path.with_suffix("")
    names = [Path(f"{stem}.npy"), Path(f"{stem}.npy.unfinished")]
    file = None
    for path in [*names, *names]:  # it may be renamed between two tries
        try:
            file = open(path, "rb")  # noqa: SIM115 - closed below
            break
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"cannot open {path}: {error.strerror}") from error
    try:
        yield file
    finally:
        if file is not None:
            file.close()
