"""Rollouts logged elsewhere: what comes in is what a run of our own would have had, and what does not fit is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from learnalign.cli import app
from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import LogError, PoolError, RewardError, RunError
from learnalign.logs.importing import import_rollouts
from learnalign.logs.parts import response_tokens, responses_tokens
from learnalign.logs.reader import Logged, read_logs
from learnalign.policy import Policy, load_policy
from learnalign.pool.history import read_histories
from learnalign.progress import Progress
from learnalign.runs import pipeline
from learnalign.runs.directory import RunDir

Rows = list[dict[str, Any]]
QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over 56 generated problems."""
    folder = tmp_path_factory.mktemp("sampled")
    result = pipeline.run(config(write_pool(folder / "pool.jsonl", 56, seed=3)), folder / "run")
    return result.directory


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(PolicyConfig(model=str(POLICY)))


def config(pool: Path | None) -> Config:
    return Config(
        pool=PoolConfig(path=str(pool or "")),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16, batch_sequences=128),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=1024, dtype="float32", batch_tokens=2048),
        select=SelectConfig(n=8),
    )


def rollouts(run: Path) -> Rows:
    """Every response of a run with its verdict."""
    rows: Rows = []
    for part in sorted((run / "rollouts").glob("part-*.parquet")):
        verdicts = pq.read_table(run / "rewards" / part.name).to_pylist()
        rows += [{**a, **b} for a, b in zip(pq.read_table(part).to_pylist(), verdicts, strict=True)]
    return rows


