"""Writes the selected rows of a pool as `selection.jsonl` and `selection.parquet`, ready for a trainer.

The rows are the pool's own, every column unchanged, in the order asked for, with learnalign's columns behind
them; `learnalign_` columns that the pool already has (it is itself a selection) are left out. Only the
selected rows are held in memory, except that a .json pool is parsed whole. This module does not choose rows
and does not interpret the pool's columns (see `pool`).

What one of the two formats cannot hold:

- A column of a JSON pool that Arrow cannot hold unchanged (mixed types, integers beyond 64 bits, empty objects, objects
  whose keys differ from row to row) has the type `arrow.json` in the Parquet file, which `datasets` reads as the values
  themselves and others as text; a note says so. A column that a row has not is null there.
- JSON has no NaN and no infinity: null in the JSONL file; a note says so.
- Binary values of a Parquet pool are base64 in the JSONL file, times are ISO 8601 text, decimals are text,
  maps are lists of [key, value].
"""

from __future__ import annotations

import base64
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign.errors import ArrayError, PoolError
from learnalign.files import write_parquet, write_text
from learnalign.pool.arrow import plain_schema
from learnalign.pool.records import (
    Record,
    RecordFile,
    parquet_batches,
    parquet_file,
    parse_line,
    raw_lines,
    read_records,
    readable_parquet,
    records_of_table,
    records_or_errors,
    row_count,
)
from learnalign.pool.sources import Paths, pool_files

OWN = "learnalign_"
SAMPLE = 1000
"""Rows of a JSON pool that give an empty selection its columns and types."""

IntArray = np.ndarray[Any, np.dtype[np.int64]]


class SelectionFiles(NamedTuple):
    """What `write_selection` wrote."""

    jsonl: Path
    parquet: Path
    notes: list[str]
    """One sentence for each column that a file could not hold as it is."""


def write_selection(
    pool_path: Paths,
    rows: Sequence[int] | np.ndarray[Any, Any],
    extra: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]],
    directory: str | Path,
    name: str = "selection",
) -> SelectionFiles:
    """Write the pool's rows numbered `rows`, in that order, to `directory`/`name`.{jsonl,parquet}.

    `rows` are row numbers of the pool (`Pool.prompts["row"]`), none for an empty selection. `extra` maps the
    name of each further column, which starts with `learnalign_`, to one value a selected row.

    Raises `ArrayError` for a negative row or an extra column of another length or name, `PoolError` for a
    pool that cannot be read or no longer has these rows, `RunError` for a directory that cannot be written.
    """
    rows = [int(row) for row in rows]
    if min(rows, default=0) < 0:
        raise ArrayError(f"the row numbers of a selection must be 0 or more, found {min(rows)}")
    columns = {name: _extra_column(name, values, len(rows)) for name, values in extra.items()}
    files = pool_files(pool_path)
    table, records, notes = _selected(files[0], rows) if len(files) == 1 else _selected_of_several(files, rows)
    for added, column in columns.items():
        table = table.append_column(added, column)
        for record, value in zip(records, column.to_pylist(), strict=True):
            record[added] = value
    lines, not_finite = _lines(records)
    notes += [f"column {column!r} holds NaN or infinity: null in {name}.jsonl" for column in not_finite]
    written = SelectionFiles(Path(directory) / f"{name}.jsonl", Path(directory) / f"{name}.parquet", notes)
    write_text(written.jsonl, lines)
    write_parquet(written.parquet, table)
    return written


def _selected(file: RecordFile, rows: list[int]) -> tuple[pa.Table, list[Record], list[str]]:
    """The rows of one file, as a table and as objects, and notes on what the table could not hold."""
    if file.kind == "parquet":
        table = _selected_table(file, rows)
        return table, records_of_table(table), []
    records = _selected_records(file, rows)
    table, notes = _table_of_records(records or _sample(file))
    return table.slice(0, len(records)), records, notes


