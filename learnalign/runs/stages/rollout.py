"""Stage 2: the policy answers every prompt; one Parquet part a batch, so that a resume goes on there.

Where responses are spread over the prompts by what is known of them, they are sampled and judged round by round (see
`learnalign.rollout.allocation`). Which round is next follows from the files alone.
"""

from __future__ import annotations

import gc
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from learnalign import files
from learnalign.cluster import open_workers
from learnalign.config import section_dict
from learnalign.errors import PolicyError, PoolError
from learnalign.policy import Renderer, adapter_base, load_renderer, policy_digest
from learnalign.pool import stored_prompts
from learnalign.progress import Progress
from learnalign.rollout.allocation import Counts, Round, next_round, rounds
from learnalign.rollout.parts import parts_of
from learnalign.runs.directory import RunDir
from learnalign.runs.rounds import Rounds, TokenizedPrompt
from learnalign.runs.sketching import Sketching
from learnalign.runs.stages import Outcome, told_to_templates
from learnalign.runs.verifier import check_sources, verifier_inputs
from learnalign.schemas import DROPPED, SKIPPED

NAME = "rollout"
PRODUCTS = ("rollouts",)
COSTLY = True

OPERATION = ("base_urls", "concurrency", "patience_seconds", "tensor_parallel", "max_logprob_gap")
"""Settings of [rollout] that decide how and where responses are sampled and checked, not which."""
MANY_CUT = 0.1
"""Share of cut responses from which on success rates say more about the limit than about the policy."""
HALVING = ("budget", "keep")
"""Settings that count for `halving` only."""


