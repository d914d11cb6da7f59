"""Stage 2, only where warmup.prompts is set: the policy is trained a little; the stages after it use the result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from learnalign import files
from learnalign.config import PolicyConfig, section_dict
from learnalign.errors import PoolError
from learnalign.policy import load_policy, policy_digest
from learnalign.policy.warmup import Example, steps, train
from learnalign.pool import stored_prompts
from learnalign.progress import Progress
from learnalign.rollout.engine import Task, plan
from learnalign.rollout.transformers import LocalEngine
from learnalign.runs.directory import RunDir
from learnalign.runs.stages import Outcome, told_to_templates
from learnalign.runs.verifier import open_verifier, verifier_inputs

NAME = "warmup"
PRODUCTS = ("warmup",)
COSTLY = True
WATCHED = 100
"""Prompts, not trained on where the pool has enough, whose success rate is measured before and after."""


def inputs(run: RunDir) -> dict[str, Any]:
    """Pool, the policy to begin with, the settings of the training, and what it shares with sampling."""
    policy, rollout = (section_dict(run.config, section) for section in ("policy", "rollout"))
    return {
        "pool": run.output("pool", "pool.parquet"),
        "policy": policy_digest(run.config.policy.model),
        **{f"policy.{key}": policy[key] for key in ("pad_token", "instruction", "plain_template")},
        **told_to_templates(run),
        **{f"rollout.{key}": rollout[key] for key in ("temperature", "max_new_tokens")},
        **verifier_inputs(run),
        **{f"warmup.{key}": value for key, value in section_dict(run.config, "warmup").items()},
    }


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Measure, train, measure again."""
    config = run.config
    pool = stored_prompts(run.path / "pool.parquet", ["prompt_id", "problem", "messages"])
    if pool["tools"].null_count < len(pool):
        raise PoolError("a warm-up is not shown the pool's tools: set warmup.prompts=0, and warm up elsewhere")
    trained, watched = _split(pool, config.warmup.prompts, config.warmup.seed)
    partial = run.path / "warmup.partial"
    shutil.rmtree(partial, ignore_errors=True)
    before = _success(run, config.policy, watched)
    progress.say(f"warmup: success {before.mean():.3f} on {watched.num_rows} other prompts before training")

    examples = [Example(row["prompt_id"], row["problem"], row["messages"]) for row in trained.to_pylist()]
    with (
        open_verifier(run) as judging,
        progress.track(NAME, steps(len(examples), config.warmup), "steps") as advance,
    ):

        def reward(texts: Sequence[str], prompt_ids: Sequence[str]) -> list[float]:
            return [verdict.reward for verdict in judging.verdicts(texts, prompt_ids)]

        log = train(config.policy, examples, reward, config.warmup, config.rollout, partial, advance)
    after = _success(run, replace(config.policy, model=str(partial)), watched)
    measured = pa.table({"prompt_id": watched["prompt_id"], "before": before, "after": after})
    files.write_parquet(partial / "success.parquet", measured)
    files.write_parquet(partial / "steps.parquet", pa.Table.from_pylist(log))
    _publish(partial, run.path / "warmup")
    difference = after - before
    facts = {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "error": float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else 0.0,
        "watched": watched.num_rows,
        "steps": len(log),
    }
    progress.say(f"warmup: success {after.mean():.3f} after {len(log)} steps")
    return Outcome(trained.num_rows, facts=facts)


def _split(pool: pa.Table, prompts: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """A random subset to train on, and others to watch. Raises `PoolError` where the pool is too small."""
    if pool.num_rows < prompts + 2:
        raise PoolError(
            f"a warm-up on {prompts:,} prompts needs a larger pool than {pool.num_rows:,}: lower warmup.prompts"
        )
    order = np.random.default_rng(seed).permutation(pool.num_rows)
    return pool.take(np.sort(order[:prompts])), pool.take(np.sort(order[prompts : prompts + WATCHED]))


def _success(run: RunDir, policy: PolicyConfig, watched: pa.Table) -> np.ndarray:
    """Success rate of every watched prompt from `warmup.responses` responses each."""
    count, rows = run.config.warmup.responses, watched.to_pylist()
    loaded = load_policy(policy)
    tasks = [Task(row["prompt_id"], loaded.encode(row["problem"], row["messages"]), count) for row in rows]
    engine = LocalEngine(loaded, run.config.rollout)
    batches = plan([len(task.tokens) for task in tasks], [count] * len(tasks), 256)
    found = {}
    with open_verifier(run) as judging:
        for batch in batches:
            made = engine.sample([tasks[i] for i in batch])
            verdicts = judging.verdicts([r.text for r in made], [r.prompt_id for r in made])
            for k, i in enumerate(batch):
                found[i] = np.mean([v.correct for v in verdicts[k * count : (k + 1) * count]])
    return np.array([found[i] for i in range(len(tasks))])


def _publish(partial: Path, target: Path) -> None:
    """Every file to the disk, then the folder's name: a policy is whole or not there."""
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    files.publish(partial, target)
