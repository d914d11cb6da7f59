"""Rewards of one's own: both signatures get what their trainers give, and what goes wrong in them is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learnalign.cli.asked import Asked
from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import RewardError
from learnalign.pool.rows import row_reader
from learnalign.rewards import Prompt, Verdict, Verifier, make_verifier
from learnalign.runs import pipeline

Made = Callable[..., Verifier]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Makes a judge from the source of a file and the name of its function."""

    def make(source: str, name: str = "reward", seconds: float = 20.0, threshold: float = 1.0) -> Verifier:
        file = tmp_path / "mine.py"
        file.write_text(source)
        verifier = f"{file}:{name}"
        return make_verifier(verifier, workers=2, timeout_seconds=seconds, memory_mb=1024, threshold=threshold)

    return make


def test_verl_signature_gets_what_verl_gives(made: Made) -> None:
    row = {"data_source": "gsm8k", "reward_model": {"ground_truth": ["7", "seven"]}, "extra_info": {"index": 3}}
    plain = {"question": "?", "answer": "9"}
    prompts = [Prompt("a", "?", None, "gsm8k", row), Prompt("b", "?", None, "", plain)]
    source = "def reward(data_source, solution_str, ground_truth, extra_info=None):\n"
    source += (
        "    assert [data_source, ground_truth, extra_info] == __import__('json').loads(solution_str)\n    return 1"
    )
    expected = [["gsm8k", ["7", "seven"], {"index": 3}], ["", "9", plain]]
    with made(source) as judge:
        verdicts = judge.judge([json.dumps(e) for e in expected], ["7", "9"], prompts)
    assert verdicts == [Verdict(True, 1.0, "reward")] * 2


def test_trl_signature_gets_what_trl_gives(made: Made) -> None:
    source = """
def reward(completions, prompts, level, **columns):
    assert set(columns) == {"answer"}, columns
    assert len(completions) == len(prompts) == len(level) == len(columns["answer"]) > 1
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    roles = {"text" if isinstance(c, str) else c[0]["role"] for c in completions}
    assert roles == ({"text"} if isinstance(prompts[0], str) else {"assistant"})
    return [None if text == "?" else float(text) * n for text, n in zip(texts, level)]
"""
    chat = [{"role": "user", "content": "hm"}]
    first = Prompt("a", "hm", None, "", {"prompt": "hm", "answer": "1", "level": 2})
    second = Prompt("b", "hm", chat, "", {"prompt": chat, "answer": "1", "level": 3})
    with made(source, threshold=2.0) as judge:
        verdicts = judge.judge(["1", "?", "0.5", "1", "0"], ["1"] * 5, [first] * 3 + [second] * 2)
    assert verdicts == [
        Verdict(True, 2.0, "reward"),
        Verdict(False, 0.0, "no reward"),
        Verdict(False, 1.0, "wrong"),
        Verdict(True, 3.0, "reward"),
        Verdict(False, 0.0, "wrong"),
    ]


