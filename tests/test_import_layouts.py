"""Logs as trainers really write them: what their ids, numbers and conversations are taken for, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, SelectConfig
from learnalign.demo.run import POLICY
from learnalign.errors import LogError
from learnalign.logs.importing import import_rollouts
from learnalign.logs.reader import read_logs
from learnalign.progress import Progress
from learnalign.rewards.correctness import all_or_nothing, contradiction, distinct_rewards
from learnalign.rewards.verdict import as_verdict, is_correct
from learnalign.runs.directory import RunDir

Rows = list[dict[str, Any]]
PROBLEMS = ["12+30", "sort 312", "7+8", "99+1"]


def lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pool(folder: Path) -> Path:
    return lines(folder / "pool.jsonl", [{"id": str(k), "problem": p, "answer": "5"} for k, p in enumerate(PROBLEMS)])


def imported(folder: Path, rows: Rows, with_pool: bool, threshold: float = 1.0, **columns: str) -> RunDir:
    config = Config(
        pool=PoolConfig(path=str(pool(folder)) if with_pool else ""),
        policy=PolicyConfig(model=str(POLICY)),
        reward=RewardConfig(threshold=threshold),
        select=SelectConfig(n=2),
    )
    return import_rollouts(folder / "run", [lines(folder / "1.jsonl", rows)], config, Progress(quiet=True), **columns)


def groups(run: RunDir) -> dict[str, int]:
    ids = pq.read_table(run.path / "rollouts" / "part-000000.parquet")["prompt_id"].to_pylist()
    return {prompt_id: ids.count(prompt_id) for prompt_id in ids}


def notes(run: RunDir) -> str:
    return "\n".join(run.record("rollout")["notes"])


def verl(problem: str, number: int, **more: Any) -> dict[str, Any]:
    return {"input": problem, "output": f"{number}", "gts": "5", "score": float(number % 2), "step": 1, **more}


# --- 1: ids ---


@pytest.mark.parametrize("with_pool", [False, True])
def test_one_uid_a_response_does_not_split_prompts(tmp_path: Path, with_pool: bool) -> None:
    rows = [verl(p, k, uid=f"{p}-{k}") for p in PROBLEMS for k in range(8)]
    run = imported(tmp_path, rows, with_pool)
    assert sorted(groups(run).values()) == [8] * 4
    assert ("32 by text" if with_pool else "the ids of the log are not taken: 8 of them") in notes(run)


def test_row_numbers_of_another_file_give_no_responses_to_other_prompts(tmp_path: Path) -> None:
    rows = [verl(p, k, index=len(PROBLEMS) - 1 - n) for n, p in enumerate(PROBLEMS) for k in range(4)]
    run = imported(tmp_path, rows, True)
    table = pq.read_table(run.path / "rollouts" / "part-000000.parquet")
    problems = {row["prompt_id"]: row["problem"] for row in pq.read_table(run.path / "pool.parquet").to_pylist()}
    assert groups(run) == {"0": 4, "1": 4, "2": 4, "3": 4}
    assert [problems[i] for i in table["prompt_id"].to_pylist()] == [row["input"] for row in rows]
    assert "ids of the log are not those of the pool: '3' is '12+30' in the log and '99+1' in the pool" in notes(run)


def test_an_id_that_several_prompts_share_is_not_taken(tmp_path: Path) -> None:
    run = imported(tmp_path, [verl(p, k, id="x") for p in PROBLEMS for k in range(4)], False)
    assert groups(run) == {"0": 4, "1": 4, "2": 4, "3": 4}
    assert "'x' has 4 different prompts" in notes(run)


def test_ids_that_agree_are_taken_and_said(tmp_path: Path) -> None:
    run = imported(tmp_path, [verl(f"Question: {p}", k, id=n) for n, p in enumerate(PROBLEMS) for k in (0, 1)], True)
    assert groups(run) == {"0": 2, "1": 2, "2": 2, "3": 2}
    assert "8 by id" in notes(run)


# --- 2: what counts as correct ---


@pytest.mark.parametrize("value", [True, 1, 1.0, False, 0, -1, np.float32(1.0), np.bool_(False)])
def test_verdicts(value: Any) -> None:
    assert as_verdict(value) == (value == 1)


@pytest.mark.parametrize("value", [0.1, 2, "yes", float("nan"), [1]])
def test_no_verdicts(value: Any) -> None:
    with pytest.raises(ValueError, match="must be true or false, 1 or 0, or 1 or -1, found"):
        as_verdict(value)


def test_a_reward_that_went_through_float32_reaches_its_threshold() -> None:
    assert is_correct(float(np.float32(0.9)), 0.9)
    assert not is_correct(0.899, 0.9)
    assert is_correct(1.0, 1.0)
    assert not is_correct(0.0, 1.0)


@pytest.mark.parametrize(
    ("rewards", "threshold", "correct"),
    [
        ([0.9, 0], 1.0, None),
        ([0.9, 0], 0.9, [True, False]),
        ([2, 1.5, 0], 1.0, [True, True, False]),
        ([3, 1], 1.0, None),
        ([3, 1], 3.0, [True, False]),
        ([1, -1], 1.0, [True, False]),
    ],
)
def test_rewards_of_other_scales(
    tmp_path: Path, rewards: list[float], threshold: float, correct: list[bool] | None
) -> None:
    rows = [{**verl(p, 1), "score": reward} for p in PROBLEMS for reward in rewards]
    if correct is None:
        which = "every response counts" if min(rewards) >= threshold else "no response counts"
        with pytest.raises(LogError, match=f"{which} as correct, .*--set reward.threshold=X .*--correct-column"):
            imported(tmp_path, rows, False, threshold)
        return
    run = imported(tmp_path, rows, False, threshold)
    assert f"{4 * sum(correct):,} of {len(rows):,} responses count as correct; rewards: {max(rewards):g} (4" in notes(
        run
    )


def test_an_acc_that_is_no_verdict_is_refused_until_named(tmp_path: Path) -> None:
    rows = [verl(p, k, acc=0.1 + 0.4 * k) for p in PROBLEMS for k in range(2)]
    with pytest.raises(LogError, match=r"1.jsonl: line 1: a verdict in column 'acc' .* found 0.1; .*--correct-column"):
        imported(tmp_path, rows, False)
    run = imported(tmp_path, rows, False, 0.5, correct_column="acc")
    assert "4 of 8 responses count as correct" in notes(run)


def test_an_acc_against_the_score_is_refused_until_named(tmp_path: Path) -> None:
    rows = [verl(p, k, acc=1 - k % 2) for p in PROBLEMS for k in range(2)]
    with pytest.raises(
        LogError, match=r"contradict each other: .* correct has the reward 0, and one that is not has 1"
    ):
        imported(tmp_path, rows, False)
    assert "4 of 8" in notes(imported(tmp_path, rows, False, correct_column="acc"))


def test_a_penalty_leaves_a_verdict_as_it_is(tmp_path: Path) -> None:
    scores = [(1.0, True), (0.7, True), (-1.0, False), (0.0, True)]
    rows = [{**verl(p, 1), "score": score, "acc": acc} for p in PROBLEMS for score, acc in scores]
    assert "0.7 (4, correct), 0 (4, correct), -1 (4, not correct)" in notes(imported(tmp_path, rows, False))


def test_many_rewards_are_listed_shortly() -> None:
    rewards = np.arange(1000) / 1000
    text = distinct_rewards(rewards, rewards >= 0.5)
    assert text.startswith("500 of 1,000 responses count as correct; rewards: 0.999 (1, correct)")
    assert "992 values between" in text
    assert len(text) < 300


def test_laws_of_correctness() -> None:
    """Against the definitions in plain words, on random groups."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(1, 8))
        prompts, rewards = rng.integers(0, 3, n), rng.integers(0, 3, n).astype(float)
        correct = rng.random(n) < rng.choice([0, 0.5, 1])
        pairs = [(i, j) for i in range(n) for j in range(n) if prompts[i] == prompts[j] and rewards[i] < rewards[j]]
        assert bool(all_or_nothing(prompts, rewards, correct)) == (bool(pairs) and correct.all() == correct.any())
        found = contradiction(prompts, rewards, correct)
        inverted = [(i, j) for i, j in pairs if correct[i] and not correct[j]]
        assert found in inverted if inverted else found is None


