"""Stage 4: the policy gradient of every learnable prompt, sketched and streamed to the store."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import nn

from learnalign.gradient import FOLD_VERSION, Group, Sketched, Sketcher
from learnalign.policy import load_policy, policy_digest
from learnalign.progress import Progress
from learnalign.rollout.parts import groups
from learnalign.runs.directory import RunDir
from learnalign.runs.gaps import Gaps
from learnalign.runs.stages import Outcome, graded_input
from learnalign.store import SketchWriter

NAME = "sketch"
PRODUCTS = ("sketches",)
COSTLY = True
Row = tuple[str, float, Group]
"""A prompt's id, success rate, and responses with rewards."""
WINDOW = 512
"""Prompts among which batches of like length are made; bounds what is in memory."""
CHECKED = 8
"""Prompts that are compared with the policy where none is learnable: a wrong policy may be the reason."""
MEANING = ("rank", "weighting", "advantage_std", "responses_used", "space", "kl_beta")
"""Settings beside those of the random map that decide what a sketch is, and not only how it is computed."""


def inputs(run: RunDir) -> dict[str, Any]:
    """Responses, rewards, policy and the random map."""
    return {
        "rollouts": run.output("rollout", "rollouts"),
        "rewards": run.output("reward", "rewards"),
        **meaning(run),
        **graded_input(run),
    }


