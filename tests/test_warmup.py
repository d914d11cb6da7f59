"""The warm-up trains with the paper's objective on a few prompts, and the stages after it use its result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from learnalign.config import (
    Config,
    PolicyConfig,
    PoolConfig,
    RewardConfig,
    RolloutConfig,
    SelectConfig,
    SketchConfig,
    WarmupConfig,
)
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import ConfigError, CostlyProductsError, PolicyError, PoolError
from learnalign.policy import policy_digest, warmup
from learnalign.progress import Progress
from learnalign.runs import pipeline
from learnalign.runs.directory import create_run, open_run

pytestmark = pytest.mark.train

PROMPTS = 24


def config(folder: Path, **settings: object) -> Config:
    pool = folder / "pool.jsonl"
    if not pool.exists():
        write_pool(pool, 84, seed=3)
    warm = WarmupConfig(prompts=PROMPTS, prompts_per_step=8, learning_rate=1e-3)
    return Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        warmup=replace(warm, **settings),  # type: ignore[arg-type]
        rollout=RolloutConfig(max_new_tokens=16),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=1024, dtype="float32"),
        select=SelectConfig(n=6),
    )


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([w.float().flatten() for w in AutoModelForCausalLM.from_pretrained(folder).parameters()])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warm")
    return pipeline.run(config(folder), folder / "run").directory


def test_the_result_is_another_policy_that_later_stages_use(finished: Path) -> None:
    assert not torch.equal(weights(finished / "warmup"), weights(POLICY))
    stages = open_run(finished).manifest["stages"]
    digest = policy_digest(str(finished / "warmup"))
    assert stages["rollout"]["policy"]["digest"] == stages["sketch"]["inputs"]["policy"] == digest
    assert stages["warmup"]["inputs"]["policy"] == policy_digest(str(POLICY)) != digest
    assert not any(pipeline.stale(open_run(finished)).values())
    assert pipeline.verify(open_run(finished)) == []


def test_success_is_measured_before_and_after_and_reported(finished: Path) -> None:
    measured = pq.read_table(finished / "warmup" / "success.parquet")
    record = open_run(finished).record("warmup")
    assert (record["rows"], record["steps"], record["watched"]) == (PROMPTS, 3, 84 - PROMPTS)
    before, after = (measured[name].to_numpy() for name in ("before", "after"))
    assert record["before"] == pytest.approx(before.mean())
    assert record["after"] == pytest.approx(after.mean())
    assert (before != after).any()
    page = (finished / "report.html").read_text()
    assert "warmed up with GRPO on 24 prompts: its success rate on 60 other prompts went from" in page
    assert f"{100 * before.mean():.1f}% to {100 * after.mean():.1f}%" in page


def test_what_is_done_is_not_done_again_and_not_overwritten(finished: Path) -> None:
    before = (finished / "warmup" / "model.safetensors").stat().st_mtime_ns
    same = open_run(finished).config
    pipeline.run(same, finished)
    assert (finished / "warmup" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(CostlyProductsError, match=r"warmup\.beta: 0\.04 -> 0\.1"):
        pipeline.run(replace(same, warmup=replace(same.warmup, beta=0.1)), finished)


def test_the_papers_objective_is_what_trl_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss, the KL weight, the clip, the group size and exact on-policy steps; prompts are the trained subset."""
    import trl

    seen: dict[str, object] = {}

    class Asked(Exception):
        pass

    def trainer(model: object, reward: object, args: trl.GRPOConfig, rows: object, **_: object) -> None:
        seen.update(vars(args), rows=list(rows))  # type: ignore[call-overload]
        raise Asked

    monkeypatch.setattr(trl, "GRPOTrainer", trainer)
    examples = [warmup.Example(str(k), f"{k}+1", None) for k in range(12)]
    papers = WarmupConfig(prompts=12)
    with pytest.raises(Asked):
        warmup.train(
            PolicyConfig(model=str(POLICY)), examples, lambda t, a: [0.0] * len(t), papers, RolloutConfig(),
            tmp_path / "out", lambda _: None,
        )  # fmt: skip
    expected = {"learning_rate": 1e-6, "beta": 0.04, "epsilon": 0.2, "num_generations": 8, "loss_type": "grpo"}
    assert {key: seen[key] for key in expected} == expected
    assert (seen["num_iterations"], seen["scale_rewards"], seen["temperature"]) == (1, "group", 1.0)
    assert seen["steps_per_generation"] == seen["gradient_accumulation_steps"] == 12
    assert seen["rows"][3] == {"prompt": [{"role": "user", "content": "3+1"}], "prompt_id": "3"}  # type: ignore[index]


