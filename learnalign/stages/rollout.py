"""Stage 2: the policy answers every prompt G times; one Parquet part a batch, so that a resume goes on there."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from learnalign import durable
from learnalign.config import section_dict
from learnalign.errors import PolicyError
from learnalign.policy import Policy, load_policy, policy_digest
from learnalign.progress import Progress
from learnalign.rollout.engine import Response, Task, plan, sample
from learnalign.rundir import RunDir
from learnalign.stages import Outcome

NAME = "rollout"
PRODUCTS = ("rollouts",)
COSTLY = True

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("response", pa.int32()),
        ("prompt_tokens", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("length", pa.int32()),
        ("text", pa.string()),
        ("finish", pa.string()),
    ]
)
SKIPPED_SCHEMA = pa.schema([("prompt_id", pa.string()), ("reason", pa.string())])


def inputs(run: RunDir) -> dict[str, Any]:
    """Pool, policy, prompt rendering and sampling settings."""
    policy = section_dict(run.config, "policy")
    return {
        "pool": run.output("pool", "pool.parquet"),
        "policy": policy_digest(run.config.policy.model),
        **{f"policy.{key}": policy[key] for key in ("dtype", "pad_token", "instruction", "plain_template")},
        **{f"rollout.{key}": value for key, value in section_dict(run.config, "rollout").items()},
    }


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Sample what is not there yet."""
    config = run.config.rollout
    folder = run.path / "rollouts"
    folder.mkdir(exist_ok=True)
    policy = load_policy(run.config.policy)
    tasks, skipped = _tasks(run, policy)
    batches = plan(tasks, config)
    parts = [folder / f"part-{k:06d}.parquet" for k in range(len(batches))]
    todo = [k for k, part in enumerate(parts) if not part.exists()]
    total = len(tasks) * config.responses
    left = sum(len(batches[k]) for k in todo) * config.responses
    if left < total:
        progress.say(f"rollout: {total - left:,} of {total:,} responses were there")
    with progress.track(NAME, total, "responses", done=total - left) as advance:
        for k in todo:
            responses = _sample(policy, [tasks[i] for i in batches[k]], run)
            durable.write_parquet(parts[k], _table(responses))
            advance(len(responses))
    _write_skipped(run, skipped)
    notes = [f"{len(skipped):,} prompts skipped: too long for the policy's context"] if skipped else []
    facts = {"policy": _facts(policy, run), "skipped": len(skipped)}
    return Outcome(total, notes, facts)


def _tasks(run: RunDir, policy: Policy) -> tuple[list[Task], list[tuple[str, str]]]:
    """Prompts as token ids, and those that do not fit with the reason."""
    room = policy.context - run.config.rollout.max_new_tokens
    tasks, skipped = [], []
    table = pq.read_table(run.path / "pool.parquet", columns=["prompt_id", "problem", "messages"])
    for batch in table.to_batches():
        for row in batch.to_pylist():
            tokens = policy.encode(row["problem"], row["messages"])
            if len(tokens) <= room:
                tasks.append(Task(row["prompt_id"], tokens))
                continue
            reason = (
                f"prompt of {len(tokens):,} tokens and up to {run.config.rollout.max_new_tokens:,} new ones "
                f"are more than the context of {policy.context:,}"
            )
            skipped.append((row["prompt_id"], reason))
    if not tasks:
        raise PolicyError(f"no prompt fits the policy; the first: {skipped[0][1]}; lower rollout.max_new_tokens")
    return tasks, skipped


def _sample(policy: Policy, tasks: list[Task], run: RunDir) -> list[Response]:
    try:
        return sample(policy, tasks, run.config.rollout)
    except torch.OutOfMemoryError as error:
        raise PolicyError(
            f"out of GPU memory with {len(tasks) * run.config.rollout.responses} sequences: set a smaller "
            "rollout.batch_sequences and delete the folder rollouts (longest prompts come first)"
        ) from error


def _table(responses: list[Response]) -> pa.Table:
    columns = list(zip(*responses, strict=True))
    prompt_id, number, prompt_tokens, tokens, logprobs, text, finish = columns
    length = [len(t) for t in tokens]
    arrays = [prompt_id, number, prompt_tokens, tokens, logprobs, length, text, finish]
    return pa.table([pa.array(a, f.type) for a, f in zip(arrays, SCHEMA, strict=True)], schema=SCHEMA)


def _write_skipped(run: RunDir, skipped: list[tuple[str, str]]) -> None:
    rows = [{"prompt_id": prompt_id, "reason": reason} for prompt_id, reason in skipped]
    durable.write_parquet(run.path / "rollouts" / "skipped.parquet", pa.Table.from_pylist(rows, SKIPPED_SCHEMA))


def _facts(policy: Policy, run: RunDir) -> dict[str, Any]:
    parameter = next(policy.model.parameters())
    return {
        "name": policy.name,
        "digest": policy_digest(policy.name),
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "device": str(parameter.device),
        "dtype": str(parameter.dtype).removeprefix("torch."),
    }