# --- 3: TRL's numbers ---


def trl(path: Path, **more: list[Any]) -> Path:
    common = {"step": [1, 1], "prompt": ["p", "p"], "completion": ["a", "b"], "advantage": [0.1, -0.1]}
    pq.write_table(pa.table({**common, **more}), path)
    return path


def test_numbers_of_trl_that_are_no_rewards_have_to_be_told_apart(tmp_path: Path) -> None:
    log = trl(tmp_path / "a.parquet", accuracy_reward=[1.0, 0.0], completion_length=[120, 80])
    with pytest.raises(LogError, match=r"'completion_length' are not evidently .*--reward-column accuracy_reward"):
        list(read_logs([log]))
    assert [one.reward for one in read_logs([log], "accuracy_reward")] == [1.0, 0.0]
    alone = trl(tmp_path / "b.parquet", solved_it=[1.0, 0.0])
    assert [one.reward for one in read_logs([alone])] == [1.0, 0.0]


def test_what_was_added_up_is_named(tmp_path: Path) -> None:
    log = trl(tmp_path / "a.parquet", accuracy_reward=[1.0, 0.0], format_reward=[0.5, 0.5])
    said: list[str] = []
    assert [one.reward for one in read_logs([log], notes=said)] == [1.5, 0.5]
    assert said == ["rewards are accuracy_reward + format_reward"]
    said = []
    found = [one.reward for one in read_logs([log], "accuracy_reward=2,format_reward=0.1", notes=said)]
    assert found == pytest.approx([2.05, 0.05])
    assert said == ["rewards are 2 x accuracy_reward + 0.1 x format_reward"]


