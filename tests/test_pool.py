r"""Pools in the shapes people have, and one clear line for each that cannot be used."""

from __future__ import annotations

import gzip
import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnalign.config import PoolConfig
from learnalign.errors import PoolError
from learnalign.pool import Pool, read_pool
from learnalign.pool.columns import answer_text, last_boxed
from learnalign.pool.reading import BATCH
from learnalign.schemas import POOL

NO_TOOLS = {"tools": None}


def lines(path: Path, records: list[Any], end: str = "\n") -> Path:
    path.write_bytes("".join(json.dumps(record) + end for record in records).encode())
    return path


def read(path: Path, **settings: Any) -> Pool:
    return read_pool(PoolConfig(path=str(path), **settings))


def refused(path: Path, **settings: Any) -> str:
    with pytest.raises(PoolError) as caught:
        read(path, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def verl_row(index: Any, source: str = "gsm8k", split: str = "train") -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": chat(
            f"What is {index}?" + (f" ({source}, {split})" if (source, split) != ("gsm8k", "train") else "")
        ),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(index)},
        "extra_info": {"split": split, "index": index},
    }


# --- shapes ---


@pytest.mark.parametrize("problem", ["prompt", "problem", "question"])
@pytest.mark.parametrize("answer", ["answer", "ground_truth", "solution", "final_answer"])
def test_plain_columns_by_name(tmp_path: Path, problem: str, answer: str) -> None:
    pool = read(lines(tmp_path / "p.jsonl", [{"level": 1, problem: "1+1?", answer: "2"}]))
    assert pool.prompts.schema.equals(POOL)
    assert pool.columns == {"problem": problem, "answer": answer}
    expected = {"row": 0, "prompt_id": "0", "problem": "1+1?", "messages": None, "answer": "2", "source": ""} | NO_TOOLS
    assert pool.prompts.to_pylist() == [expected]


def test_gsm8k_final_answer(tmp_path: Path) -> None:
    answers = [
        "1+1 = <<1+1=2>>2\n#### 2",
        "so\n#### 1,450,000",
        "so\n####  -3.5 ",
        "x #### y",
        "#### no\nmore",
    ]
    pool = read(lines(tmp_path / "p.jsonl", [{"question": "q", "answer": answer} for answer in answers]))
    assert pool.prompts["answer"].to_pylist() == ["2", "1450000", "-3.5", "x #### y", "#### no\nmore"]


def test_math_prefers_answer_to_solution(tmp_path: Path) -> None:
    row = {"problem": "p", "solution": r"... $\boxed{7}$", "answer": "seven"}
    assert read(lines(tmp_path / "p.jsonl", [row])).prompts["answer"].to_pylist() == ["seven"]
    del row["answer"]
    assert read(lines(tmp_path / "p.jsonl", [row])).prompts["answer"].to_pylist() == ["7"]


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{\frac{3}{7}}", r"\frac{3}{7}"),
        (r"first \boxed{1}, then \boxed{ \left\{ 2 \right\} }.", r"\left\{ 2 \right\}"),
        (r"\boxed{\left\{ 2 \right.}", r"\left\{ 2 \right."),
        (r"\fbox{x}", "x"),
        (r"\boxed{1", ""),
        ("none", ""),
    ],
)
def test_last_boxed(text: str, inside: str) -> None:
    assert last_boxed(text) == inside


def test_verl_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([verl_row(i) for i in (5, 3)]), tmp_path / "p.parquet")
    pool = read(tmp_path / "p.parquet")
    assert pool.columns == {
        "problem": "prompt",
        "answer": "reward_model.ground_truth",
        "id": "extra_info.index",
        "source": "data_source",
    }
    row = pool.prompts.to_pylist()[1]
    assert json.loads(row.pop("messages")) == chat("What is 3?")
    assert row == {"row": 1, "prompt_id": "3", "problem": "What is 3?", "answer": "3", "source": "gsm8k"} | NO_TOOLS


