"""Reads a pool of prompts with checkable answers into columns.

JSON Lines, JSON (both also gzipped) and Parquet, in the shapes people have: plain problem and answer, GSM8K,
MATH, verl, TRL. What a run would stumble over later (a problem without text, a repeated id) is a `PoolError`
here, with the line. A row whose answer is null or blank cannot be checked; published data sets have a few of
them, so such rows are left out and listed. This module does not apply chat templates (see `policy`) and does
not write the selection (see `export`).

Measured on 1,000,000 lines like GSM8K's (0.56 GB): 20 s on one core, 0.52 GB at the peak.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from learnalign.config import PoolConfig
from learnalign.errors import PoolError
from learnalign.files import sha256_file
from learnalign.pool.arrow import holds_json, is_json
from learnalign.pool.columns import (
    ColumnPath,
    Columns,
    answer_text,
    columns_of_records,
    columns_of_schema,
    find_columns,
    id_text,
    problem_text,
    required_at,
    source_text,
    value_at,
)
from learnalign.pool.records import RecordFile, parquet_file, read_records
from learnalign.pool.sources import pool_files
from learnalign.schemas import POOL

BATCH = 8192
"""Records held as Python objects at a time."""

Batch = list[tuple[int, dict[str, Any]]]
"""Records with their places (see `records`)."""

# Two columns more than a caller sees: to make ids unique, and to say where they repeat.
READ_SCHEMA = POOL.append(pa.field("split", pa.string())).append(pa.field("place", pa.int64()))


@dataclass(frozen=True)
class Pool:
    """A pool in columns. `prompts` has `schemas.POOL`, one row a prompt, in the order of the files:

    row (through all files, 0 for the first record; with a gap where a row had no answer), prompt_id (unique),
    problem (what a person would read; of chat messages the last one of the user), messages (JSON list of
    {role, content}, null for a plain problem), answer (never empty), source ("" if none).
    """

    paths: tuple[Path, ...]
    sha256: str
    """Of the file's bytes, all of them, whatever the limit; of several files, of their digests."""
    rows: int
    """Of `prompts`."""
    prompts: pa.Table
    columns: dict[str, str]
    """Role (problem, answer, id, source) to the column it was read from; roles without a column are left out.
    An id made of several columns lists them with slashes; where files differ, all of their columns are listed."""
    unanswered: tuple[str, ...]
    """Where the rows are that were left out because their answer is null or blank, such as "line 7"."""
    notes: tuple[str, ...] = ()
    """What a person should know of how files were put together."""


def read_pool(config: PoolConfig) -> Pool:
    """Read the pool at `config.path`, or the first `config.limit` rows of it.

    The id of a prompt is its id column, or its row number where the pool has none. verl numbers the rows of
    every source anew: when `extra_info.index` alone repeats, the id is source/index, then source/split/index,
    whichever is unique first. Of several files, ids that occur in two have the file's name in front, and prompts
    without a source have the file's name as theirs.

    Raises `PoolError`: a file that is missing, empty, malformed or of unknown kind, a column that is not
    there, a problem, answer or id that cannot be used, an id that occurs twice in a file, a pool without any answer.
    """
    files = pool_files(config.path)
    read: list[_FilePool] = []
    for file in files:
        rows = sum(part.rows for part in read)
        if config.limit and rows >= config.limit:
            break
        read.append(_read_file(file, replace(config, limit=config.limit and config.limit - rows), rows))
    columns: dict[str, dict[str, None]] = {}
    for part in read:
        for role, column in part.columns.items():
            columns.setdefault(role, {})[column] = None
    prompts, notes = (read[0].prompts, ()) if len(files) == 1 else _together(read)
    return Pool(
        paths=tuple(file.path for file in files),
        sha256=pool_digest(files),
        rows=prompts.num_rows,
        prompts=prompts,
        columns={role: ", ".join(names) for role, names in columns.items()},
        unanswered=tuple(place if len(files) == 1 else f"{p.name}, {place}" for p in read for place in p.unanswered),
        notes=notes,
    )