def test_an_adapter_is_trained_sampled_and_sketched(tmp_path: Path) -> None:
    """LoRA: the result is a small adapter, which changes what the policy says, and its own space can be sketched."""
    asked = config(tmp_path, lora_rank=4, learning_rate=1e-2)
    result = pipeline.run(replace(asked, sketch=replace(asked.sketch, space="lora")), tmp_path / "run")
    settings = json.loads((result.directory / "warmup" / "adapter_config.json").read_text())
    assert (settings["r"], settings["base_model_name_or_path"]) == (4, str(POLICY))
    assert not (result.directory / "warmup" / "model.safetensors").exists()
    measured = pq.read_table(result.directory / "warmup" / "success.parquet")
    assert (measured["before"].to_numpy() != measured["after"].to_numpy()).any()
    assert len(result.selection_jsonl.read_text().splitlines()) == 6


def test_killed_in_training_it_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create_run(tmp_path / "run", config(tmp_path, prompts=8))
    true = warmup.train

    def killed(*arguments: object) -> None:
        Path(str(arguments[5])).mkdir()
        (Path(str(arguments[5])) / "half.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    from learnalign.runs.stages import warmup as stage

    monkeypatch.setattr(stage, "train", killed)
    with run.locked(), pytest.raises(KeyboardInterrupt):
        pipeline.advance(run, "warmup", Progress(quiet=True))
    assert not (run.path / "warmup").exists()
    monkeypatch.setattr(stage, "train", true)
    with run.locked():
        pipeline.advance(run, "warmup", Progress(quiet=True))
    assert run.record("warmup")["state"] == "done"
    assert not (run.path / "warmup" / "half.safetensors").exists()
    assert np.isfinite(run.record("warmup")["after"])


def watched(run: Path, pool: Path) -> list[tuple[dict[str, Any], float, float]]:
    """(the pool's row, success before, success after) of every prompt that was watched."""
    rows = {row["id"]: row for row in map(json.loads, pool.read_text().splitlines())}
    measured = pq.read_table(run / "warmup" / "success.parquet").to_pylist()
    return [(rows[row["prompt_id"]], row["before"], row["after"]) for row in measured]


def test_a_reward_of_ones_own_sees_the_pools_columns(tmp_path: Path) -> None:
    """It trains and measures as it would in the reward stage, threshold and stale source included."""
    file = tmp_path / "mine.py"
    file.write_text(
        "def reward(completions, prompts, level, **columns):\n"
        "    return [(n == 1) + len(c) % 2 / 2 for c, n in zip(completions, level)]\n"
    )
    asked = config(tmp_path, prompts=8)
    asked = replace(asked, reward=RewardConfig(verifier=f"{file}:reward", threshold=0.75))
    run = create_run(tmp_path / "run", asked)
    pipeline.work(run, asked, "warmup", Progress(quiet=True))
    found = watched(run.path, tmp_path / "pool.jsonl")
    assert {row["level"] for row, _, _ in found} > {1}
    assert all(before == after == (row["level"] == 1) for row, before, after in found)
    (step,) = pq.read_table(run.path / "warmup" / "steps.parquet").to_pylist()
    assert step["reward"] % 0.5 != 0, "rewards below the threshold count in training"
    file.write_text(file.read_text() + "# changed")
    with pytest.raises(CostlyProductsError, match="reward function"):
        pipeline.work(run, asked, "warmup", Progress(quiet=True))


@pytest.mark.usefixtures("contained")
def test_code_is_run_in_training_too(tmp_path: Path) -> None:
    """The policy answers with numbers: programs that print nothing, which half of the tests ask for."""
    pool = write_pool(tmp_path / "pool.jsonl", 16, seed=3)
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    for k, row in enumerate(rows):
        row["answer"] = json.dumps([{"input": "", "output": "" if k % 2 else "nothing"}])
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = replace(config(tmp_path, prompts=8), reward=RewardConfig(verifier="code", memory_mb=512))
    run = create_run(tmp_path / "run", asked)
    pipeline.work(run, asked, "warmup", Progress(quiet=True))
    passing = [before for row, before, _ in watched(run.path, pool) if "nothing" not in row["answer"]]
    failing = [before for row, before, _ in watched(run.path, pool) if "nothing" in row["answer"]]
    assert np.mean(passing) > 0.5
    assert failing
    assert not any(failing)


def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="a warm-up on 84 prompts needs a larger pool than 84"):
        pipeline.run(config(tmp_path, prompts=84), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"warmup\.responses must be at least 2"):
        Config(warmup=WarmupConfig(responses=1))
    with pytest.raises(ConfigError, match="serve its result"):
        Config(warmup=WarmupConfig(prompts=8), rollout=RolloutConfig(engine="server", base_urls="http://a/v1"))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    from learnalign.policy import load_trainable

    with pytest.raises(PolicyError, match="merge it"):
        load_trainable(PolicyConfig(model=str(tmp_path)))
