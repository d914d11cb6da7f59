"""A selection is the pool's own rows, unchanged, in both formats, with learnalign's columns behind them."""

from __future__ import annotations

import ast
import base64
import gzip
import json
import math
import tempfile
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnalign.config import PoolConfig
from learnalign.errors import ArrayError, PoolError, RunError
from learnalign.pool import read_pool
from learnalign.pool.export import write_selection

NAMES = ("learnalign_score", "learnalign_rank", "learnalign_success_rate")


def extra(count: int) -> dict[str, Any]:
    score = 1 / np.arange(3, count + 3)
    return dict(zip(NAMES, (score, np.arange(1, count + 1), [0.5] * count), strict=True))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def without_extra(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert all(tuple(record)[-len(NAMES) :] == NAMES for record in records)
    return [{key: value for key, value in record.items() if key not in NAMES} for record in records]


def verl_table(rows: int) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "data_source": "a",
                "prompt": [{"role": "user", "content": f"q{i}"}] * (1 + i % 2),
                "reward_model": {"ground_truth": str(i), "style": None if i % 3 == 0 else "rule"},
                "extra_info": {"index": i, "tags": ["x"] * (i % 3)},
            }
            for i in range(rows)
        ]
    ).replace_schema_metadata({"pandas": "{}", "huggingface": '{"info": {}}'})


# --- Parquet pools ---


@pytest.mark.parametrize("group", [1, 7, 1000])
@pytest.mark.parametrize("rows", [[], [0], [99, 0, 50, 51, 7], list(range(99, -1, -1)), [3, 3]])
def test_parquet_rows_and_schema_are_the_pools_own(tmp_path: Path, rows: list[int], group: int) -> None:
    pq.write_table(verl_table(100), tmp_path / "pool.parquet", row_group_size=group)
    pool = pq.read_table(tmp_path / "pool.parquet")
    files = write_selection(tmp_path / "pool.parquet", rows, extra(len(rows)), tmp_path)
    assert files.notes == []
    written = pq.read_table(files.parquet)
    own = written.select(pool.schema.names)
    assert own.schema.equals(pq.read_schema(tmp_path / "pool.parquet"), check_metadata=True)
    assert own.equals(pool.take(pa.array(rows, pa.int64())))
    assert written.schema.names == [*pool.schema.names, *NAMES]
    assert written["learnalign_score"].to_pylist() == extra(len(rows))["learnalign_score"].tolist()
    records = read_lines(files.jsonl)
    assert records == written.to_pylist()
    assert without_extra(records) == own.to_pylist()


@pytest.mark.parametrize("compliant", [True, False])
def test_names_inside_lists_are_kept(tmp_path: Path, compliant: bool) -> None:
    """Files written by older Arrow name a list's field "item", newer ones "element"."""
    pool = tmp_path / "pool.parquet"
    pq.write_table(verl_table(3), pool, use_compliant_nested_type=compliant)
    files = write_selection(pool, [1], {}, tmp_path)
    assert str(pq.read_schema(files.parquet)) == str(pq.read_schema(pool))
    assert str(pq.ParquetFile(files.parquet).schema).split("\n")[1:] == str(pq.ParquetFile(pool).schema).split("\n")[1:]