def write_lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scores(run: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(run / "scores.parquet")
    return {name: table[name].to_numpy() for name in ("success_rate", "score", "response_tokens")} | {
        "state": np.array(table["state"].to_pylist())
    }


def finished(run: RunDir) -> Path:
    """The run, gone on with to its end."""
    pipeline.work(run, run.config, "report", QUIET)
    assert (run.path / "selection.jsonl").exists()
    return run.path


def verl(rows: Rows, policy: Policy, answers: dict[str, str], step: int = 1) -> Rows:
    """Rows as verl's trainer writes them."""
    return [
        {
            "input": policy.decode(row["prompt_tokens"]),
            "output": policy.decode(row["tokens"]),
            "gts": answers[row["prompt_id"]],
            "score": row["reward"],
            "step": step,
        }
        for row in rows
    ]


def answers(run: Path) -> dict[str, str]:
    table = pq.read_table(run / "pool.parquet").to_pylist()
    return {row["prompt_id"]: row["answer"] for row in table}


def test_token_ids_and_rewards_give_the_scores_of_the_run_they_came_from(sampled: Path, tmp_path: Path) -> None:
    rows = [
        {
            "prompt_id": row["prompt_id"],
            "prompt_tokens": row["prompt_tokens"],
            "response_tokens": row["tokens"],
            "reward": row["reward"],
        }
        for row in rollouts(sampled)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    pool = sampled.parent / "pool.jsonl"
    run = import_rollouts(tmp_path / "run", [tmp_path / "log.parquet"], config(pool), QUIET)
    assert run.config.reward.verifier == "imported"
    ours, theirs = scores(finished(run)), scores(sampled)
    assert 0 < np.nanmean(theirs["success_rate"]) < 1
    np.testing.assert_array_equal(ours["success_rate"], theirs["success_rate"])
    np.testing.assert_array_equal(ours["response_tokens"], theirs["response_tokens"])
    np.testing.assert_allclose(ours["score"], theirs["score"], rtol=1e-4, atol=1e-9)
    assert [k for k, v in pipeline.stale(run).items() if v] == []
    assert {row["how"] for row in rollouts(run.path)} == {"imported", "wrong"}


def test_verl_logs_are_found_in_the_pool(sampled: Path, tmp_path: Path, policy: Policy) -> None:
    """Text logs: prompts are the pool's, rendered; of responses that ended the very tokens come back."""
    (tmp_path / "log").mkdir()
    write_lines(tmp_path / "log" / "1.jsonl", verl(rollouts(sampled), policy, answers(sampled)))
    run = import_rollouts(tmp_path / "run", [tmp_path / "log"], config(sampled.parent / "pool.jsonl"), QUIET)
    np.testing.assert_array_equal(scores(finished(run))["success_rate"], scores(sampled)["success_rate"])

    def ended(path: Path) -> set[tuple[Any, ...]]:
        return {(r["prompt_id"], *r["prompt_tokens"], *r["tokens"]) for r in rollouts(path) if r["finish"] == "stop"}

    assert ended(sampled) <= ended(run.path)


def test_verl_logs_alone_become_a_pool(sampled: Path, tmp_path: Path, policy: Policy) -> None:
    log = write_lines(tmp_path / "7.jsonl", verl(rollouts(sampled), policy, answers(sampled)))
    run = import_rollouts(tmp_path / "run", [log], config(None), QUIET)
    assert sorted(scores(finished(run))["success_rate"]) == sorted(scores(sampled)["success_rate"])
    picked = [json.loads(line) for line in (run.path / "selection.jsonl").read_text().splitlines()]
    assert {"prompt", "answer", "learnalign_rank"} <= set(picked[0])


def test_imported_responses_can_be_judged_again(sampled: Path, tmp_path: Path, policy: Policy) -> None:
    rows = verl(rollouts(sampled), policy, answers(sampled))
    log = write_lines(tmp_path / "log.jsonl", [{**row, "score": 0.0} for row in rows])
    run = import_rollouts(tmp_path / "run", [log], config(sampled.parent / "pool.jsonl"), QUIET)
    pipeline.work(run, run.config, "reward", QUIET)
    assert not any(row["correct"] for row in rollouts(run.path))
    pipeline.work(run, config(sampled.parent / "pool.jsonl"), "reward", QUIET)  # the verifier exact
    assert sum(row["correct"] for row in rollouts(run.path)) == sum(row["correct"] for row in rollouts(sampled))


def test_logs_without_rewards_are_judged(sampled: Path, tmp_path: Path) -> None:
    rows = [{"id": row["prompt_id"], "prompt": "", "response": row["text"]} for row in rollouts(sampled)]
    log = write_lines(tmp_path / "log.jsonl", rows)
    run = import_rollouts(tmp_path / "run", [log], config(sampled.parent / "pool.jsonl"), QUIET)
    assert run.config.reward.verifier == "exact"
    np.testing.assert_array_equal(scores(finished(run))["success_rate"], scores(sampled)["success_rate"])


def test_trl_completions_with_two_rewards_and_uneven_groups(sampled: Path, tmp_path: Path, policy: Policy) -> None:
    """Rewards are added up; correctness comes from the column that is named; prompts without responses are skipped."""
    rows = rollouts(sampled)[3:-64]
    log = [
        {
            "step": 3,
            "prompt": policy.decode(row["prompt_tokens"]),
            "completion": row["text"],
            "accuracy_reward": row["reward"],
            "format_reward": 0.25 * (row["response"] % 3),
            "advantage": 0.1,
        }
        for row in rows
    ]
    (tmp_path / "completions").mkdir()
    pq.write_table(pa.Table.from_pylist(log), tmp_path / "completions" / "completions_00003.parquet")
    pool = sampled.parent / "pool.jsonl"
    run = import_rollouts(
        tmp_path / "run", [tmp_path / "completions"], config(pool), QUIET, correct_column="accuracy_reward"
    )
    ours = scores(finished(run))
    by_id: dict[str, list[bool]] = {}
    for row in rows:
        by_id.setdefault(row["prompt_id"], []).append(row["correct"])
    assert {len(group) for group in by_id.values()} == {5, 8}
    table = pq.read_table(run.path / "scores.parquet", columns=["prompt_id"])["prompt_id"].to_pylist()
    for prompt_id, success, state in zip(table, ours["success_rate"], ours["state"], strict=True):
        if prompt_id in by_id:
            assert success == pytest.approx(np.mean(by_id[prompt_id]))
        else:
            assert state == "skipped"
    rewards = {(row["prompt_id"], row["text"]): row["reward"] for row in rollouts(run.path)}
    for row, original in zip(log, rows, strict=True):
        key = (original["prompt_id"], row["completion"])
        assert rewards[key] >= row["accuracy_reward"]
    assert {row["reward"] for row in rollouts(run.path)} <= {0.0, 0.25, 0.5, 1.0, 1.25, 1.5}


def test_chats_of_trl_are_rendered(sampled: Path, tmp_path: Path) -> None:
    """TRL logs chats as messages; the prompt that the policy saw is the log's, not the pool's."""
    problems = {r["prompt_id"]: r["problem"] for r in pq.read_table(sampled / "pool.parquet").to_pylist()}
    rows = rollouts(sampled)[:16]
    log = [
        {
            "step": 1,
            "prompt": [{"role": "user", "content": problems[row["prompt_id"]]}],
            "completion": [{"role": "assistant", "content": row["text"]}],
            "accuracy": row["reward"],
            "advantage": 0.0,
        }
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(log), tmp_path / "log.parquet")
    pool = sampled.parent / "pool.jsonl"
    run = import_rollouts(tmp_path / "run", [tmp_path / "log.parquet"], config(pool), QUIET)
    pipeline.work(run, run.config, "reward", QUIET)
    names = ("prompt_id", "prompt_tokens", "text", "reward", "correct")
    assert [[r[n] for n in names] for r in rollouts(run.path)] == [[r[n] for n in names] for r in rows]
    log = [{**row, "prompt": [{"role": "system", "content": "1"}, *row["prompt"]]} for row in log]
    pq.write_table(pa.Table.from_pylist(log), tmp_path / "log.parquet")
    other = import_rollouts(tmp_path / "other", [tmp_path / "log.parquet"], config(pool), QUIET)
    part = pq.read_table(other.path / "rollouts" / "part-000000.parquet").to_pylist()
    assert len(part[0]["prompt_tokens"]) == len(rows[0]["prompt_tokens"]) + 1


def test_correct_is_the_logged_verdict_or_a_threshold(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": "r", "reward": 0.5}, {"prompt": "p", "response": "r", "score": 1, "acc": False}]
    rows += [{"prompt": "p", "response": "r", "correct": True}]
    found = list(read_logs([write_lines(tmp_path / "log.jsonl", rows)]))
    assert [(one.reward, one.correct) for one in found] == [(0.5, None), (1.0, False), (1.0, True)]


def test_rewards_of_trl_are_added_up(tmp_path: Path) -> None:
    common = {"step": 7, "prompt": "p", "completion": "c", "advantage": 9.0}
    rows = [{**common, "accuracy": 1.0, "format": 0.5}, {**common, "accuracy": math.nan, "format": 0.25}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    logs = [tmp_path / "log.parquet"]
    assert [(one.reward, one.correct, one.step) for one in read_logs(logs)] == [(1.5, None, 7), (0.25, None, 7)]
    assert [one.reward for one in read_logs(logs, reward_column="format")] == [0.5, 0.25]
    assert [one.correct for one in read_logs(logs, correct_column="format", threshold=0.5)] == [True, False]
    weighted = read_logs(logs, reward_column="accuracy, format=2")
    assert [one.reward for one in weighted] == [2.0, 0.5]


def test_steps_become_histories(sampled: Path, tmp_path: Path, policy: Policy) -> None:
    rows, known = rollouts(sampled), answers(sampled)
    (tmp_path / "log").mkdir()
    for step in (2, 10, 9):
        changed = [{**row, "reward": 1.0 if row["response"] < step - 2 else 0.0} for row in rows]
        write_lines(tmp_path / "log" / f"{step}.jsonl", verl(changed, policy, known, step))
    run = import_rollouts(tmp_path / "run", [tmp_path / "log"], config(sampled.parent / "pool.jsonl"), QUIET)
    histories = read_histories(run.path / "history.json")
    assert set(histories) == set(known)
    assert all(history == [0.0, 7 / 8, 1.0] for history in histories.values())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "hold no responses"),
        (
            [{"prompt": "p", "response": "r", "reward": "good"}],
            "line 1: a reward must be a finite number, found 'good'",
        ),
        ([{"prompt": "p", "reward": 1}], "line 1: no response; looked for response"),
        ([{"response": "p", "reward": 1}], "no prompt; looked for prompt"),
        ([{"prompt": 3, "response": "r"}], "line 1: must be text or a list of chat messages, found a number"),
        ([{"prompt": "p", "tokens": [1, "x"]}], "token ids must be a list of whole numbers"),
        ([{"prompt": "p", "tokens": []}], "that is not empty"),
        ([{"prompt": "p", "response": "r", "reward": 1, "step": [7]}], r"line 1: a step must be .* found \[7\]"),
        ([{"prompt": "p", "response": "r", "reward": 1, "step": "two"}], "a step must be a whole number, found 'two'"),
        ([{"prompt": "p", "response": "r", "reward": 1}, {"prompt": "p", "response": "r"}], "1 of 2 .* no reward"),
        (
            [{"prompt": "nobody asked this", "response": "r", "reward": 1}],
            "none of the 1 logged prompts is in the pool",
        ),
        (
            [{"id": "demo-3-00000", "prompt": "", "tokens": [10**6], "reward": 1}],
            "token id 1000000 is beyond the 49 tokens",
        ),
    ],
)
def test_what_does_not_fit_is_named(sampled: Path, tmp_path: Path, rows: Rows, message: str) -> None:
    log = write_lines(tmp_path / "log.jsonl", rows)
    with pytest.raises(LogError, match=message) as caught:
        import_rollouts(tmp_path / "run", [log], config(sampled.parent / "pool.jsonl"), QUIET)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl"]  # nothing is left of it


def test_refusals(sampled: Path, tmp_path: Path) -> None:
    log = write_lines(tmp_path / "log.jsonl", [{"prompt": "What is 2 + 3?", "response": "5", "reward": 1.0}])
    with pytest.raises(LogError, match="there is no log"):
        import_rollouts(tmp_path / "run", [tmp_path / "none.jsonl"], config(None), QUIET)
    with pytest.raises(LogError, match="has not an answer: name the pool"):
        import_rollouts(tmp_path / "run", [log], config(None), QUIET)
    with pytest.raises(RunError, match="exists: name a new directory"):
        import_rollouts(sampled, [log], config(None), QUIET)
    with pytest.raises(LogError, match="no column 'nothing' with rewards"):
        import_rollouts(tmp_path / "run", [log], config(None), QUIET, reward_column="nothing")


def test_rewards_of_sampled_responses_cannot_be_imported(sampled: Path) -> None:
    run = pipeline.open_run(sampled)
    changed = pipeline.open_run(sampled)
    from dataclasses import replace

    changed.config = replace(run.config, reward=RewardConfig(verifier="imported"))
    with pytest.raises(RewardError, match="were sampled: name another"):
        pipeline.load("reward").inputs(changed)


def test_command_line(sampled: Path, tmp_path: Path) -> None:
    rows = [
        {"id": r["prompt_id"], "prompt": "", "tokens": r["tokens"], "reward": r["reward"]} for r in rollouts(sampled)
    ]
    log = write_lines(tmp_path / "log.jsonl", rows)
    arguments = ["import", str(tmp_path / "run"), str(log), "--pool", str(sampled.parent / "pool.jsonl"), "-q"]
    done = CliRunner().invoke(app, [*arguments, "--model", str(POLICY), "--select", "4"])
    assert done.exit_code == 0, done.output
    assert f"go on with: learnalign run {tmp_path / 'run'}" in done.output
    again = CliRunner().invoke(app, [*arguments, "--model", str(POLICY)])
    assert again.exit_code == 2
    went_on = CliRunner().invoke(app, ["run", str(tmp_path / "run"), "-q", "--set", "sketch.dimension=1024"])
    assert went_on.exit_code == 0, went_on.output


def test_histories_of_a_published_run(data_dir: Path) -> None:
    """Ranked by their standard deviation, 1-shot RLVR's first examples come out where the paper has them."""
    histories = read_histories(data_dir / "one-shot-rlvr" / "acc_step_500.json")
    ranked = sorted(histories, key=lambda key: -float(np.std(histories[key])))
    assert len(ranked) == 1209
    assert (ranked[0], ranked[1], ranked[12]) == ("124", "267", "682")


def test_histories_in_columns(tmp_path: Path) -> None:
    rows = [{"id": k, "history": [0.0, 0.125 * k]} for k in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    expected = {str(k): [0.0, 0.125 * k] for k in range(3)}
    assert read_histories(tmp_path / "a.parquet") == read_histories(write_lines(tmp_path / "a.jsonl", rows)) == expected
    for rows, message in (
        ([{"id": 1, "history": [2.0]}], "prompt '1' must be a list of success rates"),
        ([{"id": 1, "history": [0.5]}] * 2, "prompt '1' has two histories"),
        ([{"id": 1, "rates": [0.5]}], "line 1 needs an id"),
        ([], "holds no histories"),
    ):
        with pytest.raises(PoolError, match=message):
            read_histories(write_lines(tmp_path / "b.jsonl", rows))


def test_texts_are_encoded_together_as_they_are_alone(policy: Policy) -> None:
    """Also beside responses that come as token ids, and where there are none; in one call of the tokenizer."""

    class Counted:
        def __init__(self) -> None:
            self.calls = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(policy.tokenizer, name)

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            self.calls += 1
            return policy.tokenizer(*arguments, **options)

    counted = Counted()
    renderer = replace(policy, tokenizer=counted)
    ids = np.array([5, 6], np.int32)
    blank = Logged("2 + 2", "problem", None, "", None, 1.0, True, "", "4", -1)
    texts = ["one", "", "2 + 2 = 4", *(f"response {i}" for i in range(200))]
    logged = [blank._replace(response=text) for text in texts]
    logged.insert(1, blank._replace(response=None, tokens=ids))
    found = responses_tokens(logged, renderer)
    assert counted.calls == 1
    assert found[1] is ids
    for one, tokens in zip(logged, found, strict=True):
        assert tokens.tolist() == response_tokens(one, policy).tolist()
        assert one.tokens is not None or tokens[-1] in policy.eos_ids
    counted.calls = 0
    assert responses_tokens([], renderer) == []
    assert responses_tokens([logged[1]], renderer)[0] is ids
    assert counted.calls == 0
