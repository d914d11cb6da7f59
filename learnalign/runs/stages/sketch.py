"""Stage 4: the policy gradient of every learnable prompt, sketched and streamed to the store."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from learnalign.cluster import Unit, open_workers
from learnalign.config import SketchConfig
from learnalign.gradient import FOLD_VERSION, Costs, Group, cut
from learnalign.policy import policy_digest
from learnalign.progress import Progress
from learnalign.rollout.parts import groups
from learnalign.runs.directory import RunDir
from learnalign.runs.gaps import Gaps
from learnalign.runs.sketching import Sketching, costs_of_workers, shared_rows
from learnalign.runs.stages import Outcome, graded_input
from learnalign.runs.workers import say_idle_gpus
from learnalign.store import SketchReader, SketchWriter

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
    folder = run.path / "sketches"
    work = Sketching.of(run.config, run.policy)
    say_idle_gpus(run.config, work.needs, lambda line: progress.say(f"{NAME}: {line}"))
    with (
        open_workers(run.config.cluster, work, NAME, progress) as workers,
        SketchWriter(folder, dimension=config.dimension, dtype=config.dtype, identity=bound) as writer,
    ):
        gaps = _gaps(run, folder, writer.done)
        if writer.done:
            progress.say(f"sketch: {len(writer.done):,} of {total:,} gradients were there")
        costs = costs_of_workers(workers.ask)
        with progress.track(NAME, total, "prompts", done=len(writer.done)) as advance:
            for unit, found in workers.map(_units(rows, writer.done, config, costs)):
                gaps.add(unit.prompt_ids, found.gaps)
                writer.append(unit.prompt_ids, unit.kept, found.phi)
                advance(len(unit.prompt_ids))
        if not total and (unlearnable := list(islice(recorded_rows(run), CHECKED))):
            ids, todo = (list(column) for column in zip(*unlearnable, strict=True))
            for unit, found in workers.map([Unit(ids, (todo, shared_rows(costs, todo)))]):
                gaps.add(unit.prompt_ids, found.gaps)
        gaps.require()
        facts = {**workers.ask("facts"), "logprob_gap": gaps.facts(), **workers.facts()}
        notes = [*workers.notes(), *gaps.notes(total)]
    gaps.arrange(SketchReader(folder).prompt_ids)
    return Outcome(total, notes, facts)


def _units(rows: Iterator[Row], done: Container[str], config: SketchConfig, costs: Costs) -> Iterator[Unit]:
    """Batches of prompts that are not done, in an order that depends on rollouts, policy and settings alone."""
    while window := list(islice(rows, WINDOW)):
        for batch in cut([group for _, _, group in window], config.batch_tokens, config, costs):
            # All or none of a batch is there, unless another sketch.batch_tokens cut the batches elsewhere.
            todo = [window[i] for i in batch if window[i][0] not in done]
            if todo:
                ids, success, groups = (list(column) for column in zip(*todo, strict=True))
                yield Unit(ids, (groups, shared_rows(costs, groups)), np.array(success))


def _gaps(run: RunDir, folder: Path, done: Container[str]) -> Gaps:
    sampled_in = run.record("rollout").get("policy", {}).get("dtype")
    exact = sampled_in in ("float32", "float64")  # and sketched in it, for both are policy.dtype
    return Gaps(folder, done, most=run.config.rollout.max_logprob_gap, policy=run.policy.model, exact=exact)


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