def test_values_that_json_has_no_type_for(tmp_path: Path) -> None:
    columns = {
        "bytes": pa.array([b"\x00\xff"]),
        "day": pa.array([date(2024, 2, 29)]),
        "micro": pa.array([datetime(2024, 2, 29, 1, 2, 3, 4)], pa.timestamp("us")),
        "nano": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
        "nested": pa.array([{"at": [1_700_000_000_123_456_789]}], pa.struct({"at": pa.list_(pa.timestamp("ns"))})),
        "clock": pa.array([time(1, 2, 3)], pa.time64("us")),
        "span": pa.array([timedelta(seconds=90)], pa.duration("us")),
        "price": pa.array([Decimal("1.50")]),
        "half": pa.array(np.array([0.5], np.float16)),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "category": pa.array(["x"]).dictionary_encode(),
        "nothing": pa.nulls(1),
    }
    pq.write_table(pa.table(columns), tmp_path / "pool.parquet")
    files = write_selection(tmp_path / "pool.parquet", [0], extra(1), tmp_path)
    written = pq.read_table(files.parquet)
    assert written.select(list(columns)).equals(pq.read_table(tmp_path / "pool.parquet"))
    record = read_lines(files.jsonl)[0]
    assert base64.b64decode(record["bytes"]) == b"\x00\xff"
    assert datetime.fromisoformat(record["micro"]) == datetime(2024, 2, 29, 1, 2, 3, 4)
    assert record["nano"].endswith("22:13:20.123456789")
    assert record["nested"]["at"][0].endswith("22:13:20.123456789")
    rest = {key: record[key] for key in ("day", "clock", "span", "price", "half", "map", "category", "nothing")}
    assert rest == {
        "day": "2024-02-29",
        "clock": "01:02:03",
        "span": "0:01:30",
        "price": "1.50",
        "half": 0.5,
        "map": [["k", 1]],
        "category": "x",
        "nothing": None,
    }


def test_nan_is_null_in_json_and_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [math.nan, 1.0], "y": [[1.0], [math.inf]], "z": [1.0, 2.0]}), tmp_path / "p.parquet")
    files = write_selection(tmp_path / "p.parquet", [0, 1], {}, tmp_path)
    assert read_lines(files.jsonl) == [{"x": None, "y": [1.0], "z": 1.0}, {"x": 1.0, "y": [None], "z": 2.0}]
    assert pq.read_table(files.parquet)["y"].to_pylist() == [[1.0], [math.inf]]
    assert [note.split()[1] for note in files.notes] == ["'x'", "'y'"]


# --- JSON pools ---

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalar = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
value = st.recursive(scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))
names = text.filter(lambda name: not name.startswith("learnalign_"))
record = st.dictionaries(names, value, min_size=1, max_size=4)


def exact(value: Any) -> str:
    """Text that tells 1 from 1.0 and from True, and shows the order of keys."""
    return json.dumps(value)


@settings(max_examples=50, deadline=None)
@given(st.lists(record, min_size=1, max_size=6), st.data(), st.sampled_from([".jsonl", ".json", ".jsonl.gz"]))
def test_any_json_comes_back_unchanged(records: list[dict[str, Any]], data: st.DataObject, suffix: str) -> None:
    rows = data.draw(st.lists(st.integers(0, len(records) - 1), max_size=8))
    with tempfile.TemporaryDirectory() as directory:
        pool = Path(directory) / ("pool" + suffix)
        lines = "\n\n".join(map(json.dumps, records)) if "jsonl" in suffix else json.dumps(records)
        pool.write_bytes(gzip.compress(lines.encode()) if suffix.endswith(".gz") else lines.encode())
        files = write_selection(pool, rows, extra(len(rows)), directory)
        chosen = [records[row] for row in rows]
        assert exact(without_extra(read_lines(files.jsonl))) == exact(chosen)
        table = pq.read_table(files.parquet)
        assert table.num_rows == len(rows)
        told = [note.removeprefix("column ").rsplit(" cannot be an", 1)[0] for note in files.notes]
        as_text = set(map(ast.literal_eval, told))
        for expected, found in zip(chosen, table.to_pylist(), strict=True):
            for name, value in expected.items():
                held = json.loads(found[name]) if name in as_text and value is not None else found[name]
                assert exact(without_absent(held, value)) == exact(as_float(value, held))


def without_absent(held: Any, value: Any) -> Any:
    """Arrow's value without the nulls of keys that the JSON value does not have, in its order of keys."""
    if isinstance(value, dict) and isinstance(held, dict):
        assert all(held[key] is None for key in held.keys() - value.keys())
        return {key: without_absent(held[key], inner) for key, inner in value.items()}
    if isinstance(value, list) and isinstance(held, list):
        return [without_absent(h, v) for h, v in zip(held, value, strict=True)]
    return held