def pool_digest(files: Sequence[RecordFile]) -> str:
    """SHA-256 of a file's bytes; of several files, of their names and digests. Raises `RunError`."""
    if len(files) == 1:
        return sha256_file(files[0].path)
    lines = "".join(f"{file.path.name}\0{sha256_file(file.path)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


class _FilePool(NamedTuple):
    """What one file of a pool holds."""

    name: str
    rows: int
    """Records that were read, answered or not."""
    prompts: pa.Table
    columns: dict[str, str]
    unanswered: list[str]


def _read_file(file: RecordFile, config: PoolConfig, first_row: int) -> _FilePool:
    """The prompts of one file, their rows numbered from `first_row`."""
    columns, batches = (_parquet if file.kind == "parquet" else _json)(file, config)
    read = _Read(file, columns, first_row)
    for batch in batches:
        read.add(batch)
    table = pa.Table.from_batches(read.tables, READ_SCHEMA)
    if not table.num_rows:
        name = ".".join(columns.answer)
        raise PoolError(
            f"{file.path}: all {len(read.unanswered)} rows have a blank answer in column {name!r}; "
            "name another with --answer-column"
        )
    names = columns.names()
    if columns.id:
        ids, names["id"] = _unique_ids(file, columns, table)
        table = table.set_column(1, "prompt_id", ids)
    return _FilePool(file.path.stem, read.rows - first_row, table.select(POOL.names), names, read.unanswered)


def _together(read: Sequence[_FilePool]) -> tuple[pa.Table, tuple[str, ...]]:
    """The prompts of several files: ids made unique, sources filled in, and a note on what was changed."""
    notes = []
    ids = [prompt_id for part in read for prompt_id in part.prompts["prompt_id"].to_pylist()]
    repeat = len(ids) - len(set(ids))
    if repeat:
        notes.append(f"{repeat:,} ids occur in more than one file: every id has its file's name in front")
    names = _distinct([part.name for part in read])
    tables = []
    for part, name in zip(read, names, strict=True):
        table = part.prompts
        if repeat:
            named = pa.array([f"{name}/{prompt_id}" for prompt_id in table["prompt_id"].to_pylist()], pa.string())
            table = table.set_column(1, "prompt_id", named)
        source = pa.array([source or name for source in table["source"].to_pylist()], pa.string())
        tables.append(table.set_column(POOL.get_field_index("source"), "source", source))
    return pa.concat_tables(tables), tuple(notes)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, those that repeat with their number behind."""
    return [name if names.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(names)]


def _json(file: RecordFile, config: PoolConfig) -> tuple[Columns, Iterator[Batch]]:
    records = islice(read_records(file), config.limit or None)
    first = list(islice(records, BATCH))
    if not first:
        raise PoolError(f"the pool {file.path} is empty")
    columns = find_columns(columns_of_records(record for _, record in first), config, str(file.path))
    rest = iter(lambda: list(islice(records, BATCH)), [])
    return columns, chain([first], rest)


def _parquet(file: RecordFile, config: PoolConfig) -> tuple[Columns, Iterator[Batch]]:
    parquet = parquet_file(file)
    if parquet.metadata.num_rows == 0:
        raise PoolError(f"the pool {file.path} is empty")
    schema = parquet.schema_arrow
    seen = columns_of_schema(schema)
    if any(holds_json(field.type) for field in schema):  # the schema does not say what is in JSON
        first = islice((record for _, record in read_records(file)), BATCH)
        seen = {**columns_of_records(first), **{n: p for n, p in seen.items() if not is_json(schema.field(p[0]).type)}}
    columns = find_columns(seen, config, str(file.path))
    records = islice(read_records(file, columns.read(schema)), config.limit or None)
    return columns, iter(lambda: list(islice(records, BATCH)), [])


class _Read:
    """Turns batches of records into columns; `PoolError` for the first cell that cannot be used."""

    def __init__(self, file: RecordFile, columns: Columns, first_row: int) -> None:
        self.file = file
        self.columns = columns
        self.tables: list[pa.RecordBatch] = []
        self.unanswered: list[str] = []
        self.rows = first_row

    def add(self, batch: Batch) -> None:
        """Append a batch of records."""
        kept = []
        for row, (place, record) in enumerate(batch, self.rows):
            cells = self._cells(row, place, record)
            if cells is None:
                self.unanswered.append(self.file.place(place))
            else:
                kept.append(cells)
        self.rows += len(batch)
        columns = zip(*kept, strict=True) if kept else [()] * len(READ_SCHEMA)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, READ_SCHEMA.types, strict=True)]
        self.tables.append(pa.record_batch(arrays, schema=READ_SCHEMA))

    def _cells(self, row: int, place: int, record: dict[str, Any]) -> tuple[Any, ...] | None:
        """One row of `READ_SCHEMA`; None without an answer."""
        columns = self.columns
        role, path = "problem", columns.problem
        try:
            problem, messages = problem_text(value_at(record, path))
            role, path = "answer", columns.answer
            answer = answer_text(required_at(record, path), worked=path[-1] == "solution")
            role, path = "id", columns.id
            prompt_id = id_text(value_at(record, path)) if path else str(row)
        except ValueError as error:
            where = f"{self.file.path}: {self.file.place(place)}"
            raise PoolError(
                f"{where}: the {role} in column {'.'.join(path)!r} {error}; repair or remove it, "
                f"or name another column with --{role}-column"
            ) from error
        if not answer:
            return None
        source = source_text(value_at(record, columns.source)) if columns.source else ""
        split = source_text(value_at(record, columns.split)) if columns.split else ""
        return row, prompt_id, problem, messages, answer, source, split, place


def _unique_ids(file: RecordFile, columns: Columns, table: pa.Table) -> tuple[pa.ChunkedArray, str]:
    """The ids, and the column or columns they came from. Raises `PoolError` for a repeated id."""
    name = ".".join(columns.id)
    candidates = [(name, table["prompt_id"])]
    if columns.id_found and name == "extra_info.index":
        if columns.source:
            candidates.append(_joined(table, {columns.source: "source", columns.id: "prompt_id"}))
        if columns.source and columns.split:
            roles = {columns.source: "source", columns.split: "split", columns.id: "prompt_id"}
            candidates.append(_joined(table, roles))
    repeat = (0, 0)
    for name, ids in candidates:
        found = _first_repeat(ids)
        if found is None:
            return ids, name
        repeat = found
    first, second = (file.place(table["place"][row].as_py()) for row in repeat)
    raise PoolError(
        f"{file.path}: the id {ids[repeat[0]].as_py()!r} (column {name}) occurs twice: {first} and {second}; "
        "remove one, or name another column with --id-column"
    )


def _joined(table: pa.Table, roles: dict[ColumnPath, str]) -> tuple[str, pa.ChunkedArray]:
    """Ids that join several columns with slashes, and the name that says so."""
    name = "/".join(".".join(path) for path in roles)
    return name, pc.binary_join_element_wise(*(table[role] for role in roles.values()), "/")


def _first_repeat(ids: pa.ChunkedArray) -> tuple[int, int] | None:
    """The rows of the first value that occurs a second time."""
    seen: dict[str, int] = {}
    for row, value in enumerate(ids.to_pylist()):
        first = seen.setdefault(value, row)
        if first != row:
            return first, row
    return None
