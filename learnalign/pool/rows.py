"""The pool's rows by number, as they are: for rewards that see more of a prompt than its answer.

The files are held in memory (Parquet: decoded; JSON Lines: unparsed), since responses come in another order than
prompts. This module does not interpret the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from learnalign.errors import PoolError
from learnalign.pool.records import (
    RecordFile,
    parquet_batches,
    parse_line,
    raw_lines,
    read_records,
    records_of_table,
)
from learnalign.pool.sources import Paths, pool_files

RowReader = Callable[[Sequence[int]], list[dict[str, Any]]]
"""Row numbers of the pool (`Pool.prompts["row"]`) to rows, every column unchanged."""


def row_reader(path: Paths) -> RowReader:
    """A function that gives the rows of the pool at `path`, numbered through all its files. Both raise `PoolError`."""
    parts = [_file_reader(file) for file in pool_files(path)]
    ends = np.cumsum([0, *(count for count, _ in parts)])

    def rows(numbers: Sequence[int]) -> list[dict[str, Any]]:
        if numbers and max(numbers) >= ends[-1]:
            raise PoolError(
                f"{path} has no row {max(numbers)}, only {ends[-1]} rows; has it changed since it was read?"
            )
        records: dict[int, dict[str, Any]] = {}
        file_of = np.searchsorted(ends, numbers, side="right") - 1
        for number, (_, read) in enumerate(parts):
            wanted = [row for row, file in zip(numbers, file_of, strict=True) if file == number]
            records.update(zip(wanted, read([int(row - ends[number]) for row in wanted]), strict=True))
        return [records[row] for row in numbers]

    return rows


def _row(tables: list[pa.Table], starts: np.ndarray[Any, Any], row: int) -> dict[str, Any]:
    """One row; tables are not put together, since their text may be more than Arrow holds in one."""
    k = int(np.searchsorted(starts, row, side="right")) - 1
    return records_of_table(tables[k].slice(row - int(starts[k]), 1))[0]


def _file_reader(file: RecordFile) -> tuple[int, RowReader]:
    """How many rows a file has, and what reads them."""
    if file.kind == "parquet":
        tables = list(parquet_batches(file))
        starts = np.cumsum([0, *(table.num_rows for table in tables)])
        return int(starts[-1]), lambda rows: [_row(tables, starts, row) for row in rows]
    if file.kind == "lines":
        lines = list(raw_lines(file))
        return len(lines), lambda rows: [parse_line(file, *lines[row]) for row in rows]
    records = [record for _, record in read_records(file)]
    return len(records), lambda rows: [records[row] for row in rows]
