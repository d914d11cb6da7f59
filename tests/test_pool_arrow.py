"""Parquet as Polars, `datasets` and trainers write it: its types, its row groups, and values of any size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learnalign.config import PoolConfig
from learnalign.errors import PoolError
from learnalign.pool import read_pool
from learnalign.pool.export import write_selection
from learnalign.pool.rows import row_reader
from learnalign.pool.values import column_values


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def verl(count: int) -> pa.Table:
    return pa.table(
        {
            "prompt": [chat(f"What is {k}?") for k in range(count)],
            "reward_model": [{"ground_truth": str(k), "style": "rule"} for k in range(count)],
            "extra_info": [{"index": k, "long": ["x" * 50] * 3} for k in range(count)],
            "data_source": pa.array([f"s{k % 2}" for k in range(count)]).dictionary_encode(),
        }
    )


def views(kind: pa.DataType) -> pa.DataType:
    """The type with its text as views, but for lists, of which Arrow writes none."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(views(field.type)) for field in kind.fields])
    return pa.string_view() if pa.types.is_string(kind) else kind


def check(path: Path, table: pa.Table, folder: Path) -> None:
    """Everything that is done with a pool gives the values of this table."""
    pool = read_pool(PoolConfig(path=str(path)))
    count = table.num_rows
    assert pool.prompts["problem"].to_pylist() == [f"What is {k}?" for k in range(count)]
    assert pool.prompts["answer"].to_pylist() == [str(k) for k in range(count)]
    assert pool.prompts["prompt_id"].to_pylist() == [str(k) for k in range(count)]
    rows = [count - 1, 0, count // 2]
    expected = [table.slice(row, 1).to_pylist()[0] for row in rows]
    assert row_reader(path)(rows) == expected
    assert column_values(path, "extra_info.index", rows) == [str(row) for row in rows]
    files = write_selection(path, rows, {}, folder)
    assert pq.read_table(files.parquet).to_pylist() == expected
    assert [json.loads(line) for line in files.jsonl.read_text().splitlines()] == expected


@pytest.mark.parametrize("group", [1, 30, 1000])
def test_nested_columns_and_dictionaries_in_many_row_groups(tmp_path: Path, group: int) -> None:
    table = verl(270)
    pq.write_table(table, tmp_path / "pool.parquet", row_group_size=group)
    check(tmp_path / "pool.parquet", table, tmp_path)


def test_views_as_polars_writes_them(tmp_path: Path) -> None:
    table = verl(20).drop_columns("data_source")
    schema = pa.schema([field.with_type(views(field.type)) for field in table.schema])
    pq.write_table(table.cast(schema), tmp_path / "pool.parquet")
    assert pa.types.is_string_view(pq.read_schema(tmp_path / "pool.parquet").field("reward_model").type.field(0).type)
    check(tmp_path / "pool.parquet", table, tmp_path)


def test_large_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array([f"What is {k}?" for k in range(9)], pa.large_string()),
            "answer": pa.array([[str(k)] for k in range(9)], pa.large_list(pa.large_string())),
            "extra_info": [{"index": k} for k in range(9)],
        }
    )
    pq.write_table(table, tmp_path / "pool.parquet")
    check(tmp_path / "pool.parquet", table, tmp_path)


def test_json_columns_of_datasets_are_values(tmp_path: Path) -> None:
    """Prompts and answers in `arrow.json` are messages and objects, and reach the selection as such."""

    def column(values: list[Any]) -> pa.Array:
        return pa.array([json.dumps(value) for value in values], pa.json_())

    plain = verl(5)
    names = ("prompt", "reward_model")
    table = pa.table({**{name: column(plain[name].to_pylist()) for name in names}, "extra_info": plain["extra_info"]})
    pq.write_table(table, tmp_path / "pool.parquet")
    pool = read_pool(PoolConfig(path=str(tmp_path / "pool.parquet")))
    assert pool.columns["answer"] == "reward_model.ground_truth"
    assert pool.prompts["problem"].to_pylist()[1] == "What is 1?"
    assert pool.prompts["messages"].null_count == 0
    assert row_reader(tmp_path / "pool.parquet")([3])[0]["reward_model"] == plain["reward_model"].to_pylist()[3]
    files = write_selection(tmp_path / "pool.parquet", [4, 2], {}, tmp_path)
    lines = [json.loads(line) for line in files.jsonl.read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [chat("What is 4?"), chat("What is 2?")]
    assert pq.read_table(files.parquet).equals(table.take([4, 2]))


def test_batches_that_arrow_cannot_hold_become_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested text of over 2 GB a batch; here Arrow is made to refuse batches of more than 40 rows, from row 64 on."""
    table = verl(300)
    pq.write_table(table, tmp_path / "pool.parquet", row_group_size=200)
    whole = pq.ParquetFile.iter_batches

    def limited(self: pq.ParquetFile, size: int, **more: Any) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in whole(self, min(size, 64), **more):
            if start >= 64 and size > 40:
                raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
            yield batch
            start += len(batch)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", limited)
    check(tmp_path / "pool.parquet", table, tmp_path)


def test_only_leaves_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(verl(3), tmp_path / "pool.parquet")
    asked: list[Any] = []
    whole = pq.ParquetFile.iter_batches

    def noted(self: pq.ParquetFile, size: int, **more: Any) -> Iterator[pa.RecordBatch]:
        asked.append(more["columns"])
        return whole(self, size, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    read_pool(PoolConfig(path=str(tmp_path / "pool.parquet")))
    assert asked == [["prompt", "reward_model.ground_truth", "extra_info.index", "data_source"]]


@pytest.mark.parametrize("name", ["pool.parquet", "pool.jsonl", "pool.json"])
def test_a_git_lfs_pointer_is_named_as_such(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(PoolError, match="is a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'"):
        read_pool(PoolConfig(path=str(tmp_path / name)))


@pytest.mark.parametrize(("name", "how"), [("p.jsonl.zst", "zstd -d"), ("p.csv", "read_csv"), ("p.json.xz", "xz -d")])
def test_other_kinds_are_refused_with_what_to_do(tmp_path: Path, name: str, how: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(PoolError, match=f"not of a kind that is read: .*{how}.*; known: .jsonl"):
        read_pool(PoolConfig(path=str(tmp_path / name)))