def _selected_of_several(files: Sequence[RecordFile], rows: list[int]) -> tuple[pa.Table, list[Record], list[str]]:
    """The same of rows that are numbered through several files: all their columns, absent ones null."""
    ends = np.cumsum([0, *map(row_count, files)])
    if rows and max(rows) >= ends[-1]:
        raise PoolError(f"the pool has no row {max(rows)}, only {ends[-1]} rows; has it changed since it was read?")
    tables: list[pa.Table] = []
    records: dict[int, Record] = {}
    notes: dict[str, None] = {}
    order: list[int] = []
    for file, first, end in zip(files, ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        own = [row for row in rows if first <= row < end]
        table, objects, said = _selected(file, [row - first for row in own])
        tables.append(table)
        records.update(zip(own, objects, strict=True))
        notes.update(dict.fromkeys(said))
        order += own
    ordered = [records[row] for row in rows]
    names = [set(table.schema.names) for table in tables]
    if any(other != names[0] for other in names):
        notes["the files of the pool have different columns: those that a row has not are null"] = None
    place = {row: k for k, row in enumerate(order)}
    try:
        together = pa.concat_tables(tables, promote_options="default")  # which changes no value
        table = together.take(pa.array([place[row] for row in rows], pa.int64()))
    except (pa.ArrowException, TypeError):  # one column of two types
        table, said = _table_of_records(ordered)
        notes.update(dict.fromkeys(said))
    return table, ordered, list(notes)


def try_export(pool_path: Paths, rows: Sequence[int]) -> list[str]:
    """Do with these rows of the pool what exporting does, and leave nothing; returns the notes.

    So that what cannot be exported is refused before anything is sampled. Raises as `write_selection`.
    """
    with tempfile.TemporaryDirectory(prefix="learnalign-") as folder:
        return write_selection(pool_path, rows, {}, folder).notes


def _extra_column(name: str, values: Sequence[Any] | np.ndarray[Any, Any], rows: int) -> pa.Array:
    if not name.startswith(OWN):
        raise ArrayError(f"a column added to a selection must be named {OWN}..., found {name!r}")
    if len(values) != rows:
        raise ArrayError(f"column {name} needs one value a selected row: {rows}, found {len(values)}")
    return pa.array(np.asarray(values))


def _selected_table(file: RecordFile, rows: list[int]) -> pa.Table:
    """The rows of a Parquet file, in the order asked for, with the file's own schema and metadata."""
    parquet = parquet_file(file)
    schema = plain_schema(parquet.schema_arrow)
    _check_range(file, rows, parquet.metadata.num_rows)
    wanted, position = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
    pieces = []
    with readable_parquet(file.path):
        for start, table in _tables_near(file, parquet, wanted):
            first, stop = np.searchsorted(wanted, [start, start + len(table)])
            pieces.append(table.take(pa.array(wanted[first:stop] - start)))
        together = pa.concat_tables(pieces) if pieces else schema.empty_table()
        ordered = together.take(pa.array(position))
    keep = [i for i, name in enumerate(schema.names) if not name.startswith(OWN)]
    return ordered.select(keep)


def _tables_near(file: RecordFile, parquet: pq.ParquetFile, wanted: IntArray) -> Iterator[tuple[int, pa.Table]]:
    """(first row, table) over the row groups that hold a wanted row; `wanted` is sorted."""
    start = 0
    for group in range(parquet.num_row_groups):
        stop = start + parquet.metadata.row_group(group).num_rows
        if np.searchsorted(wanted, start) < np.searchsorted(wanted, stop):
            for table in parquet_batches(file, groups=[group]):
                yield start, table
                start += len(table)
        start = stop


def _selected_records(file: RecordFile, rows: list[int]) -> list[Record]:
    """The objects of a JSON file, in the order asked for, each a copy without learnalign's columns."""
    wanted = set(rows)
    last = max(wanted, default=-1)
    found: dict[int, Record] = {}
    count = 0
    if file.kind == "lines":
        for number, line in raw_lines(file):  # lines that were not selected are not parsed
            if count in wanted:
                found[count] = parse_line(file, number, line)
            count += 1
            if count > last:
                break
    else:
        for row, record in read_records(file):
            count += 1
            if row in wanted:
                found[row] = record
    _check_range(file, rows, count)
    return [{k: v for k, v in found[row].items() if not k.startswith(OWN)} for row in rows]


def _sample(file: RecordFile) -> list[Record]:
    first = [record for _, (_, record) in zip(range(SAMPLE), records_or_errors(file), strict=False)]
    return [{k: v for k, v in r.items() if not k.startswith(OWN)} for r in first if not isinstance(r, PoolError)]


def _check_range(file: RecordFile, rows: list[int], count: int) -> None:
    for row in rows:
        if row >= count:
            raise PoolError(f"{file.path} has no row {row}, only {count} rows; has it changed since it was read?")


def _table_of_records(records: list[Record]) -> tuple[pa.Table, list[str]]:
    """Columns of JSON objects in order of first appearance, and a note for each that is JSON text."""
    names = list(dict.fromkeys(name for record in records for name in record))
    columns, notes = {}, []
    for name in names:
        values = [record.get(name) for record in records]
        column = _arrow_column(values)
        if column is None:
            notes.append(
                f"column {name!r} cannot be an Arrow column unchanged: JSON in selection.parquet, which datasets reads "
                "as values; where text arrives, train on selection.jsonl"
            )
            text = [None if v is None else json.dumps(v, ensure_ascii=False, default=_json_value) for v in values]
            column = pa.array(text, pa.json_())
        columns[name] = column
    return pa.table(columns), notes


def _arrow_column(values: list[Any]) -> pa.Array | None:
    """The values as Arrow infers them, None where it refuses or would change them."""
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError):
        return None
    unchanged = not _holds_empty_struct(column.type) and _same(values, column.to_pylist())
    return column if unchanged else None