# --- 4: conversations ---

ANSWER = {"role": "assistant", "content": "4"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "calc"}]}


def only(path: Path, row: dict[str, Any]) -> Any:
    (one,) = read_logs([lines(path, [{"prompt": "p", "reward": 1.0, **row}])])
    return one


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"completion": [CALL, {"role": "tool", "content": "4"}, ANSWER]},
            r"one message .*found 3 \(assistant, tool, a",
        ),
        ({"completion": [ANSWER, {"role": "tool", "content": "9"}]}, "found 2"),
        ({"completion": [{"role": "tool", "content": "9"}]}, r"found 1 \(tool\)"),
        ({"completion": [CALL]}, "call no tools"),
        (
            {"response": "let me\nuser\n<tool_response>9</tool_response>\nassistant\n9"},
            "'<tool_response>', the sign of",
        ),
        ({"response": "<search>x</search><information>Doc 1</information>9"}, "'<information>', the sign of"),
        ({"tokens": [1, 2, 3, 4], "response_mask": [1, 0, 0, 1]}, "leaves out 2 token ids"),
        ({"tokens": [1, 2], "response_mask": [0, 0]}, "leaves out 2 token ids"),
        ({"tokens": [1, 2], "response_mask": [1]}, "0 or 1 for each of 2 token ids"),
    ],
)
def test_output_of_tools_is_not_the_response(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(LogError, match=f"line 1: .*{message}") as caught:
        only(tmp_path / "log.jsonl", row)
    assert "\n" not in str(caught.value)


def test_one_message_and_masked_padding_are_the_response(tmp_path: Path) -> None:
    assert only(tmp_path / "a.jsonl", {"completion": [ANSWER]}).response == "4"
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "4"}]}]
    assert only(tmp_path / "b.jsonl", {"completion": parts}).response == "4"
    masked = only(tmp_path / "c.jsonl", {"tokens": [1, 2, 0, 0], "completion_mask": [1, 1, 0, 0]})
    assert masked.tokens.tolist() == [1, 2]


# --- foreign files ---


def test_a_foreign_file_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    lines(tmp_path / "1.jsonl", [verl("p", 1)])
    lines(tmp_path / "args.jsonl", [{"learning_rate": 1e-6}])
    (tmp_path / "broken.json").write_text("{")
    said: list[str] = []
    assert len(list(read_logs([tmp_path], notes=said))) == 1
    assert [note.split()[0] for note in said] == ["args.jsonl", "broken.json"]
    with pytest.raises(LogError, match="no prompt; looked"):
        list(read_logs([tmp_path / "args.jsonl"]))
    (tmp_path / "1.jsonl").unlink()
    with pytest.raises(LogError, match=r"hold no responses: args\.jsonl is passed over"):
        list(read_logs([tmp_path]))