def as_float(value: Any, held: Any) -> Any:
    """The JSON value, whole numbers as floats where Arrow holds floats: the one type it may widen to."""
    if isinstance(value, dict) and isinstance(held, dict):
        return {key: as_float(inner, held[key]) for key, inner in value.items()}
    if isinstance(value, list) and isinstance(held, list):
        return [as_float(v, h) for v, h in zip(value, held, strict=True)]
    if type(value) is int and type(held) is float:
        assert int(held) == value
        return float(value)
    return value


def test_columns_keep_their_order_types_and_dates(tmp_path: Path) -> None:
    records = [
        {"question": "é\u2028", "answer": 1, "when": "2024-01-01 00:00:00", "meta": {"a": 1}},
        {"answer": 2, "question": "q", "late": [1.5], "when": "2024-01-02", "meta": {"b": "x"}},
    ]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, records)))
    files = write_selection(tmp_path / "pool.jsonl", [1, 0], extra(2), tmp_path)
    assert [note.split()[1] for note in files.notes] == ["'meta'"]
    assert exact(without_extra(read_lines(files.jsonl))) == exact(records[::-1])
    table = pq.read_table(files.parquet)
    assert table.schema.names[:5] == ["answer", "question", "late", "when", "meta"]
    assert table.schema.field("when").type == pa.string()
    assert [json.loads(text) for text in table["meta"].to_pylist()] == [{"b": "x"}, {"a": 1}]
    assert table["late"].to_pylist() == [[1.5], None]


@pytest.mark.parametrize(
    "values",
    [
        [1, "x"],
        [True, 1],
        [2**70, 1],
        [{}, {}],
        [[{}], []],
        [{"a": 1}, {"a": "x"}],
        [2**53 + 1, 0.5],
        ["x", {"a": 1}],
    ],
    ids=str,
)
def test_column_that_arrow_cannot_hold_is_json_text_and_told(tmp_path: Path, values: list[Any]) -> None:
    (tmp_path / "pool.json").write_text(json.dumps([{"id": i, "odd": value} for i, value in enumerate(values)]))
    files = write_selection(tmp_path / "pool.json", [1, 0], {}, tmp_path)
    assert [row["odd"] for row in read_lines(files.jsonl)] == values[::-1]
    table = pq.read_table(files.parquet)
    assert exact([json.loads(text) for text in table["odd"].to_pylist()]) == exact(values[::-1])
    assert table.schema.field("id").type == pa.int64()
    assert len(files.notes) == 1
    assert "'odd'" in files.notes[0]


def test_empty_selection_of_a_json_pool_keeps_its_columns(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text('{"question": "q", "answer": 1}\n{"question": "q", "extra": [1.5]}\n')
    files = write_selection(tmp_path / "pool.jsonl", [], extra(0), tmp_path)
    assert files.jsonl.read_bytes() == b""
    schema = pq.read_schema(files.parquet)
    assert schema.names == ["question", "answer", "extra", *NAMES]
    assert [schema.field(i).type for i in range(3)] == [pa.string(), pa.int64(), pa.list_(pa.float64())]
    assert pq.read_table(files.parquet).num_rows == 0


# --- both ---


@pytest.mark.parametrize("name", ["selection.jsonl", "selection.parquet"])
def test_selection_of_a_selection_replaces_our_columns(tmp_path: Path, name: str) -> None:
    records = [{"question": f"q{i}", "answer": str(i), "learnalign_old": 1} for i in range(9)]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, records)))
    first = write_selection(tmp_path / "pool.jsonl", [8, 6, 4, 2], extra(4), tmp_path)
    (tmp_path / "again").mkdir()
    second = write_selection(tmp_path / name, [2, 1], extra(2), tmp_path / "again")
    expected = [
        {"question": f"q{i}", "answer": str(i), NAMES[0]: 1 / (3 + k), NAMES[1]: k + 1, NAMES[2]: 0.5}
        for k, i in enumerate((4, 6))
    ]
    assert exact(read_lines(second.jsonl)) == exact(expected)
    assert exact(pq.read_table(second.parquet).to_pylist()) == exact(expected)
    assert read_pool(PoolConfig(path=str(first.parquet))).columns == {
        "problem": "question",
        "answer": "answer",
    }


