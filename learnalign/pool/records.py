"""Opens a pool file and yields its records: JSON Lines, JSON or Parquet; one clear line for each bad file.

A record has two numbers: its row (0 for the first record) and its place, which is what a person can look up:
the line of a JSON Lines file (1 for the first; blank lines count but are no records), the row of any other
file. This module does not know what a column means (see `columns`) and writes nothing.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from learnalign.errors import PoolError
from learnalign.pool.arrow import decoded, holds_json, without_views

KINDS: dict[str, Literal["lines", "document", "parquet"]] = {
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "document",
    ".parquet": "parquet",
}
BATCH = 8192
"""Records of a Parquet file that are decoded at a time."""

CONVERT = {
    ".zst": "unpack it with 'zstd -d'",
    ".xz": "unpack it with 'xz -d'",
    ".bz2": "unpack it with 'bunzip2'",
    ".zip": "unpack it with 'unzip'",
    ".csv": "write it as Parquet, such as with pandas.read_csv(...).to_parquet(...)",
    ".tsv": "write it as Parquet, such as with pandas.read_csv(..., sep='\\t').to_parquet(...)",
    ".arrow": "write it as Parquet, with datasets.Dataset.from_file(...).to_parquet(...)",
}
"""What to do with files of other kinds."""
_DECODER = json.JSONDecoder()
LFS_POINTER = b"version https://git-lfs"

Record = dict[str, Any]


@dataclass(frozen=True)
class RecordFile:
    """A file that exists, can be opened, and has a known suffix."""

    path: Path
    kind: Literal["lines", "document", "parquet"]
    gzipped: bool

    def place(self, number: int) -> str:
        """How a person finds the record with this place number."""
        return f"line {number}" if self.kind == "lines" else f"row {number} (counted from 0)"


def open_records(path: str | Path) -> RecordFile:
    """Check that `path` is a readable pool file. Raises `PoolError`."""
    path = Path(path)
    if path.is_dir():
        raise PoolError(f"the pool {path} is a directory; give one .jsonl, .json or .parquet file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = suffixes[-1:] == [".gz"]
    named = suffixes[:-1] if gzipped else suffixes
    kind = KINDS.get(named[-1]) if named else None
    if kind is None or (gzipped and kind == "parquet"):
        known = ", ".join(KINDS)
        how = CONVERT.get(suffixes[-1]) if suffixes else None
        if how:
            raise PoolError(f"the pool {path} is not of a kind that is read: {how}; known: {known}")
        raise PoolError(f"the pool {path} has no known suffix; known: {known}, and .gz after the JSON ones")
    with _readable(path):
        _refuse_pointer(path)
        return RecordFile(path, kind, gzipped)


def read_records(file: RecordFile, columns: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (place, record) for each record of a file, in order. Raises `PoolError`.

    columns: those, or fields of them, that a Parquet file is read for; None is all. JSON Lines are streamed and
    Parquet is read batch by batch within its row groups (Arrow cannot read every nested column across two of them);
    a JSON document is held in memory whole.
    """
    if file.kind == "parquet":
        yield from enumerate(record for batch in parquet_batches(file, columns) for record in records_of_table(batch))
    elif file.kind == "document":
        yield from enumerate(_document(file))
    else:
        for number, line in raw_lines(file):
            yield number, parse_line(file, number, line)


def records_or_errors(file: RecordFile) -> Iterator[tuple[int, Record | PoolError]]:
    """Like `read_records`, but a line that cannot be read is what would be raised, in its place."""
    if file.kind != "lines":
        yield from read_records(file)
        return
    for number, line in raw_lines(file):
        try:
            yield number, parse_line(file, number, line)
        except PoolError as error:
            yield number, error


def raw_lines(file: RecordFile) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, bytes) for each line of a JSON Lines file that is not blank. Raises `PoolError`."""
    with _readable(file.path), _open(file) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, line


def parse_line(file: RecordFile, number: int, line: bytes) -> dict[str, Any]:
    """The JSON object in one line. Raises `PoolError` with the line number."""
    try:
        # A byte order mark is what some editors put in front of the first line.
        record = _json_value(line.rstrip().decode("utf-8-sig" if number == 1 else "utf-8"))
        _refuse_lone_surrogates(record, line)
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise PoolError(f"{_line(file, number)} is not valid UTF-8 ({error.reason}); save the file as UTF-8") from error
    except RecursionError as error:
        raise PoolError(f"{_line(file, number)} is nested too deeply") from error
    except ValueError as error:
        hint = "; a file that holds one JSON array must be named .json" if line.lstrip()[:1] == b"[" else ""
        raise PoolError(f"{_line(file, number)} is not valid JSON: {_json_problem(error)}{hint}") from error
    if not isinstance(record, dict):
        hint = "; a file that holds one JSON array must be named .json" if isinstance(record, list) else ""
        raise PoolError(f"{_line(file, number)} must be a JSON object, found {_json_type(record)}{hint}")
    return record


def _line(file: RecordFile, number: int) -> str:
    return f"{file.path}: line {number}"


def _json_value(text: str) -> Any:
    """As `json.loads`, which takes twice as long over a short text: it looks for what may stand around the value."""
    try:
        value, end = _DECODER.raw_decode(text)
    except ValueError:
        end = -1
    return value if end == len(text) else json.loads(text)


def parquet_file(file: RecordFile) -> pq.ParquetFile:
    """The opened Parquet file. Raises `PoolError`."""
    with readable_parquet(file.path):
        return pq.ParquetFile(file.path)


def parquet_batches(
    file: RecordFile, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> Iterator[pa.Table]:
    """A Parquet file in tables of at most `BATCH` rows, none across two row groups, views as plain types.

    columns: names of columns, or dotted of their fields; None is all. groups: of rows; None is all. Raises `PoolError`.
    """
    parquet = parquet_file(file)
    with readable_parquet(file.path):
        for group in range(parquet.num_row_groups) if groups is None else groups:
            yield from map(without_views, _group_batches(parquet, group, columns))


def _group_batches(parquet: pq.ParquetFile, group: int, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """One row group in tables; in smaller ones from where Arrow cannot hold a batch (nested text of over 2 GB)."""
    done, size = 0, BATCH
    while True:
        try:
            for start, batch in _from_row(parquet.iter_batches(size, row_groups=[group], columns=columns), done):
                yield pa.Table.from_batches([batch.slice(start)])
                done += len(batch) - start
            return
        except (pa.ArrowNotImplementedError, pa.ArrowCapacityError):
            if size == 1:
                raise
            size = max(1, size // 16)


def _from_row(batches: Iterator[pa.RecordBatch], row: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(where to begin in it, batch) for the batches that have rows from `row` on."""
    for batch in batches:
        if row < len(batch):
            yield row, batch
        row = max(0, row - len(batch))


