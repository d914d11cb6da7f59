"""One file of a pool, from records to columns: rows that cannot be used, copies, and ids that are unique.

This module does not know which files a pool has (see `sources`), and does not put them together (see the package).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from learnalign.config import PoolConfig
from learnalign.errors import PoolError
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
    tools_text,
    value_at,
)
from learnalign.pool.records import Record, RecordFile, parquet_file, read_records, records_or_errors
from learnalign.pool.remarks import remarks
from learnalign.pool.share import Taken, taken_rows
from learnalign.schemas import POOL

BATCH = 8192
"""Records held as Python objects at a time."""

BAD_SHARE = 0.01
"""Of the rows that may be left out because they cannot be used."""

Batch = Sequence[tuple[int, Record | PoolError]]
"""Records, or why they cannot be read, with their places (see `records`)."""

# Two columns more than a caller sees: to make ids unique, and to say where they repeat.
READ_SCHEMA = POOL.append(pa.field("split", pa.string())).append(pa.field("place", pa.int64()))


class FilePool(NamedTuple):
    """What one file of a pool holds."""

    name: str
    rows: int
    """Records that were read, answered or not."""
    taken: int
    """Of these: not left out by the share of the file that is asked for."""
    prompts: pa.Table
    columns: dict[str, str]
    unanswered: list[str]
    notes: list[str]


def read_file(
    file: RecordFile, name: str, config: PoolConfig, first_row: int, answers: bool, seen: set[bytes], share: str = ""
) -> FilePool:
    """The prompts of one file, their rows numbered from `first_row`; copies of what was `seen` are left out.

    share: which rows are taken (see `learnalign.pool.share`); all, if empty.
    """
    columns, batches = (_parquet if file.kind == "parquet" else _json)(file, config, answers)
    read = _Read(file, columns, first_row, answers, seen, config.ignore_images, taken_rows(file, share))
    for batch in batches:
        read.add(batch)
    table = pa.Table.from_batches(read.tables, READ_SCHEMA)
    read.check()
    names = columns.names()
    notes = read.notes()
    if columns.id and table.num_rows:
        ids, names["id"], said = _unique_ids(file, columns, table)
        table = table.set_column(1, "prompt_id", ids)
        if said:
            notes.append(said)
            del names["id"]
    if columns.answer:
        notes += remarks(table["problem"].to_pylist(), table["answer"].to_pylist(), ".".join(columns.answer))
    prompts = table.select(POOL.names)
    return FilePool(name, read.rows - first_row, read.looked_at, prompts, names, read.unanswered, notes)


def _json(file: RecordFile, config: PoolConfig, answers: bool) -> tuple[Columns, Iterator[Batch]]:
    records = islice(records_or_errors(file), config.limit or None)
    first = list(islice(records, BATCH))
    if not first:
        raise PoolError(f"the pool {file.path} is empty")
    whole = [record for _, record in first if not isinstance(record, PoolError)]
    for _, record in first:
        if not whole and isinstance(record, PoolError):
            raise record
    columns = find_columns(columns_of_records(whole), config, str(file.path), answers)
    rest = iter(lambda: list(islice(records, BATCH)), [])
    return columns, chain([first], rest)


def _parquet(file: RecordFile, config: PoolConfig, answers: bool) -> tuple[Columns, Iterator[Batch]]:
    parquet = parquet_file(file)
    if parquet.metadata.num_rows == 0:
        raise PoolError(f"the pool {file.path} is empty")
    schema = parquet.schema_arrow
    seen = columns_of_schema(schema)
    if any(holds_json(field.type) for field in schema):  # the schema does not say what is in JSON
        first = islice((record for _, record in read_records(file)), BATCH)
        seen = {**columns_of_records(first), **{n: p for n, p in seen.items() if not is_json(schema.field(p[0]).type)}}
    columns = find_columns(seen, config, str(file.path), answers)
    records = islice(read_records(file, columns.read(schema)), config.limit or None)
    return columns, iter(lambda: list(islice(records, BATCH)), [])


class _Read:
    """Turns batches of records into columns, and keeps what was left out."""

    def __init__(
        self,
        file: RecordFile,
        columns: Columns,
        first_row: int,
        answers: bool,
        seen: set[bytes],
        ignore_images: bool,
        taken: Taken | None,
    ) -> None:
        self.file, self.columns, self.answers, self.seen = file, columns, answers, seen
        self.ignore_images = ignore_images
        self.tables: list[pa.RecordBatch] = []
        self.unanswered: list[str] = []
        self.copies: list[str] = []
        self.bad: list[PoolError] = []
        self.unfit_tools: list[str] = []
        self.first_row = self.rows = first_row
        self.taken, self.looked_at = taken, 0

    def add(self, batch: Batch) -> None:
        """Append a batch of records. Raises `PoolError` for an image, and once too many rows cannot be used."""
        kept = []
        for row, (place, record) in enumerate(batch, self.rows):
            if self.taken is not None and not self.taken[row - self.first_row]:
                continue
            self.looked_at += 1
            if isinstance(record, PoolError):
                self.bad.append(record)
                continue
            try:
                cells = self._cells(row, place, record)
            except _BadRow as error:
                self.bad.append(PoolError(str(error)))
                continue
            if not cells[4] and self.answers:
                self.unanswered.append(self.file.place(place))
            elif self._is_copy(cells):
                self.copies.append(self.file.place(place))
            else:
                kept.append(cells)
        self.rows += len(batch)
        columns = zip(*kept, strict=True) if kept else [()] * len(READ_SCHEMA)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, READ_SCHEMA.types, strict=True)]
        self.tables.append(pa.record_batch(arrays, schema=READ_SCHEMA))

    def check(self) -> None:
        """Raise `PoolError` where more rows than one in a hundred cannot be used, or none has an answer."""
        if len(self.bad) > BAD_SHARE * self.looked_at:
            raise self.bad[0]
        if len(self.unanswered) == self.looked_at:
            raise PoolError(
                f"{self.file.path}: all {len(self.unanswered)} rows have a blank answer in column "
                f"{'.'.join(self.columns.answer)!r}; name another with --answer-column"
            )

    def notes(self) -> list[str]:
        """What was left out beside rows without an answer."""
        notes = []
        if self.bad:
            notes.append(f"{len(self.bad):,} rows that cannot be used are left out, the first: {self.bad[0]}")
        if self.copies:
            some = ", ".join(self.copies[:3]) + (", ..." if len(self.copies) > 3 else "")
            notes.append(f"{len(self.copies):,} exact copies of other prompts are left out ({some})")
        if self.unfit_tools:
            notes.append(
                f"{len(self.unfit_tools):,} prompts are sampled without tools: column {'.'.join(self.columns.tools)!r} "
                f"{self.unfit_tools[0]}"
            )
        return notes

    def _is_copy(self, cells: tuple[Any, ...]) -> bool:
        """Whether a prompt with the same problem, messages and answer was there before."""
        key = hashlib.blake2b("\0".join(map(str, (*cells[2:5], cells[6] or ""))).encode(), digest_size=16).digest()
        before = len(self.seen)
        self.seen.add(key)
        return len(self.seen) == before

    def _cells(self, row: int, place: int, record: dict[str, Any]) -> tuple[Any, ...]:
        """One row of `READ_SCHEMA`. Raises `_BadRow`."""
        columns = self.columns
        if columns.images and not self.ignore_images and value_at(record, columns.images):
            raise PoolError(
                f"{self.file.path}: {self.file.place(place)} has images (column {columns.images[0]!r}), which no "
                "policy is shown here: say that the text alone is meant with --set pool.ignore_images=true"
            )
        role, path = "problem", columns.problem
        try:
            problem, messages = problem_text(value_at(record, path))
            role, path = "answer", columns.answer
            answer = self._answer(record)
            role, path = "id", columns.id
            prompt_id = self._id(record, row)
        except ValueError as error:
            where = f"{self.file.path}: {self.file.place(place)}"
            raise _BadRow(
                f"{where}: the {role} in column {'.'.join(path)!r} {error}; repair or remove it, "
                f"or name another column with --{role}-column"
            ) from error
        source = source_text(value_at(record, columns.source)) if columns.source else ""
        split = source_text(value_at(record, columns.split)) if columns.split else ""
        return row, prompt_id, problem, messages, answer, source, self._tools(record), split, place

    def _tools(self, record: dict[str, Any]) -> str | None:
        try:
            return tools_text(value_at(record, self.columns.tools)) if self.columns.tools else None
        except ValueError as error:
            self.unfit_tools.append(str(error))
            return None

    def _answer(self, record: dict[str, Any]) -> str:
        """The answer as text; "" for what is none where none is needed."""
        path = self.columns.answer
        try:
            return answer_text(required_at(record, path), worked=path[-1] == "solution") if path else ""
        except ValueError:
            if self.answers:
                raise
            return ""

    def _id(self, record: dict[str, Any], row: int) -> str:
        """The id as text; "" for one that is missing in a column that nobody named."""
        if not self.columns.id:
            return str(row)
        try:
            return id_text(value_at(record, self.columns.id))
        except ValueError:
            if not self.columns.id_found:
                raise
            return ""


class _BadRow(Exception):
    """A row that cannot be used, in the words of the message."""


def _unique_ids(file: RecordFile, columns: Columns, table: pa.Table) -> tuple[pa.ChunkedArray, str, str]:
    """The ids, the column or columns they came from, and a note where row numbers took their place.

    Raises `PoolError` for an id that repeats in a column that a person named.
    """
    name = ".".join(columns.id)
    candidates = [(name, table["prompt_id"])]
    if columns.id_found and name == "extra_info.index":
        if columns.source:
            candidates.append(_joined(table, {columns.source: "source", columns.id: "prompt_id"}))
        if columns.source and columns.split:
            roles = {columns.source: "source", columns.split: "split", columns.id: "prompt_id"}
            candidates.append(_joined(table, roles))
    missing = pc.sum(pc.equal(table["prompt_id"], "")).as_py()
    repeat = (0, 0)
    for name, ids in [] if missing else candidates:
        found = _first_repeat(ids)
        if found is None:
            return ids, name, ""
        repeat = found
    first, second = (file.place(table["place"][row].as_py()) for row in repeat)
    what = (
        f"the id {ids[repeat[0]].as_py()!r} (column {name}) occurs twice: {first} and {second}" if not missing else ""
    )
    if columns.id_found:
        what = what or f"column {name} is missing in {missing:,} of {table.num_rows:,} rows"
        return table["row"].cast(pa.string()).combine_chunks(), name, f"ids are row numbers: {what}"
    raise PoolError(f"{file.path}: {what}; remove one, or name another column with --id-column")


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
