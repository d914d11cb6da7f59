"""Pools in the layouts of trainers and data sets: what is read of them, and that a selection is read back unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learnalign.config import Config, PolicyConfig, PoolConfig, RolloutConfig, SelectConfig, WarmupConfig
from learnalign.demo.run import POLICY
from learnalign.errors import PoolError
from learnalign.policy import load_renderer
from learnalign.pool import Pool, read_pool
from learnalign.pool.export import write_selection
from learnalign.progress import Progress
from learnalign.rewards import make_verifier
from learnalign.rewards.answers.alternatives import alternatives
from learnalign.runs import pipeline
from learnalign.runs.directory import create_run

datasets = pytest.importorskip("datasets")
Row = dict[str, Any]
PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d49484452")


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def verl(k: int, truth: Any = None, **extra: Any) -> Row:
    return {
        "data_source": "math",
        "prompt": chat(f"What is {k}?"),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(k) if truth is None else truth},
        "extra_info": {"split": "train", "index": k, **extra},
    }


def multi_turn(k: int) -> Row:
    """verl with tools: what a tool is given differs from row to row."""
    name = ["calc", "search"][k % 2]
    tools = {name: {"create_kwargs": {"ground_truth": str(k)}, "execute_kwargs": {}}}
    return {**verl(k, need_tools_kwargs=True, tools_kwargs=tools), "agent_name": "tool_agent"}


def skywork(k: int) -> Row:
    return verl(k, json.dumps([str(k)]), model_difficulty={"DeepSeek-R1-Distill-Qwen-7B": k % 16})


def search_r1(k: int) -> Row:
    answers = [str(k), f"{k}.0"]
    row = verl(k, {"target": answers})
    return {**row, "id": f"train_{k}", "question": f"what is {k}?", "golden_answers": answers}


def swift(k: int) -> Row:
    """ms-swift for GRPO: columns beside the messages go to the reward function."""
    tools = [{"type": "function", "function": {"name": f"f{k % 3}", "parameters": {f"p{k % 3}": {}}}}]
    return {"messages": chat(f"What is {k}?"), "solution": f"so \\boxed{{{k}}}", "tools": tools}


def dapo(k: int) -> Row:
    return {**verl(k), "extra_info": {"index": f"uuid-{k}"}}


LAYOUTS: list[Callable[[int], Row]] = [verl, multi_turn, skywork, search_r1, swift, dapo]


def read_back(path: Path, cache: Path) -> list[Row]:
    """The rows as verl and TRL get them, without our columns."""
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(cache)).to_list()
    return [{name: value for name, value in row.items() if not name.startswith("learnalign_")} for row in rows]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_selection_is_read_back_unchanged(tmp_path: Path, layout: Callable[[int], Row], kind: str) -> None:
    rows = [layout(k) for k in range(12)]
    path = tmp_path / f"pool.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif layout in (multi_turn, swift):  # as current datasets writes what differs from row to row
        datasets.Dataset.from_list(rows, on_mixed_types="use_json").to_parquet(str(path))
    else:
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    expected = rows if kind == "jsonl" else read_back(path, tmp_path / "cache")
    pool = read_pool(PoolConfig(path=str(path)))
    assert pool.prompts["problem"].to_pylist() == [f"What is {k}?" for k in range(12)]
    picked = [7, 0, 3]
    files = write_selection(path, picked, {"learnalign_rank": np.arange(3)}, tmp_path)
    assert read_back(files.parquet, tmp_path / "cache") == [expected[k] for k in picked]
    if layout not in (multi_turn, swift):  # whose objects differ: datasets fills them up with nulls
        back = datasets.Dataset.from_json(str(files.jsonl), cache_dir=str(tmp_path / "cache")).to_list()
        assert back == [{**expected[k], "learnalign_rank": rank} for rank, k in enumerate(picked)]


def test_images_are_read_back_unchanged(tmp_path: Path) -> None:
    """geo3k: images as bytes, with the features that datasets leaves in the schema."""
    features = datasets.Features({"images": [datasets.Image()], "prompt": datasets.Value("string")})
    features |= {"answer": datasets.Value("string")}
    rows = [
        {"images": [{"bytes": PIXEL, "path": None}], "prompt": f"<image>What is {k}?", "answer": str(k)}
        for k in range(5)
    ]
    info = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"images": pa.list_(image), "prompt": pa.string(), "answer": pa.string()}, info)
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "pool.parquet")
    with pytest.raises(PoolError, match=r"row 0 .* has images \(column 'images'\).*--set pool.ignore_images=true"):
        read_pool(PoolConfig(path=str(tmp_path / "pool.parquet")))
    assert read_pool(PoolConfig(path=str(tmp_path / "pool.parquet"), ignore_images=True)).rows == 5
    files = write_selection(tmp_path / "pool.parquet", [4, 1], {"learnalign_rank": [1, 2]}, tmp_path)
    back = datasets.Dataset.from_parquet(str(files.parquet), cache_dir=str(tmp_path / "cache"))
    assert back.features["images"] == features["images"]
    assert back.with_format("arrow")[:].select(["images", "prompt", "answer"]).to_pylist() == [rows[4], rows[1]]


def test_what_is_not_as_it_was_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(swift(k)) + "\n" for k in range(4)))
    files = write_selection(path, [0, 1], {}, tmp_path)
    assert [note.split(":")[0] for note in files.notes] == ["column 'tools' cannot be an Arrow column unchanged"]
    assert "selection.jsonl" in files.notes[0]


# --- answers ---


def pool_of(folder: Path, rows: list[Row], answers: bool = True, **settings: Any) -> Pool:
    path = folder / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_pool(PoolConfig(path=str(path), **settings), answers)


def plain(answers: list[Any]) -> list[Row]:
    return [{"question": f"q{k}", "answer": answer} for k, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("answer", "looks"),
    [
        ('["14"]', "JSON lists of accepted answers, such as"),
        (["14", "14.0"], "JSON lists of accepted answers, such as"),
        ('{"value": 14}', "JSON objects, such as"),
        ("so it is \\boxed{14}", "whole solutions, such as"),
        ("word " * 80, "whole solutions, such as"),
        ("She sells 16 - 3 - 4 = 9 eggs a day.\nShe makes 9 * 2 = $18.\nA: 18", "whole solutions, such as"),
        ("14", ""),
        ("[1, 2]", ""),
    ],
)
def test_answers_in_disguise_are_told(tmp_path: Path, answer: Any, looks: str) -> None:
    notes = pool_of(tmp_path, plain([answer] * 3)).notes
    assert [note.startswith(f"most answers in column 'answer' look like {looks}") for note in notes] == [True] * bool(
        looks
    )


def test_any_of_the_accepted_answers_counts() -> None:
    assert alternatives('["14", "14.0"]') == ["14", "14.0"]
    assert [alternatives(one) for one in ("[1, 2]", "[", "x", "[]", '["a", 1]')] == [
        ["[1, 2]"],
        ["["],
        ["x"],
        ["[]"],
        ['["a", 1]'],
    ]
    with make_verifier("exact", workers=1, timeout_seconds=1, memory_mb=512) as judge:
        verdicts = judge.judge(["14", "no", "x", "7"], ['["15", "14"]', '["15", "14"]', '["x"]', "7"])
    assert [verdict.correct for verdict in verdicts] == [True, False, True, True]


def test_a_target_of_search_r1_is_found(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, [search_r1(k) for k in range(3)])
    assert pool.columns["answer"] == "reward_model.ground_truth.target"
    assert pool.prompts["answer"].to_pylist()[1] == '["1", "1.0"]'


def test_a_function_of_ones_own_needs_no_answers(tmp_path: Path) -> None:
    rows: list[Row] = [{"question": f"q{k}", "tests": [k]} for k in range(3)]
    with pytest.raises(PoolError, match="no answer column found"):
        pool_of(tmp_path, rows)
    pool = pool_of(tmp_path, rows, answers=False)
    assert pool.prompts["answer"].to_pylist() == [""] * 3
    mixed = plain([{"x": 1}, None, "3"])
    assert pool_of(tmp_path, mixed, answers=False).prompts["answer"].to_pylist() == ["", "", "3"]


# --- ids and copies ---


@pytest.mark.parametrize("index", [None, 0])
def test_an_index_that_tells_nothing_is_replaced_by_row_numbers(tmp_path: Path, index: int | None) -> None:
    rows = [verl(k) for k in range(4)]
    for row in rows:
        row["extra_info"]["index"] = index
    pool = pool_of(tmp_path, rows)
    assert pool.prompts["prompt_id"].to_pylist() == ["0", "1", "2", "3"]
    assert "id" not in pool.columns
    assert [note.split(":")[0] for note in pool.notes] == ["ids are row numbers"]
    with pytest.raises(PoolError, match=r"the id .* (is missing|occurs twice)"):
        pool_of(tmp_path, rows, id_column="extra_info.index")


def test_copies_are_counted_and_read_once(tmp_path: Path) -> None:
    rows = [dapo(k % 3) for k in range(300)]
    pool = pool_of(tmp_path, rows)
    assert pool.prompts["row"].to_pylist() == [0, 1, 2]
    assert pool.prompts["prompt_id"].to_pylist() == ["uuid-0", "uuid-1", "uuid-2"]
    assert pool.notes == ("297 exact copies of other prompts are left out (line 4, line 5, line 6, ...)",)
    (tmp_path / "more").mkdir()
    for name in ("a", "b"):
        (tmp_path / "more" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    both = read_pool(PoolConfig(path=str(tmp_path / "more")))
    assert both.prompts["row"].to_pylist() == [0, 1, 2]


def test_one_bad_row_in_a_hundred_is_left_out_and_listed(tmp_path: Path) -> None:
    rows = plain([str(k) for k in range(200)])
    rows[7]["question"] = 3
    pool = pool_of(tmp_path, rows)
    assert pool.rows == 199
    assert "1 rows that cannot be used are left out, the first: " in pool.notes[0]
    assert "line 8: the problem in column 'question'" in pool.notes[0]
    for k in (8, 9):
        rows[k]["question"] = 3
    with pytest.raises(PoolError, match="line 8: the problem"):
        pool_of(tmp_path, rows)


# --- prompts ---


TOOL_TEMPLATE = (
    "{% if tools %}{% for t in tools %}<tool>{{ t.function.name }}({{ t.function.parameters | tojson }})</tool>"
    "{% endfor %}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
)


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize("how", ["objects", "text", "texts", "parquet", "nemo gym"])
def test_tools_reach_the_chat_template(tmp_path: Path, how: str) -> None:
    """As datasets hold them; a column of structs has nulls for what only the other row's tools have."""
    tools = [tool("add", a={"type": "int"}), tool("sort", items={"type": "list"})]
    rows = [{"prompt": chat("12+30"), "answer": "42", "tools": [one]} for one in tools]
    if how == "text":
        rows = [{**row, "tools": json.dumps(row["tools"])} for row in rows]
    if how == "texts":
        rows = [{**row, "tools": [json.dumps(one) for one in row["tools"]]} for row in rows]
    if how == "nemo gym":
        rows = [{"responses_create_params": {"input": r["prompt"], "tools": r["tools"]}, "answer": "42"} for r in rows]
    if how == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
        assert pq.read_table(tmp_path / "p.parquet")["tools"][0].as_py()[0]["function"]["parameters"]["items"] is None
        pool = read_pool(PoolConfig(path=str(tmp_path / "p.parquet")))
    else:
        pool = pool_of(tmp_path, rows)
    assert [json.loads(one) for one in pool.prompts["tools"].to_pylist()] == [[one] for one in tools]
    assert pool.notes == ()  # two prompts that differ in their tools are no copies
    policy = load_renderer(PolicyConfig(model=str(POLICY)))
    tokenizer = deepcopy(policy.tokenizer)
    tokenizer.chat_template = TOOL_TEMPLATE
    shown = replace(policy, tokenizer=tokenizer)
    first = pool.prompts.select(["problem", "messages", "tools"]).to_pylist()[0]
    assert shown.render(**first) == '<tool>add({"a": {"type": "int"}})</tool>Be brief.12+30'
    assert shown.encode(**first) != shown.encode(first["problem"], first["messages"])