def meaning(run: RunDir) -> dict[str, Any]:
    """What beside the responses decides what a sketch is: the policy and the random map."""
    config = run.config.sketch
    return {
        "policy": policy_digest(run.policy.model),
        "policy.dtype": run.config.policy.dtype,
        **({"reference": policy_digest(config.reference)} if config.reference else {}),
        "rollout.temperature": run.config.rollout.temperature,
        "sketch.dimension": config.dimension,
        "sketch.seed": config.seed,
        "sketch.dtype": config.dtype,
        **{f"sketch.{name}": getattr(config, name) for name in MEANING},
        **({"sketch.mask_truncated": True} if config.mask_truncated else {}),
        "fold version": FOLD_VERSION,
    }


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Sketch what is not in the store yet."""
    return sketch_rows(run, inputs(run), rows_of(run), learnable_count(run), progress)


def sketch_rows(
    run: RunDir, identity: Mapping[str, Any], rows: Iterator[Row], total: int, progress: Progress
) -> Outcome:
    """Sketch those of the `total` rows that are not in the store yet. A batch is one atomic block of the store.

    identity: what the store is bound to.
    """
    config = run.config.sketch
    own = ("sketch.dimension", "sketch.dtype")  # the store records these itself
    bound = {name: str(value) for name, value in identity.items() if name not in own}
    sketcher = _sketcher(run, progress)
    folder = run.path / "sketches"
    with SketchWriter(folder, dimension=config.dimension, dtype=config.dtype, identity=bound) as writer:
        gaps = _gaps(run, folder, writer.done)
        if writer.done:
            progress.say(f"sketch: {len(writer.done):,} of {total:,} gradients were there")
        with progress.track(NAME, total, "prompts", done=len(writer.done)) as advance:
            for batch in _batches(rows, sketcher, config.batch_tokens):
                # All or none of a batch is there, unless another sketch.batch_tokens cut the batches elsewhere.
                todo = [row for row in batch if row[0] not in writer.done]
                if not todo:
                    continue
                ids, success, todo_groups = (list(column) for column in zip(*todo, strict=True))
                found = _sketch(sketcher, todo_groups)
                gaps.add(ids, found.gaps)
                writer.append(ids, np.array(success), found.phi)
                advance(len(ids))
        if not total and (unlearnable := list(islice(recorded_rows(run), CHECKED))):
            ids, todo_groups = (list(column) for column in zip(*unlearnable, strict=True))
            gaps.add(ids, sketcher.measure(todo_groups).gaps)
        gaps.require()
    coverage = sketcher.coverage
    facts = {
        "covered_weights": coverage.covered,
        "all_weights": coverage.total,
        "not_covered": coverage.missing,
        "not_covered_shares_of_squared_gradient": {name: float(f"{x:.3g}") for name, x in coverage.shares.items()},
        "one_prompt_a_pass": sketcher.alone,
        "prompts_shared": not sketcher.unshared,
        "prompts_unshared_because": sketcher.unshared,
        "logits_whole_because": sketcher.head.whole,
        "logprob_gap": gaps.facts(),
    }
    return Outcome(total, gaps.notes(total), facts)


def _gaps(run: RunDir, folder: Path, done: Container[str]) -> Gaps:
    sampled_in = run.record("rollout").get("policy", {}).get("dtype")
    exact = sampled_in in ("float32", "float64")  # and sketched in it, for both are policy.dtype
    return Gaps(folder, done, most=run.config.rollout.max_logprob_gap, policy=run.policy.model, exact=exact)


def _sketcher(run: RunDir, progress: Progress) -> Sketcher:
    config = run.config.sketch
    return Sketcher(
        load_policy(run.policy).model,
        config,
        temperature=run.config.rollout.temperature,
        reference=_reference(run),
        say=lambda text: progress.say(f"{NAME}: {text}"),
    )


def _reference(run: RunDir) -> nn.Module | None:
    """The reference policy of the KL term, loaded like the policy."""
    name = run.config.sketch.reference
    return load_policy(replace(run.config.policy, model=name)).model if name else None


def _sketch(sketcher: Sketcher, groups: list[Group]) -> Sketched:
    found = sketcher.measure(groups)
    return found._replace(phi=found.phi.astype(np.float32, copy=False))


def _batches(stream: Iterator[Row], sketcher: Sketcher, batch_tokens: int) -> Iterator[list[Row]]:
    """Batches of prompts, in an order that depends on rollouts, policy and settings alone."""
    while window := list(islice(stream, WINDOW)):
        for batch in sketcher.batches([group for _, _, group in window], batch_tokens):
            yield [window[i] for i in batch]


def learnable_count(run: RunDir) -> int:
    """How many prompts `rows_of` gives: from ids, verdicts and ends alone, without the tokens."""
    folders = (run.path / "rollouts", run.path / "rewards")
    columns = (("prompt_id", *(["finish"] if run.config.sketch.mask_truncated else [])), ("correct", "reward"))
    return sum(_has_gradient(run, rows) for rows in groups(folders, columns))


def rows_of(run: RunDir) -> Iterator[Row]:
    """Every prompt with a gradient (0 < p < 1, or graded rewards that differ), in the order of the parts.

    Its id, success rate, and responses with rewards.

    With `sketch.mask_truncated` the tokens of cut responses weigh nothing, and prompts without another are left out.
    """
    masked = run.config.sketch.mask_truncated
    read = ("prompt_id", "prompt_tokens", "tokens", "logprobs", *(["finish"] if masked else []))
    columns = (read, ("correct", "reward"))
    for rows in groups((run.path / "rollouts", run.path / "rewards"), columns):
        if not _has_gradient(run, rows):
            continue
        tokens = rows["tokens"].to_pylist()
        weights = None
        if masked:
            ends = rows["finish"].to_pylist()
            weights = [[float(end == "stop")] * len(one) for one, end in zip(tokens, ends, strict=True)]
        logs = _recorded(rows["logprobs"].to_pylist(), tokens)
        group = Group(rows["prompt_tokens"][0].as_py(), tokens, rows["reward"].to_pylist(), weights, logs)
        yield rows["prompt_id"][0].as_py(), float(np.mean(rows["correct"].to_numpy())), group


def recorded_rows(run: RunDir) -> Iterator[tuple[str, Group]]:
    """Every sampled prompt with rewards that give it a gradient: only its log-probabilities are of interest."""
    for rows in groups((run.path / "rollouts",), (("prompt_id", "prompt_tokens", "tokens", "logprobs"),)):
        tokens = rows["tokens"].to_pylist()
        logs, rewards = _recorded(rows["logprobs"].to_pylist(), tokens), [1.0, *[0.0] * (len(tokens) - 1)]
        yield (
            rows["prompt_id"][0].as_py(),
            Group(rows["prompt_tokens"][0].as_py(), tokens, rewards, log_probabilities=logs),
        )


def _recorded(logs: list[list[float] | None], tokens: list[list[int]]) -> list[list[float]] | None:
    """Log-probabilities of every token, NaN where one is not known; None where none are, as in an imported log."""
    if all(one is None for one in logs):
        return None
    return [[math.nan] * len(y) if one is None else one for one, y in zip(logs, tokens, strict=True)]


def _has_gradient(run: RunDir, rows: pa.Table) -> bool:
    """Whether a prompt was solved sometimes, not always (of graded rewards: whether they differ), and a response is
    left whose tokens count.
    """
    masked = run.config.sketch.mask_truncated
    left = not masked or bool(pc.any(pc.equal(rows["finish"], "stop")).as_py())
    if run.config.reward.graded:
        return left and len(rows["reward"].unique()) > 1
    return left and bool(0 < pc.mean(rows["correct"]).as_py() < 1)
