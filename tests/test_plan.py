"""What a run will cost: the laws of the estimate, and the estimate of a run beside the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from learnalign.cli import app
from learnalign.config import Config, RolloutConfig, SelectConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.rewards import Verdict
from learnalign.runs import early
from learnalign.runs.directory import create_run
from learnalign.runs.estimate import Sample, estimate
from learnalign.schemas import ROLLOUTS


def sample(correct: list[int], pool: int = 1000, skipped: int = 0) -> Sample:
    size = len(correct)
    right = np.array(correct, float)
    between = (right > 0) & (right < 8)
    return Sample(pool, skipped, np.full(size, 8.0), right, between, np.full(size, 8 * 10.0), np.full(size, 20.0))


def config(allocation: str = "fixed", responses: int = 8, budget: float = 8.0) -> Config:
    rollout = RolloutConfig(responses=responses, allocation=allocation, budget=budget)  # type: ignore[arg-type]
    return Config(rollout=rollout, select=SelectConfig(n=100))


def test_counts_are_scaled_to_the_pool() -> None:
    found = estimate(config(), sample([0] * 10 + [4] * 10), bytes_a_response=100.0, pool_bytes=5)
    assert (found.responses, found.response_tokens, found.prompt_tokens) == (8000, 80_000, 20_000)
    assert found.learnable == 500
    low, high = found.learnable_interval
    assert 0 < low < 500 < high < 1000
    assert found.bytes["rollouts"] == 800_000
    assert found.bytes["sketches"] == pytest.approx(500 * 8192 * 2, rel=0.01)
    assert found.facts()["pool"] == 1000


def test_a_screen_asks_for_more_only_where_two_differ() -> None:
    """p = 1/2: of 8 responses 4 correct, two of them differ with 4/7."""
    found = estimate(config(), sample([4] * 20))
    assert found.allocations == {"screen": (round(2000 + 6 * 1000 * 4 / 7), round(1000 * 4 / 7))}
    screened = estimate(config("screen"), sample([4] * 20))
    assert (screened.responses, screened.learnable) == found.allocations["screen"]
    assert screened.allocations == {}


def test_halving_takes_its_budget() -> None:
    many = estimate(config(responses=32), sample([4] * 20))
    assert many.allocations["halving"] == (8000, 200)
    assert "halving" not in estimate(config(responses=8), sample([4] * 20)).allocations
    assert "75% less" in "\n".join(many.lines())


def test_prompts_that_are_too_long_are_not_counted() -> None:
    assert estimate(config(), sample([4] * 10, skipped=10)).responses == 4000


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        drawn = random.hypergeometric(300, 700, 64)
        low, high = estimate(config(), sample([4] * drawn + [0] * (64 - drawn))).learnable_interval
        hits += low <= 300 <= high
    assert 0.85 < hits / 400 < 0.95


def test_a_sample_of_the_whole_pool_is_certain() -> None:
    found = estimate(config(), sample([4] * 5 + [0] * 5, pool=10))
    assert found.learnable_interval == (5, 5)


def test_a_run_tells_after_its_first_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    run = create_run(tmp_path / "run", config())
    watch = early.Early(run, 1000, said.append)
    rows = [
        dict(zip(ROLLOUTS.names, (f"p{k // 8}", k % 8, [1, 2], [3] * 4, [0.0] * 4, 4, str(k % 2), "stop"), strict=True))
        for k in range(8 * 40)
    ]
    sampled = pa.Table.from_pylist(rows, ROLLOUTS)
    assert not watch.sampled(sampled[:160])
    monkeypatch.setattr(early, "AFTER_SECONDS", 0.0)
    assert watch.sampled(sampled[160:])
    watch.tell(lambda texts, ids: [Verdict(text == "1", 0.0, "exact") for text in texts])
    assert said[0] == "rollout: responses  8,000 to 1,000 prompts (estimated from 40 of them)"
    assert "1,000 prompts expected" in said[2]
    assert any(line.startswith("rollout: time") for line in said)


def test_the_plan_of_a_run_beside_the_run(tmp_path: Path) -> None:
    """Counts within 30 %, times not looked at; the run goes on from the plan. Sources are the names of two files."""
    pools = [write_pool(tmp_path / f"{name}.jsonl", 45, seed=seed) for name, seed in (("a", 3), ("b", 4))]
    run = tmp_path / "run"
    arguments = [
        str(run),
        *(word for pool in pools for word in ("--pool", str(pool))),
        "--model",
        str(POLICY),
        "--select",
        "9",
        "--quiet",
    ]
    small = ["--set", "rollout.max_new_tokens=8", "--set", "sketch.dimension=1024"]
    small += ["--set", "reward.by_source.a=exact", "--set", "reward.by_source.b=exact"]
    planned = CliRunner().invoke(app, ["plan", *arguments, *small, "--json"])
    assert planned.exit_code == 0, planned.stderr
    found = json.loads(planned.stdout)
    assert found == json.loads((run / "plan.json").read_text())
    assert found["left_out"] == []
    assert found["sampled"] == 30
    done = CliRunner().invoke(app, ["run", *arguments])
    assert done.exit_code == 0, done.stderr
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    assert found["responses"] == stages["rollout"]["rows"] == 720
    assert found["learnable_interval"][0] <= stages["sketch"]["rows"] <= found["learnable_interval"][1]
    on_disk = sum(
        path.stat().st_size for name in ("rollouts", "rewards", "sketches") for path in (run / name).iterdir()
    )
    assert sum(found["bytes"].values()) == pytest.approx(on_disk, rel=0.3)
    assert set(found["seconds"]) == {"pool", "rollout", "reward", "sketch", "score", "select", "report"}