def test_a_template_that_shows_no_tools_is_told(tmp_path: Path) -> None:
    """The demo's policy knows none."""
    rows = [{"prompt": chat(f"{k}+30"), "answer": "42", "tools": [tool("add")]} for k in range(3)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = Config(
        pool=PoolConfig(path=str(tmp_path / "pool.jsonl")),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=2, responses=2),
        select=SelectConfig(n=1),
    )
    run = create_run(tmp_path / "run", asked)
    pipeline.work(run, asked, "rollout", Progress(quiet=True))
    expected = "warning: the pool has tools, and the chat template does not show them to the policy"
    assert expected in run.record("rollout")["notes"]
    warmed = replace(asked, warmup=WarmupConfig(prompts=1))
    with pytest.raises(PoolError, match="a warm-up is not shown the pool's tools"):
        pipeline.work(create_run(tmp_path / "warm", warmed), warmed, "warmup", Progress(quiet=True))


def test_tools_that_are_no_schemas_are_told(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{**verl(1), "tools": ["calc"]}]), tmp_path / "p.parquet")
    pool = read_pool(PoolConfig(path=str(tmp_path / "p.parquet")))
    assert pool.notes == (
        "1 prompts are sampled without tools: column 'tools' holds 'calc', which is no JSON schema of a tool",
    )
    assert pool_of(tmp_path, [{**verl(1), "tools": []}]).notes == ()