def test_verl_json_lines_give_the_same_as_parquet(tmp_path: Path) -> None:
    rows = [verl_row(i) for i in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    expected = read(tmp_path / "p.parquet").prompts.to_pylist()
    assert read(lines(tmp_path / "p.jsonl", rows)).prompts.to_pylist() == expected
    (tmp_path / "p.json").write_text(json.dumps(rows, indent=1))
    assert read(tmp_path / "p.json").prompts.to_pylist() == expected


def test_verl_index_that_repeats_between_sources_and_splits(tmp_path: Path) -> None:
    pool = read(lines(tmp_path / "p.jsonl", [verl_row(0, "a"), verl_row(0, "b")]))
    assert pool.prompts["prompt_id"].to_pylist() == ["a/0", "b/0"]
    assert pool.columns["id"] == "data_source/extra_info.index"
    rows = [verl_row("0", "a"), verl_row("0", "b"), verl_row("0", "a", "test")]
    pool = read(lines(tmp_path / "p.jsonl", rows))
    assert pool.prompts["prompt_id"].to_pylist() == ["a/train/0", "b/train/0", "a/test/0"]
    assert pool.columns["id"] == "data_source/extra_info.split/extra_info.index"


def test_verl_index_that_repeats_everywhere(tmp_path: Path) -> None:
    """Nobody asked for it: row numbers take its place. A column that was named is never combined with others."""
    rows = [verl_row(0), verl_row(1), {**verl_row(0), "prompt": chat("another")}]
    pool = read(lines(tmp_path / "p.jsonl", rows))
    assert pool.prompts["prompt_id"].to_pylist() == ["0", "1", "2"]
    expected = "ids are row numbers: the id 'gsm8k/train/0' (column data_source/extra_info.split/extra_info.index)"
    assert pool.notes == (f"{expected} occurs twice: line 1 and line 3",)
    path = lines(tmp_path / "p.jsonl", [verl_row(0, "a"), verl_row(0, "b")])
    message = refused(path, id_column="extra_info.index")
    assert "'0'" in message
    assert "--id-column" in message


def test_trl_prompt_and_solution(tmp_path: Path) -> None:
    rows = [{"prompt": chat("1+1?"), "solution": "$2$"}, {"prompt": "2+2?", "solution": "4"}]
    pool = read(lines(tmp_path / "p.jsonl", rows))
    assert pool.prompts["problem"].to_pylist() == ["1+1?", "2+2?"]
    assert pool.prompts["messages"].is_null().to_pylist() == [False, True]
    assert pool.prompts["answer"].to_pylist() == ["$2$", "4"]


def test_columns_by_option_dotted_or_not(tmp_path: Path) -> None:
    row = {
        "task": {"text": "t", "gold.value": 3},
        "meta": {"id": "b"},
        "meta.id": "a",
        "problem": "no",
        "kind": 7,
    }
    pool = read(
        lines(tmp_path / "p.jsonl", [row]),
        problem_column="task.text",
        answer_column="task.gold.value",
        id_column="meta.id",
        source_column="kind",
    )
    expected = {"row": 0, "prompt_id": "a", "problem": "t", "messages": None, "answer": "3", "source": "7"} | NO_TOOLS
    assert pool.prompts.to_pylist() == [expected]


@pytest.mark.parametrize("name", ["id", "prompt_id", "uid", "unique_id", "index"])
def test_ids_by_name(tmp_path: Path, name: str) -> None:
    rows = [{"question": f"q{value}", "answer": "a", name: value} for value in (7, "x", 8.0)]
    assert read(lines(tmp_path / "p.jsonl", rows)).prompts["prompt_id"].to_pylist() == ["7", "x", "8"]


def test_wrapped_array_gzip_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": i} for i in range(3)]
    expected = read(lines(tmp_path / "plain.jsonl", rows)).prompts
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "tags": ["x"], "data": rows}))
    text = "\ufeff" + "\r\n\r\n".join(map(json.dumps, rows))
    (tmp_path / "windows.NDJSON").write_bytes(text.encode())
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress((tmp_path / "plain.jsonl").read_bytes()))
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    for name in ("wrapped.json", "windows.NDJSON", "packed.jsonl.gz", "packed.json.gz"):
        pool = read(tmp_path / name)
        assert pool.prompts.equals(expected), name
        assert pool.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", [{"question": f"q{i}", "answer": i} for i in range(5)])
    path.write_bytes(path.read_bytes() + b"not json\n")
    pool = read(path, limit=5)
    assert (pool.rows, pool.sha256) == (5, hashlib.sha256(path.read_bytes()).hexdigest())
    assert "line 6" in refused(path)


