"""One column of a pool as text, for quotas a source or category. This module gives columns no meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from learnalign.errors import PoolError
from learnalign.pool.columns import columns_of_schema, source_text, value_at
from learnalign.pool.records import RecordFile, json_records, open_records, parquet_file, readable_parquet

BATCH = 8192


def column_values(pool_path: str | Path, column: str, rows: Sequence[int]) -> list[str]:
    """The values of a column, perhaps dotted (`extra_info.level`), in these rows of the file; "" where there is none.

    Raises:
        PoolError: the pool cannot be read, no row has the column, or it no longer has these rows.
    """
    file = open_records(pool_path)
    values = [source_text(value) for value in _values(file, column)]
    if not any(values):
        raise PoolError(f"{file.path}: no row has a value in column {column!r}: check select.quota_column")
    if max(rows, default=0) >= len(values):
        raise PoolError(f"{file.path} has no row {max(rows)}, only {len(values)}; has it changed since it was read?")
    return [values[row] for row in rows]


def _values(file: RecordFile, column: str) -> Iterator[Any]:
    if file.kind != "parquet":
        for _, record in json_records(file):
            yield record[column] if column in record else value_at(record, tuple(column.split(".")))
        return
    parquet = parquet_file(file)
    path = columns_of_schema(parquet.schema_arrow).get(column)
    if path is None:
        return
    with readable_parquet(file.path):
        for batch in parquet.iter_batches(BATCH, columns=[path[0]]):
            for record in batch.to_pylist():
                yield value_at(record, path)