def test_nemo_gym(tmp_path: Path) -> None:
    rows = [{"responses_create_params": {"input": chat(f"What is {k}?")}, "expected_answer": k} for k in range(2)]
    pool = pool_of(tmp_path, rows)
    assert pool.prompts["problem"].to_pylist() == ["What is 0?", "What is 1?"]
    assert pool.columns["problem"] == "responses_create_params.input"


def test_rendered_prompts_are_taken_as_they_are(tmp_path: Path) -> None:
    policy = load_renderer(PolicyConfig(model=str(POLICY)))
    text = "<|im_start|>user\n12+30<|im_end|>\n<|im_start|>assistant\n"
    assert policy.encode(text, None) == policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert policy.encode("12+30", None) != policy.tokenizer("12+30", add_special_tokens=False)["input_ids"]
    notes = pool_of(tmp_path, [{"prompt": text, "answer": "42"}]).notes
    assert notes == ("some prompts are rendered already (they hold the marks of a chat template): taken as they are",)


def test_messages_are_kept_whole(tmp_path: Path) -> None:
    """Tool calls of earlier turns, names, and text in parts reach the chat template; images in parts are refused."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    turns = [
        {"role": "user", "content": "ask", "name": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "name": "f"},
        {"role": "user", "content": [{"type": "text", "text": "What "}, {"type": "text", "text": "now?"}]},
    ]
    pool = pool_of(tmp_path, [{"prompt": turns, "answer": "1"}])
    assert pool.prompts["problem"].to_pylist() == ["What now?"]
    assert json.loads(pool.prompts["messages"][0].as_py()) == [
        {"role": "user", "content": "ask"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3", "name": "f"},
        {"role": "user", "content": "What now?"},
    ]
    shown = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    with pytest.raises(PoolError, match="whose content is a list, not text"):
        pool_of(tmp_path, [{"prompt": shown, "answer": "1"}])
