"""Weights and slices of pools, and lines that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from learnalign.cli.asked import named
from learnalign.config import PoolConfig
from learnalign.errors import PoolError
from learnalign.pool import Pool, read_pool
from learnalign.pool.export import write_selection
from learnalign.pool.values import column_values

datasets = pytest.importorskip("datasets")


def lines(path: Path, rows: list[dict[str, Any]], more: str = "") -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + more)
    return str(path)


def rows(count: int, name: str) -> list[dict[str, Any]]:
    return [{"id": f"{name}{k}", "problem": f"{name} {k}?", "answer": str(k), "level": k % 2} for k in range(count)]


def read(*paths: str) -> Pool:
    return read_pool(PoolConfig(path=paths))


def test_shares_weigh_pools_against_each_other(tmp_path: Path) -> None:
    a, b = lines(tmp_path / "a.jsonl", rows(50, "a")), lines(tmp_path / "b.jsonl", rows(40, "b"))
    pool = read(f"{a}#30%", f"{b}#5")
    sources = pool.prompts["source"].to_pylist()
    assert (sources.count("a"), sources.count("b")) == (15, 5)
    assert "rows taken of a: 15 of 50, b: 5 of 40" in pool.notes
    assert read(f"{a}#30%", f"{b}#5").prompts == pool.prompts  # the same rows every time
    assert pool.prompts["row"].to_pylist() != list(range(20))
    written = write_selection((f"{a}#30%", f"{b}#5"), pool.prompts["row"].to_pylist(), {}, tmp_path)
    back = datasets.Dataset.from_parquet(str(written.parquet), cache_dir=str(tmp_path / "cache"))
    assert back["id"][:] == pool.prompts["prompt_id"].to_pylist()


@pytest.mark.parametrize(("share", "ids"), [("2:4", [2, 3]), (":2", [0, 1]), ("8:", [8, 9]), ("100%", range(10))])
def test_slices(tmp_path: Path, share: str, ids: list[int]) -> None:
    pool = read(f"{lines(tmp_path / 'a.jsonl', rows(10, 'a'))}#{share}")
    assert pool.prompts["row"].to_pylist() == list(ids)


@pytest.mark.parametrize(
    ("share", "says"),
    [("x", "behind # there has to be a number of rows"), ("11", "has 10 rows, and 11 of them"), ("0", "takes none")],
)
def test_shares_that_cannot_be(tmp_path: Path, share: str, says: str) -> None:
    path = lines(tmp_path / "a.jsonl", rows(10, "a"))
    with pytest.raises(PoolError, match=says):
        read(f"{path}#{share}")
    lines(tmp_path / "b.jsonl", rows(10, "b"))
    with pytest.raises(PoolError, match="is 2 files, and #3 is of one"):
        read(f"{tmp_path}#3")


def test_a_file_may_have_the_sign_in_its_name(tmp_path: Path) -> None:
    assert read(lines(tmp_path / "a#3.jsonl", rows(10, "a"))).rows == 10
    assert read(f"{tmp_path / 'a#3.jsonl'}#3").rows == 3


def test_the_command_line_leaves_shares_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = named(pool=["a.jsonl#30%", "openai/gsm8k#100"])
    assert given == {"pool": {"path": [f"{tmp_path / 'a.jsonl'}#30%", "openai/gsm8k#100"]}}


def test_a_line_that_is_no_json_is_left_out_and_listed(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", rows(150, "a"), '{"id": "cut", "prob')
    pool = read(path)
    assert pool.rows == 150
    assert any("1 rows that cannot be used are left out" in n and "line 151 is not valid JSON" in n for n in pool.notes)
    middle = [json.dumps(row) for row in rows(150, "a")]
    middle[7] = "{not json"
    Path(path).write_text("\n".join(middle))
    pool = read(path)
    assert pool.prompts["row"].to_pylist() == [k for k in range(150) if k != 7]
    assert column_values(path, "level", [8, 9]) == ["0", "1"]
    written = write_selection(path, [8, 149], {}, tmp_path)
    assert [json.loads(line)["id"] for line in written.jsonl.read_text().splitlines()] == ["a8", "a149"]


def test_more_lines_than_one_in_a_hundred_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="line 11 is not valid JSON"):
        read(lines(tmp_path / "a.jsonl", rows(10, "a"), "{not json"))
    (tmp_path / "b.jsonl").write_text("{not json\n{neither\n")
    with pytest.raises(PoolError, match="line 1 is not valid JSON"):
        read(str(tmp_path / "b.jsonl"))
