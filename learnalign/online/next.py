"""One update of an online selection over a run directory: for trainers that are another process, such as verl.

    RUN/online/0003/   the third update: a run directory of its own with the sketches of what training met, and then
                       selection.jsonl and .parquet
    RUN/online/state/  what is known between updates (see `learnalign.online.folder`)

An update that was killed goes on where it was; one that is done has its selection. This module decides nothing about
prompts (see `learnalign.online.selector`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from learnalign.cluster import session
from learnalign.config import Config, WarmupConfig
from learnalign.errors import ConfigError, CostlyProductsError, RunError
from learnalign.logs.importing import Sampled, logged_steps
from learnalign.logs.parts import out_of_range, response_tokens
from learnalign.online import OnlineSelector
from learnalign.online.pairs import Pairs
from learnalign.policy import Renderer, load_renderer
from learnalign.pool.export import SelectionFiles, write_selection
from learnalign.progress import Progress
from learnalign.runs import pipeline
from learnalign.runs.directory import RunDir, create_run, differences, open_run
from learnalign.runs.stages import sketch
from learnalign.scoring.rows import Integers, Rows
from learnalign.store import SketchReader


class NextResult(NamedTuple):
    """What an update left."""

    update: int
    files: SelectionFiles
    facts: dict[str, int]
    """What it cost and found: see `learnalign.online.state.Facts`."""


def next_prompts(
    directory: str | Path,
    config: Config,
    logs: Iterable[str | Path],
    progress: Progress,
    *,
    reward_column: str = "",
    correct_column: str = "",
) -> NextResult:
    """Compare gradients under `config.policy`, the checkpoint of today, and write the next n prompts to train on.

    logs: rollouts of the training since the last update (see `learnalign.logs`); the first update has none.
    Raises children of `LearnAlignError`; what was sketched stays.
    """
    if config.reward.graded:
        raise ConfigError("learnalign next goes by success rates: with reward.graded there are none; unset it")
    run = create_run(directory, config)
    with run.locked(), session():
        run.save_config(config)
        pipeline.advance(run, "pool", progress)
        selector = _selector(run)
        if selector.updates and not (_folder(run, selector.updates) / "selection.parquet").exists():
            return _write(run, selector)  # killed between the two
        logs = list(logs)
        if bool(selector.updates) != bool(logs):
            raise RunError(
                f"update {selector.updates + 1} learns from the training's own rollouts: name them with --observed"
                if selector.updates
                else "--observed belongs to a later update: before the first one nothing was trained on a selection"
            )
        within = _sketching(run, selector.updates + 1, progress)
        policy = load_renderer(config.policy)
        steps = logged_steps(run, logs, policy, reward_column, correct_column, _teller(progress)) if logs else []
        _observe(selector, steps, progress)
        with within.locked():
            selector.update(_CheckpointPolicy(within, selector, steps, policy, progress))
        return _write(run, selector)


def _teller(progress: Progress) -> Callable[[str], None]:
    return lambda text: progress.say(f"update: {text}")


def _selector(run: RunDir) -> OnlineSelector:
    config = run.config
    ids = pq.read_table(run.path / "pool.parquet", columns=["prompt_id"])["prompt_id"].to_pylist()
    return OnlineSelector(
        ids,
        config.select.n,
        settings=config.online,
        seed=config.select.seed,
        directory=run.path / "online" / "state",
    )


def _folder(run: RunDir, number: int) -> Path:
    return run.path / "online" / f"{number:04d}"


def _sketching(run: RunDir, number: int, progress: Progress) -> RunDir:
    """The run directory in which an update sketches. Raises `CostlyProductsError` if it was begun with other inputs."""
    asked = replace(run.config, warmup=WarmupConfig())
    within = create_run(_folder(run, number), asked)
    within.save_config(asked)
    pipeline.advance(within, "pool", progress)
    now = sketch.meaning(within)
    _compare_maps(now, _folder(run, number - 1), number)
    changed = differences(within.record(sketch.NAME).get("inputs", now), now)
    if changed:
        raise CostlyProductsError(
            f"update {number} was begun with other inputs ({'; '.join(changed)}): delete {within.path} to begin it anew"
        )
    within.begin(sketch.NAME, now, sketch.PRODUCTS)
    return within


def _compare_maps(now: dict[str, Any], before: Path, number: int) -> None:
    """Raise `RunError` where the update before had another random map: gradients of all updates are compared."""
    if not (before / "manifest.json").exists():
        return
    earlier = open_run(before).record(sketch.NAME).get("inputs", now)
    own = {name for name in now if name.startswith(("sketch.", "fold"))}
    changed = differences({k: earlier.get(k) for k in own}, {k: now[k] for k in own})
    if changed:
        raise RunError(f"update {number} has other settings than those before ({'; '.join(changed)}): keep them")


def _observe(selector: OnlineSelector, steps: list[tuple[int, list[Sampled]]], progress: Progress) -> None:
    """Count the logged verdicts once, however often the update is begun; steps with a number once in all."""
    begun_before = selector.observed
    new: list[str] = []
    for step, sampled in steps:
        if step < 0 and begun_before:
            continue
        ids = [one.prompt_id for one in sampled]
        if selector.observe(ids, [float(one.correct) for one in sampled], None if step < 0 else step):
            new += ids
    if steps:
        progress.say(f"update: {len(new):,} responses of {len(set(new)):,} prompts observed that were not counted yet")


def _write(run: RunDir, selector: OnlineSelector) -> NextResult:
    """The picks as rows of the pool."""
    state, rows = selector.state, pq.read_table(run.path / "pool.parquet", columns=["row"])["row"].to_numpy()
    extra = {
        "learnalign_rank": np.arange(1, len(state.picked) + 1),
        "learnalign_score": state.score()[state.picked],
        "learnalign_success_rate": state.history.success_rate()[state.picked],
    }
    files = write_selection(run.config.pool.path, rows[state.picked].tolist(), extra, _folder(run, selector.updates))
    return NextResult(selector.updates, files, state.facts._asdict())


class _CheckpointPolicy:
    """A `Measurer` that sketches logged responses in an update's run directory, where it finds what is done."""

    def __init__(
        self,
        run: RunDir,
        selector: OnlineSelector,
        steps: list[tuple[int, list[Sampled]]],
        policy: Renderer,
        progress: Progress,
    ) -> None:
        self.run, self.ids, self.progress = run, selector.ids, progress
        self.place = {prompt_id: k for k, prompt_id in enumerate(selector.ids)}
        self.prompts: dict[int, list[int]] = {}
        self.pairs = Pairs()
        for _, sampled in steps:
            for prompt_id, group in groupby(sampled, lambda one: one.prompt_id):
                self._add(self.place[prompt_id], list(group), policy)

    def _add(self, place: int, group: list[Sampled], policy: Renderer) -> None:
        """Remember the first response of each kind; none of a prompt with one that the policy cannot hold."""
        first = {one.correct: one for one in reversed(group)}
        responses = [response_tokens(one.logged, policy) for one in first.values()]
        prompt = group[0].prompt
        fits = len(prompt) + max(map(len, responses)) <= policy.context
        if fits and not out_of_range([prompt, *responses], policy):
            self.prompts[place] = prompt.tolist()
            self.pairs.observe(place, [tokens.tolist() for tokens in responses], list(first))

    def sketch(self, prompts: Integers) -> tuple[Integers, npt.NDArray[Any]]:
        """See `Measurer.sketch`."""
        found = self.pairs.of(prompts.tolist())

        rows = ((self.ids[k], 0.5, pair.group(self.prompts[k])) for k, pair in found.items())
        sketch.sketch_rows(self.run, sketch.meaning(self.run), rows, len(found), self.progress)
        reader = SketchReader(self.run.path / "sketches")
        at = np.array([self.place[prompt_id] for prompt_id in reader.prompt_ids], np.int64)
        units = Rows(reader.shards).unit(np.arange(len(at))) if len(at) else np.zeros((0, reader.dimension))
        return at, units
