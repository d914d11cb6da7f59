"""Rows as they are: the pool's by number, for rewards that see more of a prompt than its answer, and a file's in turn.

By number the file is held in memory (Parquet: decoded; JSON Lines: unparsed), since responses come in another order
than prompts. This module does not interpret the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from learnalign.errors import PoolError
from learnalign.pool.export import records_of_table
from learnalign.pool.records import (
    RecordFile,
    json_records,
    open_records,
    parquet_file,
    parse_line,
    raw_lines,
    readable_parquet,
)

BATCH = 8192

RowReader = Callable[[Sequence[int]], list[dict[str, Any]]]
"""Row numbers of the file (`Pool.prompts["row"]`) to rows, every column unchanged."""


def row_reader(path: str | Path) -> RowReader:
    """A function that gives the rows of the pool at `path`. Both raise `PoolError`."""
    file = open_records(path)
    if file.kind == "parquet":
        parquet = parquet_file(file)
        with readable_parquet(file.path):
            table = parquet.read()
        return _checked(
            file.path, table.num_rows, lambda rows: records_of_table(table.take(pa.array(rows, pa.int64())))
        )
    if file.kind == "lines":
        lines = list(raw_lines(file))
        return _checked(file.path, len(lines), lambda rows: [parse_line(file, *lines[row]) for row in rows])
    records = [record for _, record in json_records(file)]
    return _checked(file.path, len(records), lambda rows: [records[row] for row in rows])


def parquet_records(file: RecordFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place, row) of every row of a Parquet file, in order; one batch at a time in memory. Raises `PoolError`."""
    parquet = parquet_file(file)
    place = 0
    with readable_parquet(file.path):
        for batch in parquet.iter_batches(BATCH):
            for record in records_of_table(pa.Table.from_batches([batch])):
                yield place, record
                place += 1


def _checked(path: Path, count: int, read: RowReader) -> RowReader:
    def rows(numbers: Sequence[int]) -> list[dict[str, Any]]:
        if numbers and max(numbers) >= count:
            raise PoolError(f"{path} has no row {max(numbers)}, only {count} rows; has it changed since it was read?")
        return read(numbers)

    return rows
