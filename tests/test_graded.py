"""Rewards that are not binary: where none means correct, learnability is their variance within the group."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.demo.run import POLICY
from learnalign.errors import ConfigError, LogError, RewardError
from learnalign.logs.importing import import_rollouts
from learnalign.progress import Progress
from learnalign.runs import pipeline
from learnalign.scoring.learnability import RewardMoments, learnability_of_counts

QUIET = Progress(quiet=True)
REWARDS = {"12+30": [0.1, 0.7, 0.4, 0.4], "sort 312": [0.3] * 4, "7+8": [0.0, 2.0, 0.0, 2.0], "99+1": [0.1] * 4}


def log(folder: Path) -> Path:
    rows = [
        {"prompt": problem, "response": str(k), "reward": reward, "answer": "?"}
        for problem, rewards in REWARDS.items()
        for k, reward in enumerate(rewards)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "log.jsonl"


def config(graded: bool, **more: object) -> Config:
    return Config(
        policy=PolicyConfig(model=str(POLICY)),
        reward=RewardConfig(graded=graded, threshold=3.0, **more),  # type: ignore[arg-type]
        sketch=SketchConfig(dimension=1024),
        select=SelectConfig(n=2),
        rollout=RolloutConfig(max_new_tokens=8),
    )


def test_moments_are_those_of_the_rewards_however_they_come() -> None:
    random = np.random.default_rng(0)
    prompt, rewards = random.integers(0, 7, 400), 1e3 + random.normal(size=400)
    whole, parts = RewardMoments(8), RewardMoments(8)
    whole.add(prompt, rewards)
    for some in np.array_split(np.arange(400), 9):
        parts.add(prompt[some], rewards[some])
    for unbiased in (False, True):
        expected = [rewards[prompt == k].var(ddof=int(unbiased)) for k in range(7)]
        for moments in (whole, parts):
            np.testing.assert_allclose(moments.variance(unbiased)[:7], expected, rtol=1e-9)
    assert np.isnan(whole.variance(False)[7])


def test_of_equal_rewards_the_variance_is_nothing_and_of_binary_ones_p_times_one_minus_p() -> None:
    moments = RewardMoments(2)
    moments.add(np.array([0] * 3 + [1] * 8), np.array([0.1] * 3 + [1.0] * 3 + [0.0] * 5))
    assert moments.variance(False).tolist() == [0.0, pytest.approx(3 / 8 * 5 / 8)]
    assert moments.variance(True)[1] == pytest.approx(learnability_of_counts([8], [3])[0])
    assert moments.differ.tolist() == [False, True]


def test_imported_rewards_that_never_mean_correct(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no response counts as correct.*--set reward.graded=true"):
        import_rollouts(tmp_path / "refused", [log(tmp_path)], config(False), QUIET)
    run = import_rollouts(tmp_path / "run", [log(tmp_path)], config(True), QUIET)
    result = pipeline.run(run.config, run.path)
    scores = pq.read_table(run.path / "scores.parquet").to_pylist()
    found = {row["problem"]: row for row in scores}
    assert {problem: row["state"] for problem, row in found.items()} == {
        "12+30": "learnable", "sort 312": "unsolved", "7+8": "learnable", "99+1": "unsolved"
    }  # fmt: skip
    for problem, rewards in REWARDS.items():
        assert found[problem]["learnability"] == pytest.approx(np.var(rewards))
        assert found[problem]["success_rate"] == 0.0
    assert found["7+8"]["score"] != 0.0
    assert found["sort 312"]["score"] == 0.0
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["stages"]["score"]["learnability"] == "variance of rewards"
    assert any("reward.graded" in note for note in result.notes)
    picked = [json.loads(line) for line in result.selection_jsonl.read_text().splitlines()]
    assert {row["prompt"] for row in picked} == {"12+30", "7+8"}
    page = result.report.read_text()
    assert "Rewards are graded." in page
    assert "variance of a prompt" in page


def test_a_function_of_ones_own_with_graded_rewards(tmp_path: Path) -> None:
    """The length of a response, of which no value means correct."""
    (tmp_path / "mine.py").write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return -float(len(solution_str)) / 10\n"
    )
    rows = [{"id": str(k), "problem": f"{20 + k}*{31 + k}"} for k in range(6)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    verifier = f"{tmp_path / 'mine.py'}:compute_score"
    pool = PoolConfig(path=str(tmp_path / "pool.jsonl"))
    plain = config(False, verifier=verifier)
    asked = Config(pool=pool, policy=plain.policy, rollout=plain.rollout, reward=plain.reward, select=plain.select)
    run = pipeline.create_run(tmp_path / "run", asked)
    with pytest.raises(RewardError, match=r"no response counts as correct.*reward.graded=true"):
        pipeline.work(run, asked, "reward", QUIET)
    graded = config(True, verifier=verifier).reward
    asked = Config(pool=pool, policy=plain.policy, rollout=plain.rollout, reward=graded, select=plain.select)
    pipeline.work(run, asked, "score", QUIET)
    scores = pq.read_table(run.path / "scores.parquet")
    judged = pq.read_table(run.path / "rewards" / "part-000000.parquet").to_pylist()
    spreads = []
    for row in scores.to_pylist():
        spread = np.var([one["reward"] for one in judged if one["prompt_id"] == row["prompt_id"]])
        assert row["learnability"] == pytest.approx(spread, abs=1e-12)
        assert (row["state"] == "learnable") == (row["learnability"] > 0)
        spreads.append(spread)
    assert max(spreads) > 0


def test_what_goes_by_correct_responses_refuses_graded_rewards() -> None:
    with pytest.raises(ConfigError, match=r"rollout.allocation = screen goes by .* set rollout.allocation=fixed"):
        Config(reward=RewardConfig(graded=True), rollout=RolloutConfig(allocation="screen"))