def _holds_empty_struct(kind: pa.DataType) -> bool:
    """Whether a type contains a struct without fields, which Parquet cannot store."""
    if pa.types.is_list(kind):
        return _holds_empty_struct(kind.value_type)
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_holds_empty_struct(field.type) for field in kind.fields)
    return False


def _same(json_value: Any, arrow_value: Any) -> bool:
    """Equal values, objects with the same keys; a whole number may be a float of the same value."""
    if isinstance(json_value, dict):
        return (
            isinstance(arrow_value, dict)
            and json_value.keys() == arrow_value.keys()
            and all(_same(json_value[k], v) for k, v in arrow_value.items())
        )
    if isinstance(json_value, list | tuple):
        return (
            isinstance(arrow_value, list)
            and len(json_value) == len(arrow_value)
            and all(map(_same, json_value, arrow_value))
        )
    if isinstance(json_value, float) and math.isnan(json_value):
        return isinstance(arrow_value, float) and math.isnan(arrow_value)
    return isinstance(json_value, bool) == isinstance(arrow_value, bool) and bool(json_value == arrow_value)


def _lines(records: list[Record]) -> tuple[str, list[str]]:
    """The records as JSON Lines, and the columns in which NaN or infinity became null."""
    lines = []
    not_finite: dict[str, None] = {}
    for record in records:
        try:
            lines.append(_dump(record))
        except ValueError:  # json refuses NaN and infinity
            finite = {name: _finite(value) for name, value in record.items()}
            not_finite.update({name: None for name in record if not _same(record[name], finite[name])})
            lines.append(_dump(finite))
    return "".join(line + "\n" for line in lines), list(not_finite)


def _dump(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, default=_json_value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_value(value: Any) -> Any:
    """What JSON holds in place of a value of Parquet's that it has no type for."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else str(value)
