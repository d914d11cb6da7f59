"""One column of a pool as text, for quotas a source or category. This module gives columns no meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from learnalign.errors import PoolError
from learnalign.pool.columns import columns_of_schema, source_text, value_at
from learnalign.pool.records import RecordFile, parquet_file, read_records, records_or_errors
from learnalign.pool.sources import Paths, pool_files


def column_values(path: Paths, column: str, rows: Sequence[int]) -> list[str]:
    """The values of a column, perhaps dotted (`extra_info.level`), in these rows of the pool; "" where there is none.

    Raises:
        PoolError: the pool cannot be read, no row has the column, or it no longer has these rows.
    """
    values = [source_text(value) for file in pool_files(path) for value in _values(file, column)]
    if not any(values):
        raise PoolError(f"{path}: no row has a value in column {column!r}: check select.quota_column")
    if max(rows, default=0) >= len(values):
        raise PoolError(f"{path} has no row {max(rows)}, only {len(values)}; has it changed since it was read?")
    return [values[row] for row in rows]


def _values(file: RecordFile, column: str) -> Iterator[Any]:
    if file.kind != "parquet":
        for _, record in records_or_errors(file):
            if isinstance(record, PoolError):
                yield None
            else:
                yield record[column] if column in record else value_at(record, tuple(column.split(".")))
        return
    parquet = parquet_file(file)
    at = columns_of_schema(parquet.schema_arrow).get(column)
    if at is None:
        yield from [None] * parquet.metadata.num_rows
        return
    for _, record in read_records(file, [".".join(at)]):
        yield value_at(record, at)