def inputs(run: RunDir) -> dict[str, Any]:
    """Pool, policy, prompt rendering and sampling settings; where verdicts steer the sampling, the verifier too."""
    policy, config = section_dict(run.config, "policy"), run.config.rollout
    _check_count(run)
    check_sources(run)
    named = {
        "pool": run.output("pool", "pool.parquet"),
        "policy": policy_digest(run.policy.model),
        **{f"policy.{key}": policy[key] for key in ("dtype", "pad_token", "instruction", "plain_template")},
        **told_to_templates(run),
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
    if renderer.dated:
        renderer = renderer.at(run.rendering_time())
    _check_sketch(run, renderer, progress)
    prompts, skipped = tokenized(run, renderer)
    sampled, correct = np.zeros(len(prompts), np.int64), np.zeros(len(prompts), np.int64)
    with Rounds(run, progress, prompts) as opened:
        for number in range(rounds(config)):
            now = next_round(config, _keep(run), number, sampled, correct)
            opened.sample(number, now, sampled)
            sampled = sampled + now.wanted
            if number < rounds(config) - 1:
                correct = correct + opened.judge(number)
        facts = {"name": renderer.name, "digest": policy_digest(renderer.name), **opened.policy_facts()}
        notes, who = opened.notes(), opened.facts()
    _write_skipped(run, skipped)
    if config.allocation == "halving":
        _write_dropped(run, prompts, sampled, now)
    cut = cut_share(run.path / "rollouts")
    notes = _notes(run, renderer, skipped, cut) + notes
    return Outcome(int(sampled.sum()), notes, {"policy": facts, "skipped": len(skipped), "cut": cut, **who})


def _check_count(run: RunDir) -> None:
    """Refuse at once, before anything is sampled, to select more prompts than there are."""
    rows, wanted = int(run.record("pool")["rows"]), run.config.select.n
    if wanted > rows:
        raise PoolError(f"{wanted:,} prompts are to be selected from a pool of {rows:,}: lower --select")


def _check_sketch(run: RunDir, renderer: Renderer, progress: Progress) -> None:
    """Refuse at once, before anything is sampled, a policy that the sketch would refuse after it.

    The last to know is the sketcher itself, which is opened once, and closed before an engine wants the memory.
    """
    sketch = run.config.sketch
    if sketch.space == "lora" and adapter_base(renderer.name) is None:
        raise PolicyError(f"sketch.space is 'lora', but the policy {renderer.name!r} is no LoRA adapter: use 'full'")
    if sketch.reference:
        other = load_renderer(replace(run.config.policy, model=sketch.reference)).vocabulary
        if other != renderer.vocabulary:
            raise PolicyError(
                f"the reference policy {sketch.reference!r} has a vocabulary of {other:,} tokens, and the policy "
                f"{renderer.vocabulary:,}: the KL term needs the same"
            )
    if not parts_of(run.path / "rollouts", 0):
        work = replace(Sketching.of(run.config, run.policy), sketch=replace(sketch, kl_beta=0.0, reference=""))
        with open_workers(replace(run.config.cluster, workers=1), work, "probe", progress) as workers:
            workers.ask("facts")
        if torch.cuda.is_available():
            gc.collect()  # the model and what looks into it hold each other
            torch.cuda.empty_cache()


def _keep(run: RunDir) -> int:
    return run.config.rollout.keep or 2 * run.config.select.n


def tokenized(run: RunDir, renderer: Renderer) -> tuple[list[TokenizedPrompt], list[tuple[str, str]]]:
    """Prompts as token ids, and those that cannot be sampled with the reason.

    Raises `PolicyError` where the template drops what tells two problems apart.
    """
    most, limit = run.config.rollout.max_new_tokens, run.config.rollout.max_prompt_tokens
    prompts, skipped, told = [], [], dict[str, str]()
    table = stored_prompts(run.path / "pool.parquet", ["prompt_id", "problem", "messages"])
    for batch in table.to_batches():
        for row in batch.to_pylist():
            text = renderer.render(row["problem"], row["messages"], row["tools"])
            tokens = renderer.tokens(text)
            _require_own_text(text, f"{row['messages'] or row['problem']} {row['tools'] or ''}", told, renderer.name)
            if limit and len(tokens) > limit:
                reason = f"prompt of {len(tokens):,} tokens is longer than rollout.max_prompt_tokens of {limit:,}"
                skipped.append((row["prompt_id"], reason))
                continue
            if tokens and len(tokens) + most <= renderer.context:
                prompts.append(TokenizedPrompt(row["prompt_id"], tokens))
                continue
            reason = (
                f"prompt of {len(tokens):,} tokens and up to {most:,} new ones "
                f"are more than the context of {renderer.context:,}"
            )
            skipped.append((row["prompt_id"], reason if tokens else "the prompt is empty when it is rendered"))
    if not prompts:
        raise PolicyError(
            f"no prompt fits the policy; the first: {skipped[0][1]}; lower rollout.max_new_tokens"
            + (" or raise rollout.max_prompt_tokens" if limit else "")
        )
    return prompts, skipped


def _require_own_text(text: str, problem: str, told: dict[str, str], name: str) -> None:
    """Raise `PolicyError` where another problem was rendered to the same text. told: digests of those before."""
    own, of = (hashlib.blake2b(" ".join(part.split()).encode(), digest_size=16).hexdigest() for part in (text, problem))
    if text and told.setdefault(own, of) != of:
        shown = " ".join(problem.split())[:60]
        raise PolicyError(
            f"the template of {name!r} renders {shown!r} and another problem to the same text: it drops the problem; "
            "give the tokenizer a template that shows the user's message"
        )


def _notes(run: RunDir, renderer: Renderer, skipped: list[tuple[str, str]], cut: float) -> list[str]:
    """What a person should know of the prompts and responses."""
    notes, policy, most = [], run.config.policy, run.config.rollout.max_new_tokens
    empty = sum(reason.endswith("rendered") for _, reason in skipped)
    if len(skipped) > empty:
        first = next(reason for _, reason in skipped if not reason.endswith("rendered"))
        notes.append(f"{len(skipped) - empty:,} prompts skipped: too long, such as: {first}")
    if empty:
        notes.append(f"{empty:,} prompts skipped: empty when they are rendered")
    pool = stored_prompts(run.path / "pool.parquet", ["problem", "messages"])
    messages = pool["messages"]
    if pool["tools"].null_count < len(pool):
        one = pool.filter(pc.is_valid(pool["tools"])).slice(0, 1).to_pylist()[0]
        if renderer.render(**one) == renderer.render(one["problem"], one["messages"]):
            notes.append("warning: the pool has tools, and the chat template does not show them to the policy")
    if policy.instruction and messages.null_count == 0:
        notes.append("policy.instruction changes nothing: all prompts are chat messages, which stay as they are")
    notes += [
        f"policy.chat_template_kwargs: {name} changes nothing: the tokenizer's chat template does not ask for it"
        for name in json.loads(policy.chat_template_kwargs or "{}")
        if name != "chat_template" and name not in str(renderer.tokenizer.chat_template)
    ]
    if cut > MANY_CUT:
        notes.append(f"warning: {cut:.1%} of the responses were cut at {most:,} tokens: raise rollout.max_new_tokens")
    elif cut:
        notes.append(f"{cut:.1%} of the responses were cut at {most:,} tokens (rollout.max_new_tokens)")
    return notes


def cut_share(folder: Path) -> float:
    """Share of all responses in a folder of rollouts that were cut before the policy ended them."""
    cut = total = 0
    for part in folder.glob("part-*.parquet"):
        finish = pq.read_table(part, columns=["finish"])["finish"]
        cut, total = cut + pc.sum(pc.equal(finish, "length")).as_py(), total + len(finish)
    return cut / total if total else 0.0


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