def test_same_input_same_bytes(tmp_path: Path) -> None:
    pq.write_table(verl_table(50), tmp_path / "p.parquet", row_group_size=7)
    pq.write_table(verl_table(50), tmp_path / "q.parquet", row_group_size=50)
    written = []
    for pool in ("p", "p", "q"):
        files = write_selection(tmp_path / f"{pool}.parquet", range(40, 10, -1), extra(30), tmp_path)
        written.append((files.jsonl.read_bytes(), files.parquet.read_bytes()))
    assert written[0] == written[1] == written[2]


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text('{"question": "q"}\n\n{"question": "r"}\n')
    pq.write_table(pa.table({"question": ["q", "r"]}), tmp_path / "pool.parquet")
    (tmp_path / "pool.json").write_text('[{"question": "q"}, {"question": "r"}]')
    for name in ("pool.jsonl", "pool.parquet", "pool.json"):
        with pytest.raises(PoolError, match="has no row 2, only 2 rows"):
            write_selection(tmp_path / name, [0, 2], {}, tmp_path)
        with pytest.raises(ArrayError, match="must be 0 or more, found -1"):
            write_selection(tmp_path / name, [0, -1], {}, tmp_path)
        with pytest.raises(ArrayError, match="needs one value a selected row: 2, found 1"):
            write_selection(tmp_path / name, [0, 1], {"learnalign_score": [1.0]}, tmp_path)
        with pytest.raises(ArrayError, match="must be named learnalign_"):
            write_selection(tmp_path / name, [0], {"question": ["x"]}, tmp_path)
        with pytest.raises(RunError, match="create the directory first"):
            write_selection(tmp_path / name, [0], {}, tmp_path / "none")
    with pytest.raises(PoolError, match="does not exist"):
        write_selection(tmp_path / "none.jsonl", [0], {}, tmp_path)
    assert not list(tmp_path.glob("selection*"))


# --- real data ---


def test_verl_file(tmp_path: Path, data_dir: Path) -> None:
    path = data_dir / "one-shot-rlvr" / "dsr_sub.parquet"
    pool = pq.read_table(path)
    rows = [1208, 0, 124, 682, 5, 6, 7, 267]
    files = write_selection(path, rows, extra(8), tmp_path)
    own = pq.read_table(files.parquet).select(pool.schema.names)
    assert own.schema.equals(pool.schema, check_metadata=True)
    assert own.equals(pool.take(rows))
    assert without_extra(read_lines(files.jsonl)) == pool.take(rows).to_pylist()
    again = read_pool(PoolConfig(path=str(files.parquet)))
    assert again.prompts["prompt_id"].to_pylist() == [str(row) for row in rows]


@pytest.mark.parametrize(
    "name",
    ["gsm8k/train.jsonl", "dapo-math-17k/dapo_math_17k.jsonl", "math/math_train.json", "math/math500.jsonl"],
)
def test_json_files(tmp_path: Path, data_dir: Path, name: str) -> None:
    raw = (data_dir / name).read_text(encoding="utf-8")
    records = json.loads(raw) if name.endswith(".json") else [json.loads(line) for line in raw.split("\n") if line]
    rows = np.random.default_rng(0).permutation(len(records))[:500]
    files = write_selection(data_dir / name, rows, extra(len(rows)), tmp_path)
    assert files.notes == []
    assert exact(without_extra(read_lines(files.jsonl))) == exact([records[row] for row in rows])
    table = pq.read_table(files.parquet)
    for column in records[0]:
        assert table[column].to_pylist() == [records[row].get(column) for row in rows]