def row_count(file: RecordFile) -> int:
    """How many records a file has; of JSON Lines, the lines that are not blank. Raises `PoolError`."""
    if file.kind == "parquet":
        return int(parquet_file(file).metadata.num_rows)
    return sum(1 for _ in (raw_lines(file) if file.kind == "lines" else read_records(file)))


@contextmanager
def readable_parquet(path: Path) -> Iterator[None]:
    """Turn what Arrow raises on a damaged file into `PoolError`."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        _refuse_pointer(path)
        first = str(error).splitlines()[0]
        raise PoolError(f"{path} is not a readable Parquet file: {first}") from error


def _refuse_pointer(path: Path) -> None:
    """Raise `PoolError` for what git leaves of a file in Git LFS until it is fetched."""
    with path.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise PoolError(f"{path} is a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'")


def records_of_table(table: pa.Table) -> list[Record]:
    """Rows as dictionaries of Python values."""
    columns = [_python_values(column) for column in table.columns]
    for k, field in enumerate(table.schema):
        if holds_json(field.type):
            columns[k] = [decoded(value, field.type) for value in columns[k]]
    return [dict(zip(table.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _python_values(column: pa.ChunkedArray) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except ValueError:  # Python's datetime stops at microseconds; Arrow writes all nine digits
        values = column.cast(_nanoseconds_as_text(column.type)).to_pylist()
    return values


def _nanoseconds_as_text(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_nanoseconds_as_text(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_nanoseconds_as_text(field.type)) for field in kind.fields])
    return pa.string() if pa.types.is_temporal(kind) and "[ns" in str(kind) else kind


def _document(file: RecordFile) -> list[dict[str, Any]]:
    with _readable(file.path), _open(file) as stream:
        data = stream.read()
    try:
        document = json.loads(data.decode("utf-8-sig"))
        _refuse_lone_surrogates(document, data)
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise PoolError(f"{file.path}: line {number} is not valid UTF-8; save the file as UTF-8") from error
    except UnicodeEncodeError as error:
        raise PoolError(f"{file.path} is not valid UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise PoolError(f"{file.path} is nested too deeply") from error
    except ValueError as error:
        lines = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        hint = "; a file that holds one JSON object a line must be named .jsonl" if lines else ""
        raise PoolError(f"{file.path} is not valid JSON: {_json_problem(error)}{hint}") from error
    rows = _list_of_rows(file.path, document)
    for row, record in enumerate(rows):
        if not isinstance(record, dict):
            where = f"{file.path}: {file.place(row)}"
            raise PoolError(f"{where} must be a JSON object, found {_json_type(record)}")
    return cast(list[dict[str, Any]], rows)


def _list_of_rows(path: Path, document: Any) -> list[Any]:
    """The array itself, or the one list of objects in a wrapping object such as {"data": [...]}."""
    if isinstance(document, list):
        return document
    expected = 'an array of objects, or an object with one list of objects such as {"data": [...]}'
    if not isinstance(document, dict):
        raise PoolError(f"{path} must hold {expected}, found {_json_type(document)}")
    lists = [key for key, value in document.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) != 1:
        found = f"{len(lists)} such lists ({', '.join(lists)})" if lists else "no such list"
        raise PoolError(f"{path} must hold {expected}; found {found}")
    return cast(list[Any], document[lists[0]])


def _refuse_lone_surrogates(record: Any, data: bytes) -> None:
    r"""Raise `UnicodeEncodeError` for text such as "\ud800", which no UTF-8 file or Arrow column can hold."""
    if b"\\u" in data and (b"\\ud" in data or b"\\uD" in data):
        json.dumps(record, ensure_ascii=False).encode("utf-8")


def _json_problem(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        at = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        return f"{error.msg} at {at}"
    return str(error).splitlines()[0]


def _json_type(value: Any) -> str:
    names = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean"}
    return names.get(type(value), "null")


def _open(file: RecordFile) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file.path, "rb") if file.gzipped else open(file.path, "rb"))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise PoolError(f"the pool {path} does not exist; check the path") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PoolError(f"the pool {path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise PoolError(f"cannot read the pool {path}: {error.strerror or error}") from error