def test_correct_and_reward_are_kept_apart(made: Made) -> None:
    source = """
def reward(data_source, solution_str, ground_truth, extra_info=None):
    score, acc = eval(solution_str)
    return score if acc is None else {"score": score, "acc": acc}
"""
    cases = ["1.0, None", "0.9, None", "2.0, False", "-1.0, True", "0.0, True", "True, None"]
    with made(source) as judge:
        verdicts = judge.judge(cases, [""] * 6)
    assert [(v.correct, v.reward) for v in verdicts] == [
        (True, 1.0),
        (False, 0.9),
        (False, 2.0),
        (True, -1.0),
        (True, 0.0),
        (True, 1.0),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('no such unit')", "prompt 'p7': ValueError: no such unit (mine.py, line 2)"),
        ("return 'good'", "prompt 'p7': ValueError: a reward must be a number, found 'good'"),
        ("return float('nan')", "must be finite, found nan"),
        ("return {'acc': 1}", "no 'score', only 'acc'"),
        ("raise SystemExit(3)", "prompt 'p7': SystemExit: 3"),
    ],
)
def test_what_goes_wrong_names_the_prompt(made: Made, body: str, message: str) -> None:
    with (
        made(f"def reward(data_source, solution_str, ground_truth, extra_info=None):\n    {body}") as judge,
        pytest.raises(RewardError) as caught,
    ):
        judge.judge(["x"], ["y"], [Prompt("p7")])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_trl_lists_of_another_length_are_refused(made: Made) -> None:
    source = "def reward(completions, prompts, **columns):\n    return [1.0]"
    with made(source) as judge, pytest.raises(RewardError, match="'p': ValueError: it must return a list of 2 rewards"):
        judge.judge(["x", "y"], ["", ""], [Prompt("p"), Prompt("p")])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def other(x): pass", "has no function reward"),
        ("def reward(x, y): pass", "must be a plain function compute_score(data_source"),
        ("async def reward(completions, **columns): pass", "must be a plain function"),
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it' (mine.py, line 1)"),
        ("def reward(:", "SyntaxError"),
    ],
)
def test_unfit_files_are_refused(made: Made, source: str, message: str) -> None:
    with made(source) as judge, pytest.raises(RewardError) as caught:
        judge.judge(["x"], ["y"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"no file .*none\.py"):
        make_verifier(f"{tmp_path}/none.py:reward", workers=1, timeout_seconds=1, memory_mb=100)


def test_hangs_and_crashes_cost_one_call(made: Made) -> None:
    source = """
import os, sys, time, subprocess
print("chatter on standard output", flush=True)
def reward(data_source, solution_str, ground_truth, extra_info=None):
    print(sys.stdin.read())
    if solution_str == "hang":
        subprocess.run(["sleep", "1000"])
    if solution_str == "crash":
        os.abort()
    return float(solution_str)
"""
    with made(source, seconds=10) as judge:  # only a hang uses them up
        verdicts = judge.judge(["1", "hang", "0", "crash", "1"], [""] * 5)
    assert [v.how for v in verdicts] == ["reward", "timeout", "wrong", "crash", "reward"]
    assert "sleep\0" + "1000" not in "".join(p.read_text() for p in Path("/proc").glob("[0-9]*/cmdline") if _there(p))


def _there(path: Path) -> bool:
    try:
        path.read_text()
    except OSError:
        return False
    return True


def test_pool_rows_come_as_they_are(tmp_path: Path) -> None:
    rows = [{"question": str(k), "answer": {"deep": [k]}, "k": k} for k in range(5)]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    (tmp_path / "b.json").write_text(json.dumps({"data": rows}))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.json", "c.parquet"):
        assert row_reader(tmp_path / name)([4, 0, 4]) == [rows[4], rows[0], rows[4]]


def test_in_a_run_a_changed_function_makes_its_stage_stale(tmp_path: Path) -> None:
    """Rewards of the user's reach advantages and success rates; the source is an input of the stage."""
    file = tmp_path / "mine.py"
    file.write_text(
        "def reward(completions, prompts, answer, **columns):\n"
        "    return [1.5 if a.split('#### ')[-1] in c else 0.25 for c, a in zip(completions, answer)]\n"
    )
    config = Config(
        pool=PoolConfig(path=str(write_pool(tmp_path / "pool.jsonl", 40, seed=3))),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=12, batch_sequences=128),
        reward=RewardConfig(verifier=f"{file}:reward"),
        sketch=SketchConfig(dimension=1024, dtype="float32"),
        select=SelectConfig(n=4),
    )
    run = pipeline.create_run(tmp_path / "run", config)
    pipeline.work(run, config, "reward", pipeline.Progress(quiet=True))
    parts = sorted((tmp_path / "run" / "rewards").glob("part-*.parquet"))
    table = pa.concat_tables(map(pq.read_table, parts))
    assert set(table["reward"].to_pylist()) == {1.5, 0.25}
    assert [reward == 1.5 for reward in table["reward"].to_pylist()] == table["correct"].to_pylist()
    assert pipeline.stale(run)["reward"] == []
    file.write_text(file.read_text().replace("0.25", "0.0"))
    assert "reward function" in pipeline.stale(run)["reward"][0]
    pipeline.work(run, config, "reward", pipeline.Progress(quiet=True))
    assert set(pa.concat_tables(map(pq.read_table, parts))["reward"].to_pylist()) == {1.5, 0.0}


def test_the_command_line_remembers_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run can be gone on with from another folder."""
    monkeypatch.chdir(tmp_path)
    config = Asked({}, ["reward.verifier=mine.py:reward"], None).config(tmp_path / "run")
    assert config.reward.verifier == f"{tmp_path / 'mine.py'}:reward"
    assert Asked({}, [], None).config(tmp_path / "run").reward.verifier == "math"
