"""Stage 2: the policy answers every prompt; one Parquet part a batch, so that a resume goes on there.

Where responses are spread over the prompts by what is known of them, a call samples one round, and the next reads
its verdicts (see `learnalign.rollout.allocation`). Which round is next follows from the files alone. The engine stays
open until the last round is done: it may take a minute to start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import files
from learnalign.config import section_dict
from learnalign.errors import PolicyError
from learnalign.policy import Renderer, load_renderer, policy_digest
from learnalign.progress import Progress
from learnalign.rollout import batch_sequences, open_engine
from learnalign.rollout.allocation import Counts, Round, next_round, rounds
from learnalign.rollout.engine import Response, Task, plan
from learnalign.rollout.parts import part_name, parts_of
from learnalign.runs.directory import RunDir
from learnalign.runs.stages import Outcome
from learnalign.runs.verifier import verifier_inputs

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
DROPPED_SCHEMA = pa.schema([("prompt_id", pa.string()), ("responses", pa.int32())])
OPERATION = ("base_urls", "concurrency", "patience_seconds", "tensor_parallel")
"""Settings of [rollout] that decide how and where responses are sampled, not which."""
HALVING = ("budget", "keep")
"""Settings that count for `halving` only."""


def inputs(run: RunDir) -> dict[str, Any]:
    """Pool, policy, prompt rendering and sampling settings; where verdicts steer the sampling, the verifier too."""
    policy, config = section_dict(run.config, "policy"), run.config.rollout
    named = {
        "pool": run.output("pool", "pool.parquet"),
        "policy": policy_digest(run.policy.model),
        **{f"policy.{key}": policy[key] for key in ("dtype", "pad_token", "instruction", "plain_template")},
        **{f"rollout.{k}": v for k, v in section_dict(run.config, "rollout").items() if k not in OPERATION + HALVING},
    }
    if config.allocation != "fixed":
        named |= verifier_inputs(run)
    if config.allocation == "halving":
        named |= {"rollout.budget": config.budget, "rollout.keep": _keep(run)}
    return named


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Sample what is not there yet of the first round that is not judged yet."""
    config = run.config.rollout
    folder = run.path / "rollouts"
    folder.mkdir(exist_ok=True)
    renderer = load_renderer(run.policy)
    prompts, skipped = tokenized(run, renderer)
    sampled, correct = np.zeros(len(prompts), np.int64), np.zeros(len(prompts), np.int64)
    facts = {"name": renderer.name, "digest": policy_digest(renderer.name), **run.record(NAME).get("policy", {})}
    row_of = {prompt.prompt_id: row for row, prompt in enumerate(prompts)}
    for number in range(rounds(config)):
        now = next_round(config, _keep(run), number, sampled, correct)
        facts |= _sample_round(run, progress, renderer, prompts, sampled, now, number)
        sampled = sampled + now.wanted
        if number == rounds(config) - 1:
            break
        verdicts = _verdicts(run, number, row_of)
        if verdicts is None:
            return Outcome(int(sampled.sum()), facts={"policy": facts}, more=True)
        correct = correct + verdicts
    run.release()
    _write_skipped(run, skipped)
    if config.allocation == "halving":
        _write_dropped(run, prompts, sampled, now)
    notes = [f"{len(skipped):,} prompts skipped: too long for the policy's context"] if skipped else []
    return Outcome(int(sampled.sum()), notes, {"policy": facts, "skipped": len(skipped)})


class Prompt(NamedTuple):
    """A prompt of the pool as token ids."""

    prompt_id: str
    tokens: list[int]


def _keep(run: RunDir) -> int:
    return run.config.rollout.keep or 2 * run.config.select.n


def tokenized(run: RunDir, renderer: Renderer) -> tuple[list[Prompt], list[tuple[str, str]]]:
    """Prompts as token ids, and those that do not fit with the reason."""
    room = renderer.context - run.config.rollout.max_new_tokens
    prompts, skipped = [], []
    table = pq.read_table(run.path / "pool.parquet", columns=["prompt_id", "problem", "messages"])
    for batch in table.to_batches():
        for row in batch.to_pylist():
            tokens = renderer.encode(row["problem"], row["messages"])
            if len(tokens) <= room:
                prompts.append(Prompt(row["prompt_id"], tokens))
                continue
            reason = (
                f"prompt of {len(tokens):,} tokens and up to {run.config.rollout.max_new_tokens:,} new ones "
                f"are more than the context of {renderer.context:,}"
            )
            skipped.append((row["prompt_id"], reason))
    if not prompts:
        raise PolicyError(f"no prompt fits the policy; the first: {skipped[0][1]}; lower rollout.max_new_tokens")
    return prompts, skipped