@pytest.mark.parametrize("rows", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 1])
def test_batches_join_without_a_seam(tmp_path: Path, rows: int) -> None:
    records = [{"question": f"q{i}", "answer": i} for i in range(rows)]
    lines(tmp_path / "p.jsonl", records)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "p.parquet", row_group_size=1000)
    from_lines, from_parquet = read(tmp_path / "p.jsonl"), read(tmp_path / "p.parquet")
    assert from_lines.prompts["problem"].to_pylist() == [f"q{i}" for i in range(rows)]
    assert from_lines.prompts["row"].to_pylist() == list(range(rows))
    assert from_parquet.prompts.equals(from_lines.prompts)


# --- answers ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (72, "72"),
        (72.0, "72"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (2**80, str(2**80)),
        (True, "True"),
        (Decimal("72.00"), "72"),
        (Decimal("0.10"), "0.10"),
        (["only"], "only"),
        ([5.0], "5"),
        (" x ", "x"),
        (None, ""),
        (float("nan"), ""),
        ([], ""),
        ("  ", ""),
    ],
)
def test_answer_text(value: Any, text: str) -> None:
    assert answer_text(value, worked=False) == text


@settings(deadline=None)
@given(st.integers(-(2**53), 2**53))
def test_whole_numbers_read_alike_from_every_type(number: int) -> None:
    forms: list[Any] = [number, float(number), str(number), Decimal(number), [number]]
    assert {answer_text(form, worked=False) for form in forms} == {str(number)}


def test_rows_with_a_blank_answer_are_left_out_and_listed(tmp_path: Path) -> None:
    answers: list[Any] = ["1", None, "2", "", "3"]
    records: list[dict[str, Any]] = [{"question": "q", "answer": answer} for answer in answers]
    pool = read(lines(tmp_path / "p.jsonl", records))
    assert pool.unanswered == ("line 2", "line 4")
    assert pool.rows == 3
    assert pool.prompts["row"].to_pylist() == [0, 2, 4]
    assert pool.prompts["prompt_id"].to_pylist() == ["0", "2", "4"]
    many = [records[1], *({"question": f"q{k}", "answer": "1"} for k in range(BATCH)), records[2]]
    assert read(lines(tmp_path / "p.jsonl", many)).prompts["row"].to_pylist() == list(range(1, BATCH + 2))
    message = refused(lines(tmp_path / "p.jsonl", [records[1], records[3]]))
    assert "all 2 rows have a blank answer" in message


# --- what is refused ---

GOOD = b'{"question": "q", "answer": "a"}\n'


