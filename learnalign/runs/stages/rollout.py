"""Stage 2: the policy answers every prompt; one Parquet part a batch, so that a resume goes on there.

Where responses are spread over the prompts by what is known of them, they are sampled and judged round by round (see
`learnalign.rollout.allocation`). Which round is next follows from the files alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import files
from learnalign.config import section_dict
from learnalign.errors import PolicyError, PoolError
from learnalign.policy import Renderer, load_renderer, policy_digest
from learnalign.progress import Progress
from learnalign.rollout.allocation import Counts, Round, next_round, rounds
from learnalign.runs.directory import RunDir
from learnalign.runs.rounds import Rounds, TokenizedPrompt
from learnalign.runs.stages import Outcome
from learnalign.runs.verifier import verifier_inputs
from learnalign.schemas import DROPPED, SKIPPED

NAME = "rollout"
PRODUCTS = ("rollouts",)
COSTLY = True

OPERATION = ("base_urls", "concurrency", "patience_seconds", "tensor_parallel")
"""Settings of [rollout] that decide how and where responses are sampled, not which."""
HALVING = ("budget", "keep")
"""Settings that count for `halving` only."""


def inputs(run: RunDir) -> dict[str, Any]:
    """Pool, policy, prompt rendering and sampling settings; where verdicts steer the sampling, the verifier too."""
    policy, config = section_dict(run.config, "policy"), run.config.rollout
    _check_count(run)
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
    """Sample what is not there yet, round by round; a round after which another one comes is judged at once."""
    config = run.config.rollout
    (run.path / "rollouts").mkdir(exist_ok=True)
    renderer = load_renderer(run.policy)
    prompts, skipped = tokenized(run, renderer)
    sampled, correct = np.zeros(len(prompts), np.int64), np.zeros(len(prompts), np.int64)
    with Rounds(run, progress, renderer, prompts) as opened:
        for number in range(rounds(config)):
            now = next_round(config, _keep(run), number, sampled, correct)
            opened.sample(number, now, sampled)
            sampled = sampled + now.wanted
            if number < rounds(config) - 1:
                correct = correct + opened.judge(number)
        facts = {"name": renderer.name, "digest": policy_digest(renderer.name), **opened.policy_facts()}
        notes = opened.notes()
    _write_skipped(run, skipped)
    if config.allocation == "halving":
        _write_dropped(run, prompts, sampled, now)
    if skipped:
        notes.append(f"{len(skipped):,} prompts skipped: too long, such as: {skipped[0][1]}")
    return Outcome(int(sampled.sum()), notes, {"policy": facts, "skipped": len(skipped)})


def _check_count(run: RunDir) -> None:
    """Refuse at once, before anything is sampled, to select more prompts than there are."""
    rows, wanted = int(run.record("pool")["rows"]), run.config.select.n
    if wanted > rows:
        raise PoolError(f"{wanted:,} prompts are to be selected from a pool of {rows:,}: lower --select")


def _keep(run: RunDir) -> int:
    return run.config.rollout.keep or 2 * run.config.select.n


def tokenized(run: RunDir, renderer: Renderer) -> tuple[list[TokenizedPrompt], list[tuple[str, str]]]:
    """Prompts as token ids, and those that do not fit with the reason."""
    room = renderer.context - run.config.rollout.max_new_tokens
    limit = run.config.rollout.max_prompt_tokens
    prompts, skipped = [], []
    table = pq.read_table(run.path / "pool.parquet", columns=["prompt_id", "problem", "messages"])
    for batch in table.to_batches():
        for row in batch.to_pylist():
            tokens = renderer.encode(row["problem"], row["messages"])
            if limit and len(tokens) > limit:
                reason = f"prompt of {len(tokens):,} tokens is longer than rollout.max_prompt_tokens of {limit:,}"
                skipped.append((row["prompt_id"], reason))
                continue
            if len(tokens) <= room:
                prompts.append(TokenizedPrompt(row["prompt_id"], tokens))
                continue
            reason = (
                f"prompt of {len(tokens):,} tokens and up to {run.config.rollout.max_new_tokens:,} new ones "
                f"are more than the context of {renderer.context:,}"
            )
            skipped.append((row["prompt_id"], reason))
    if not prompts:
        raise PolicyError(
            f"no prompt fits the policy; the first: {skipped[0][1]}; lower rollout.max_new_tokens"
            + (" or raise rollout.max_prompt_tokens" if limit else "")
        )
    return prompts, skipped


def _write_skipped(run: RunDir, skipped: list[tuple[str, str]]) -> None:
    rows = [{"prompt_id": prompt_id, "reason": reason} for prompt_id, reason in skipped]
    files.write_parquet(run.path / "rollouts" / "skipped.parquet", pa.Table.from_pylist(rows, SKIPPED))


def _write_dropped(run: RunDir, prompts: list[TokenizedPrompt], sampled: Counts, last: Round) -> None:
    """Prompts that the last round did not keep: their success rates rest on few responses."""
    rows = [
        {"prompt_id": prompt.prompt_id, "responses": count}
        for prompt, count, kept in zip(prompts, sampled.tolist(), last.kept.tolist(), strict=True)
        if not kept
    ]
    files.write_parquet(run.path / "rollouts" / "dropped.parquet", pa.Table.from_pylist(rows, DROPPED))