def _sample_round(
    run: RunDir,
    progress: Progress,
    renderer: Renderer,
    prompts: list[Prompt],
    sampled: Counts,
    now: Round,
    number: int,
) -> dict[str, Any]:
    """Sample the parts of a round that are not there yet; what the engine says of the policy, if it was needed."""
    wanted = now.wanted.tolist()
    batches = plan([len(p.tokens) for p in prompts], wanted, batch_sequences(run.config.rollout))
    parts = [run.path / "rollouts" / part_name(number, k) for k in range(len(batches))]
    todo = [k for k, part in enumerate(parts) if not part.exists()]
    if not todo:
        return {}
    total = sum(wanted)
    left = sum(wanted[i] for k in todo for i in batches[k])
    if left < total:
        progress.say(f"rollout: {total - left:,} of {total:,} responses were there")
    elif number:
        kept = int(np.count_nonzero(now.wanted))
        progress.say(f"rollout: round {number + 1} asks for {total:,} responses of {kept:,} prompts")
    longest = max(len(p.tokens) for p in prompts)  # a later round may ask for prompts that this one does not
    engine = run.hold(lambda: open_engine(replace(run.config, policy=run.policy), renderer, longest))
    with progress.track(NAME, total, "responses", done=total - left) as advance:
        for k in todo:
            tasks = [Task(*prompts[i], wanted[i], int(sampled[i])) for i in batches[k]]
            responses = engine.sample(tasks)
            files.write_parquet(parts[k], _table(responses))
            advance(len(responses))
    return engine.facts()


def _verdicts(run: RunDir, number: int, row_of: dict[str, int]) -> Counts | None:
    """Correct responses of every prompt in a round; None where it is not judged yet.

    Verdicts count only if they were made from these responses: the folder may hold those of deleted ones.
    """
    record = run.record("reward")
    judged = record.get("state") == "done" and run.grew_from(NAME, "rollouts", record["inputs"]["rollouts"])
    parts = [run.path / "rewards" / part.name for part in parts_of(run.path / "rollouts", number)]
    if not judged or not all(part.exists() for part in parts):
        return None if parts else np.zeros(len(row_of), np.int64)
    return _correct_of(parts, row_of)


def _correct_of(parts: Sequence[Path], row_of: Mapping[str, int]) -> Counts:
    """[len(row_of)] correct responses of every prompt in these parts of verdicts; row_of: prompt id to place."""
    correct = np.zeros(len(row_of), np.int64)
    for part in parts:
        rows = pq.read_table(part, columns=["prompt_id", "correct"])
        at = [row_of[prompt_id] for prompt_id in rows["prompt_id"].to_pylist()]
        np.add.at(correct, at, rows["correct"].to_numpy())
    return correct


def _table(responses: list[Response]) -> pa.Table:
    columns = list(zip(*responses, strict=True))
    prompt_id, number, prompt_tokens, tokens, logprobs, text, finish = columns
    length = [len(t) for t in tokens]
    arrays = [prompt_id, number, prompt_tokens, tokens, logprobs, length, text, finish]
    return pa.table([pa.array(a, f.type) for a, f in zip(arrays, SCHEMA, strict=True)], schema=SCHEMA)


def _write_skipped(run: RunDir, skipped: list[tuple[str, str]]) -> None:
    rows = [{"prompt_id": prompt_id, "reason": reason} for prompt_id, reason in skipped]
    files.write_parquet(run.path / "rollouts" / "skipped.parquet", pa.Table.from_pylist(rows, SKIPPED_SCHEMA))


def _write_dropped(run: RunDir, prompts: list[Prompt], sampled: Counts, last: Round) -> None:
    """Prompts that the last round did not keep: their success rates rest on few responses."""
    rows = [
        {"prompt_id": prompt.prompt_id, "responses": count}
        for prompt, count, kept in zip(prompts, sampled.tolist(), last.kept.tolist(), strict=True)
        if not kept
    ]
    files.write_parquet(run.path / "rollouts" / "dropped.parquet", pa.Table.from_pylist(rows, DROPPED_SCHEMA))