def test_missing_directory_suffix_and_empty(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.jsonl")
    assert "holds no .jsonl" in refused(tmp_path)
    for name in ("p.txt", "p", "p.gz", "p.parquet.gz", ".jsonl"):
        (tmp_path / name).write_bytes(GOOD)
        assert ".parquet" in refused(tmp_path / name)
    for name, content in {
        "e.jsonl": b"",
        "b.jsonl": b"\n \n",
        "e.json": b"[]",
        "z.jsonl.gz": gzip.compress(b""),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert "is empty" in refused(tmp_path / name)
    pq.write_table(pa.table({"question": pa.array([], pa.string()), "answer": []}), tmp_path / "e.parquet")
    assert "is empty" in refused(tmp_path / "e.parquet")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"question": "q", "answer"\n', "is not valid JSON: Expecting ':' delimiter at column 27"),
        (b'{"question": "q"} {}\n', "is not valid JSON: Extra data"),
        (
            b"[1, 2]\n",
            "must be a JSON object, found an array; a file that holds one JSON array must be named .json",
        ),
        (b"[\n", "named .json"),
        (b'"text"\n', "must be a JSON object, found a string"),
        (b"null\n", "must be a JSON object, found null"),
        (b"3\n", "must be a JSON object, found a number"),
        (b'{"question": "\xff", "answer": "a"}\n', "is not valid UTF-8"),
        (b'{"question": "\\ud800", "answer": "a"}\n', "is not valid UTF-8"),
        (b'{"question": ' + b"[" * 200_000 + b"\n", "is nested too deeply"),
        (b'{"question": "q", "answer": ' + b"9" * 5000 + b"}\n", "is not valid JSON"),
        (b'{"question": "q"}\n', "the answer in column 'answer' is missing"),
        (
            b'{"answer": "a"}\n',
            "the problem in column 'question' must be text or a list of chat messages, found nothing",
        ),
        (b'{"question": " ", "answer": "a"}\n', "the problem in column 'question' has no text"),
        (b'{"question": 3, "answer": "a"}\n', "found a number"),
        (b'{"question": "q", "answer": ["a", {"b": 1}]}\n', "must be text or a number, found an object"),
        (b'{"question": "q", "answer": {"x": 1}}\n', "must be text or a number, found an object"),
        (b'{"question": [], "answer": "a"}\n', "is an empty list of chat messages"),
        (
            b'{"question": ["q"], "answer": "a"}\n',
            "must hold chat messages with role and content, found text",
        ),
        (b'{"question": [{"role": "user"}], "answer": "a"}\n', "whose content is nothing, not text"),
        (b'{"question": [{"role": "system", "content": "s"}], "answer": "a"}\n', "has no user message"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: bytes, says: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(GOOD + b"\n" + line + GOOD)
    message = refused(path)
    assert "line 3" in message
    assert says in message


def test_messages_that_already_hold_the_answer_are_refused(tmp_path: Path) -> None:
    messages = [*chat("q"), {"role": "assistant", "content": "a"}]
    message = refused(lines(tmp_path / "p.jsonl", [{"messages": messages, "answer": "a"}]))
    assert "ends with an assistant message" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b'[{"question": "q", "answer": "a"}, 3]',
            "row 1 (counted from 0) must be a JSON object, found a number",
        ),
        (b'[{"question": "q", "answer": "a"},\n {"question": "q"}]', "row 1 (counted from 0): the answer"),
        (b'[{"question": "q",\n "answer": }]', "Expecting value at line 2, column 12"),
        (GOOD + GOOD, "must be named .jsonl"),
        (b'[\n"\xff"]', "line 2 is not valid UTF-8"),
        (b'["\\ud800"]', "is not valid UTF-8"),
        (b'"text"', "must hold an array of objects"),
        (b'{"a": [1], "b": {}}', "found no such list"),
        (b'{"train": [{}], "test": [{}]}', "found 2 such lists (train, test)"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_bad_document_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    assert says in refused(path)


def test_damaged_parquet_and_gzip(tmp_path: Path) -> None:
    whole = tmp_path / "p.parquet"
    pq.write_table(pa.table({"question": ["q"] * 1000, "answer": [str(i) for i in range(1000)]}), whole)
    data = whole.read_bytes()
    for damaged in (b"", GOOD, data[:-20], data[:50] + b"\xff" * 400 + data[450:]):
        whole.write_bytes(damaged)
        assert "is not a readable Parquet file" in refused(whole)
    packed = gzip.compress(GOOD * 100)
    for damaged in (GOOD, packed[:-10], packed[:20] + b"\xff" * 10 + packed[30:]):
        (tmp_path / "p.jsonl.gz").write_bytes(damaged)
        assert "is not a whole gzip file" in refused(tmp_path / "p.jsonl.gz")


def test_missing_columns_list_what_was_seen(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", [{"question": "q", "gold": "a", "meta": {"level": 1}}])
    message = refused(path)
    assert "no answer column found" in message
    assert "columns seen: question, gold, meta.level" in message
    assert "--answer-column" in message
    assert "no column 'gol' for the answer; columns seen: question, gold" in refused(path, answer_column="gol")
    for role in ("problem", "id", "source"):
        settings = {"answer_column": "gold", f"{role}_column": "none"}
        assert f"no column 'none' for the {role}" in refused(path, **settings)
    pq.write_table(
        pa.Table.from_pylist([{"prompt": chat("q"), "reward_model": {"style": "rule"}}]),
        tmp_path / "p.parquet",
    )
    assert "columns seen: prompt, reward_model.style;" in refused(tmp_path / "p.parquet")
    wide = [{f"c{i}": i for i in range(100)}]
    assert "c39 and 60 more" in refused(lines(tmp_path / "w.jsonl", wide))


def test_repeated_and_missing_ids(tmp_path: Path) -> None:
    rows = [{"question": f"q{k}", "answer": "a", "id": value} for k, value in enumerate(("x", "y", "x"))]
    path = lines(tmp_path / "p.jsonl", rows, end="\n\n")
    message = refused(path, id_column="id")
    assert "the id 'x' (column id) occurs twice: line 1 and line 5" in message
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert "row 0 (counted from 0) and row 2 (counted from 0)" in refused(tmp_path / "p.parquet", id_column="id")
    rows[2]["id"] = ""
    assert "line 5: the id in column 'id' is missing" in refused(lines(path, rows, end="\n\n"), id_column="id")


# --- real data ---


def test_gsm8k(data_dir: Path) -> None:
    pool = read(data_dir / "gsm8k" / "train.jsonl")
    assert (pool.rows, pool.unanswered) == (7473, ())
    assert pool.columns == {"problem": "question", "answer": "answer"}
    assert pool.sha256 == "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"
    assert pool.prompts["answer"][0].as_py() == "72"
    for answer in pool.prompts["answer"].to_pylist():
        float(answer)  # every final answer of GSM8K is a number


def test_dapo(data_dir: Path) -> None:
    pool = read(data_dir / "dapo-math-17k" / "dapo_math_17k.jsonl")
    assert pool.rows == 17398
    assert pool.columns == {"problem": "problem", "answer": "answer", "id": "index"}
    assert all(answer.lstrip("-").isdigit() for answer in pool.prompts["answer"].to_pylist())


def test_math(data_dir: Path) -> None:
    pool = read(data_dir / "math" / "math_train.json")
    assert pool.rows + len(pool.unanswered) == 7474
    assert "row 886 (counted from 0)" in pool.unanswered  # published with null for an answer
    path = data_dir / "math" / "math500.jsonl"
    given, worked = read(path), read(path, answer_column="solution")
    assert given.columns["id"] == "unique_id"
    pairs = zip(given.prompts["answer"].to_pylist(), worked.prompts["answer"].to_pylist(), strict=True)
    # The published answers were read from the same boxes; a few were rewritten by hand.
    assert sum("".join(a.split()) == "".join(b.split()) for a, b in pairs) >= 480


def test_verl(data_dir: Path) -> None:
    pool = read(data_dir / "one-shot-rlvr" / "dsr_sub.parquet")
    assert pool.columns["answer"] == "reward_model.ground_truth"
    assert pool.columns["id"] == "extra_info.index"
    assert pool.unanswered == ("row 265 (counted from 0)",)
    assert pool.prompts["prompt_id"].to_pylist() == [str(i) for i in range(1209) if i not in (265, 780, 899)]
    assert pool.notes[0].startswith("2 exact copies of other prompts are left out (row 780")
    assert set(pool.prompts["source"].to_pylist()) == {"deepscaler"}
    copies = read(data_dir / "one-shot-rlvr" / "pi1_r128.parquet")
    assert copies.rows == 1
    assert copies.notes[0].startswith("127 exact copies of other prompts are left out")


def test_files_that_are_no_pools(data_dir: Path) -> None:
    code = refused(data_dir / "humaneval" / "HumanEval.jsonl.gz")
    assert "columns seen: task_id, prompt, entry_point, canonical_solution, test" in code
    assert "found no such list" in refused(data_dir / "one-shot-rlvr" / "acc_step_500.json")
