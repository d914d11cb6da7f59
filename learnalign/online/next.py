"""The next prompts to train on, over a run directory: for trainers that are another process, such as verl.

    RUN/online/0003/   what the third call left:
        selection.jsonl and .parquet
        state/         what is known after it (see `learnalign.online.folder`); of the last call only
        gradients/     a run directory of its own with the sketches of what training met, where they are asked for

A call that was killed begins again from the state before, and finds the sketches that it made. This module decides
nothing about prompts (see `learnalign.online.selector`).
"""

from __future__ import annotations

import shutil
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
from learnalign.logs.importing import Sampled, logged_steps, out_of_range, response_tokens
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
    """What a call left."""

    number: int
    files: SelectionFiles
    facts: dict[str, int]
    """responses: newly observed; gradients: compared; unseen: picks that training has never met."""


def next_prompts(
    directory: str | Path,
    config: Config,
    logs: Iterable[str | Path],
    progress: Progress,
    *,
    gradients: bool = False,
    reward_column: str = "",
    correct_column: str = "",
) -> NextResult:
    """Learn from a training's logs and write the next `config.select.n` prompts to train on.

    logs: rollouts of the training (see `learnalign.logs`); the first call may have none. gradients: also compare those
    of what the logs tell, under `config.policy`, the checkpoint of today.
    Raises children of `LearnAlignError`; what was sketched stays.
    """
    if config.reward.graded:
        raise ConfigError("learnalign next goes by success rates: with reward.graded there are none; unset it")
    run = create_run(directory, config)
    with run.locked(), session():
        run.save_config(config)
        pipeline.advance(run, "pool", progress)
        number, logs = _done(run) + 1, list(logs)
        if number > 1 and not logs:
            raise RunError(f"call {number} learns from the training's own rollouts: name them with --observed")
        selector = _selector(run, number - 1)
        policy = load_renderer(config.policy) if logs else None
        steps = logged_steps(run, logs, policy, reward_column, correct_column, _teller(progress)) if policy else []
        facts = {"responses": _observe(selector, steps, progress), "gradients": 0}
        if gradients and policy:
            within = _sketching(run, number, progress)
            with within.locked():
                facts["gradients"] = selector.measure(_CheckpointPolicy(within, selector, steps, policy, progress))
        return _write(run, number, selector, facts)


def _teller(progress: Progress) -> Callable[[str], None]:
    return lambda text: progress.say(f"next: {text}")


def _folder(run: RunDir, number: int) -> Path:
    return run.path / "online" / f"{number:04d}"


def _done(run: RunDir) -> int:
    """Number of the last call that is done, 0 before the first: its Parquet file is the last that it writes."""
    return max((int(path.parent.name) for path in run.path.glob("online/*/selection.parquet")), default=0)


def _selector(run: RunDir, number: int) -> OnlineSelector:
    """The selector as it was after a call."""
    ids = pq.read_table(run.path / "pool.parquet", columns=["prompt_id"])["prompt_id"].to_pylist()
    selector = OnlineSelector(ids, settings=run.config.online, seed=run.config.select.seed)
    if number:
        selector.restore(_folder(run, number) / "state")
    return selector


def _sketching(run: RunDir, number: int, progress: Progress) -> RunDir:
    """The run directory in which a call sketches. Raises `CostlyProductsError` if it was begun with other inputs."""
    asked = replace(run.config, warmup=WarmupConfig())
    within = create_run(_folder(run, number) / "gradients", asked)
    within.save_config(asked)
    pipeline.advance(within, "pool", progress)
    now = sketch.meaning(within)
    _compare_maps(run, now, number)
    changed = differences(within.record(sketch.NAME).get("inputs", now), now)
    if changed:
        raise CostlyProductsError(
            f"call {number} was begun with other inputs ({'; '.join(changed)}): delete {within.path} to begin it anew"
        )
    within.begin(sketch.NAME, now, sketch.PRODUCTS)
    return within


def _compare_maps(run: RunDir, now: dict[str, Any], number: int) -> None:
    """Raise `RunError` where a call before had another random map: gradients of all calls are compared."""
    before = [_folder(run, k) / "gradients" for k in range(1, number)]
    last = next((path for path in reversed(before) if (path / "manifest.json").exists()), None)
    if last is None:
        return
    earlier = open_run(last).record(sketch.NAME).get("inputs", now)
    own = {name for name in now if name.startswith(("sketch.", "fold"))}
    changed = differences({k: earlier.get(k) for k in own}, {k: now[k] for k in own})
    if changed:
        raise RunError(f"call {number} has other settings than those before ({'; '.join(changed)}): keep them")


def _observe(selector: OnlineSelector, steps: list[tuple[int, list[Sampled]]], progress: Progress) -> int:
    """Count the logged verdicts, of a step with a number once in all; returns how many."""
    new: list[str] = []
    for step, sampled in steps:
        ids = [one.prompt_id for one in sampled]
        if selector.observe(ids, [float(one.correct) for one in sampled], None if step < 0 else step):
            new += ids
    if steps:
        progress.say(f"next: {len(new):,} responses of {len(set(new)):,} prompts observed that were not counted yet")
    return len(new)


def _write(run: RunDir, number: int, selector: OnlineSelector, facts: dict[str, int]) -> NextResult:
    """Take the next prompts, and write them as rows of the pool after what is known then."""
    rows = pq.read_table(run.path / "pool.parquet", columns=["row"])["row"].to_numpy()
    place = {prompt_id: k for k, prompt_id in enumerate(selector.ids)}
    picks = np.array([place[prompt_id] for prompt_id in selector.next(run.config.select.n)], np.int64)
    known, folder = selector.known, _folder(run, number)
    selector.save(folder / "state")
    extra = {
        "learnalign_rank": np.arange(1, len(picks) + 1),
        "learnalign_weight": known.schedule.weight[picks],
        "learnalign_success_rate": known.history.success_rate(picks),
    }
    files = write_selection(run.config.pool.path, rows[picks].tolist(), extra, folder)
    for state in run.path.glob("online/*/state"):
        if state.parent != folder:
            shutil.rmtree(state)
    return NextResult(number, files, {**facts, "unseen": int((known.history.visits[picks] == 0).sum())})


class _CheckpointPolicy:
    """A `Measurer` that sketches logged responses in a run directory, where it finds what is done."""

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
