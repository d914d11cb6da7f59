"""One stage of a staged selection over a run directory: for trainers that are another process, such as verl.

    RUN/stages/0003/   the third stage: a run directory of its own with responses, verdicts and sketches of the prompts
                       that were asked, and then selection.jsonl and .parquet
    RUN/stages/state/  what is known between stages (see `learnalign.staged.folder`)

A stage that was killed goes on where it was; one that is done has its selection. This module decides nothing about
prompts (see `learnalign.staged.selector`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from learnalign import pipeline, rundir
from learnalign.config import Config, WarmupConfig
from learnalign.errors import CostlyProductsError, RunError
from learnalign.importing import logged_verdicts
from learnalign.judging import verifier_inputs
from learnalign.policy import load_renderer
from learnalign.pool.export import SelectionFiles, write_selection
from learnalign.progress import Progress
from learnalign.rollout.allocation import Round
from learnalign.rollout.parts import parts_of
from learnalign.rows import Integers, Rows
from learnalign.rundir import RunDir
from learnalign.staged import StagedSelector
from learnalign.stages import reward, rollout, sketch
from learnalign.store import SketchReader


class StageResult(NamedTuple):
    """What a stage left."""

    stage: int
    files: SelectionFiles
    facts: dict[str, int]
    """What it cost and found: see `learnalign.staged.state.Facts`."""


def stage(
    directory: str | Path,
    config: Config,
    logs: Iterable[str | Path],
    progress: Progress,
    *,
    reward_column: str = "",
    correct_column: str = "",
) -> StageResult:
    """Measure `config.policy`, the checkpoint of today, and write the next n prompts to train on.

    logs: rollouts of the training since the last stage, whose verdicts count (see `learnalign.logs`).
    Raises children of `LearnAlignError`; what was sampled and sketched stays.
    """
    run = rundir.create(directory, config)
    with run.locked():
        run.save_config(config)
        pipeline.advance(run, "pool", progress)
        selector = _selector(run)
        begun = selector.stage + 1
        if selector.stage and not (_folder(run, selector.stage) / "selection.parquet").exists():
            return _write(run, selector)  # killed between the two
        if logs := list(logs):
            _observe(run, selector, logs, progress, reward_column, correct_column)
        within = _measuring(run, begun, progress)
        with within.locked():
            selector.update(_CheckpointPolicy(within, selector, progress))
        return _write(run, selector)


def _selector(run: RunDir) -> StagedSelector:
    config = run.config
    ids = pq.read_table(run.path / "pool.parquet", columns=["prompt_id"])["prompt_id"].to_pylist()
    return StagedSelector(
        ids,
        config.select.n,
        settings=config.stage,
        seed=config.select.seed,
        directory=run.path / "stages" / "state",
    )


def _folder(run: RunDir, number: int) -> Path:
    return run.path / "stages" / f"{number:04d}"


def _measuring(run: RunDir, number: int, progress: Progress) -> RunDir:
    """The run directory in which a stage samples. Raises `CostlyProductsError` if it was begun with other inputs."""
    config = run.config
    seed = (config.rollout.seed + number) % (1 << 63)  # a prompt that is asked again answers anew
    asked = replace(config, warmup=WarmupConfig(), rollout=replace(config.rollout, seed=seed))
    within = rundir.create(_folder(run, number), asked)
    within.save_config(asked)
    pipeline.advance(within, "pool", progress)
    now = {**rollout.inputs(within), **sketch.meaning(within), **verifier_inputs(within)}
    changed = rundir.differences(within.record("rollout").get("inputs", now), now)
    if changed:
        raise CostlyProductsError(
            f"stage {number} was begun with other inputs ({'; '.join(changed)}): delete {within.path} to begin it anew"
        )
    within.begin("rollout", now, rollout.PRODUCTS)
    return within


def _observe(
    run: RunDir,
    selector: StagedSelector,
    logs: list[str | Path],
    progress: Progress,
    reward_column: str,
    correct_column: str,
) -> None:
    """Count the logged verdicts once, however often the stage is begun; steps with a number once in all."""
    if not selector.stage:
        raise RunError("--observed belongs to a later stage: before the first one nothing was trained on a selection")
    begun_before = selector.observed
    new: list[str] = []
    for step, ids, correct in logged_verdicts(run, logs, reward_column, correct_column):
        if step < 0 and begun_before:
            continue
        if selector.observe(ids, [float(one) for one in correct], None if step < 0 else step):
            new += ids
    progress.say(f"stage: {len(new):,} responses of {len(set(new)):,} prompts observed that were not counted before")


def _write(run: RunDir, selector: StagedSelector) -> StageResult:
    """The picks as rows of the pool."""
    state, rows = selector.state, pq.read_table(run.path / "pool.parquet", columns=["row"])["row"].to_numpy()
    extra = {
        "learnalign_rank": np.arange(1, len(state.picked) + 1),
        "learnalign_score": state.score[state.picked],
        "learnalign_success_rate": state.history.success_rate()[state.picked],
    }
    files = write_selection(run.config.pool.path, rows[state.picked].tolist(), extra, _folder(run, selector.stage))
    return StageResult(selector.stage, files, state.facts._asdict())


class _CheckpointPolicy:
    """A `Measurer` that samples and sketches in a stage's run directory, and finds there what is done already."""

    def __init__(self, run: RunDir, selector: StagedSelector, progress: Progress) -> None:
        self.run, self.progress = run, progress
        self.renderer = load_renderer(run.policy)
        self.prompts, skipped = rollout.tokenized(run, self.renderer)
        if skipped:
            prompt_id, reason = skipped[0]
            raise RunError(f"{len(skipped):,} prompts do not fit, such as {prompt_id!r}: {reason}; remove them")
        self.place = {prompt_id: k for k, prompt_id in enumerate(selector.ids)}
        self.sampled = np.zeros(len(self.prompts), np.int64)
        self.number = 0
        (run.path / "rollouts").mkdir(exist_ok=True)

    def respond(self, prompts: Integers, responses: int) -> Integers:
        """See `Measurer.respond`: a round of rollouts, and its verdicts."""
        wanted = np.zeros(len(self.prompts), np.int64)
        wanted[prompts] = responses
        asked = Round(wanted > 0, wanted)
        rollout.sample_round(self.run, self.progress, self.renderer, self.prompts, self.sampled, asked, self.number)
        parts = parts_of(self.run.path / "rollouts", self.number)
        reward.judge_parts(self.run, parts, self.progress)
        self.sampled, self.number = self.sampled + wanted, self.number + 1
        verdicts = [self.run.path / "rewards" / part.name for part in parts]
        return rollout.correct_of(verdicts, self.place)[prompts]

    def sketch(self, prompts: Integers) -> tuple[Integers, npt.NDArray[Any]]:
        """See `Measurer.sketch`."""
        self.run.release()  # the engine, whose memory the gradients need
        wanted = {self.prompts[k].prompt_id for k in prompts.tolist()}

        def rows() -> Iterator[sketch.Row]:
            return (row for row in sketch.rows_of(self.run) if row[0] in wanted)

        sketch.sketch_rows(self.run, sketch.meaning(self.run), rows, self.progress)
        reader = SketchReader(self.run.path / "sketches")
        at = np.array([self.place[prompt_id] for prompt_id in reader.prompt_ids], np.int64)
        units = Rows(reader.shards).unit(np.arange(len(at)))[0] if len(at) else np.zeros((0, reader.dimension))
        return at, units
