"""Runs the stages of a run directory in order: skips what is up to date, resumes what was interrupted.

A stage whose recorded inputs equal today's is not run again. Where they differ, cheap products are made anew;
costly ones (responses, sketches) are kept and the run is refused with the difference, because overwriting a
night's work must be the user's own decision.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast

from learnalign import files
from learnalign.cluster import session
from learnalign.config import Config, SelectConfig, WarmupConfig
from learnalign.errors import CostlyProductsError, LearnAlignError
from learnalign.progress import Progress
from learnalign.runs.directory import RunDir, create_run, differences, digest, open_run
from learnalign.runs.stages import Outcome, stages

SKETCHES = "sketches"


class Stage(Protocol):
    """A module of `learnalign.runs.stages`."""

    NAME: str
    PRODUCTS: tuple[str, ...]
    COSTLY: bool

    def inputs(self, run: RunDir) -> dict[str, Any]: ...
    def execute(self, run: RunDir, progress: Progress) -> Outcome: ...


@dataclass(frozen=True)
class RunResult:
    """Where a finished run left its results, and what it has to say about them."""

    directory: Path
    selection_jsonl: Path
    selection_parquet: Path
    report: Path
    notes: tuple[str, ...]


def run(config: Config, directory: str | Path = "learnalign-run", *, quiet: bool = True) -> RunResult:
    """Select prompts: run every stage that is not up to date in `directory`, and resume one that was killed.

    Raises children of `LearnAlignError` for whatever a user can repair; nothing computed before is lost.
    """
    opened = create_run(directory, config)
    work(opened, config, "report", Progress(quiet))
    return result(opened)


def work(run: RunDir, config: Config, last: str, progress: Progress) -> None:
    """Bring a run directory up to and including stage `last` under a configuration, holding its lock.

    A configuration that is refused because costly products were made under another one is taken back.
    """
    with run.locked():
        before = run.config
        run.save_config(config)
        try:
            with session():
                advance(run, last, progress)
        except CostlyProductsError:
            run.save_config(before)
            raise


def result(run: RunDir) -> RunResult:
    """The files of a finished run."""
    notes = [note for stage in stages(run.config) for note in run.record(stage).get("notes", [])]
    jsonl, parquet, report = (run.path / name for name in ("selection.jsonl", "selection.parquet", "report.html"))
    return RunResult(run.path, jsonl, parquet, report, tuple(notes))


def advance(run: RunDir, last: str, progress: Progress) -> None:
    """Run every stage up to and including `last` that is not up to date. The caller holds the run's lock."""
    names = stages(run.config)
    for name in names[: names.index(last) + 1]:
        if name == "score" and run.config.select.target:
            _measure_target(run, progress)
        _bring(run, name, progress)


def _bring(run: RunDir, name: str, progress: Progress) -> None:
    """Run a stage unless it is up to date."""
    stage = load(name)
    inputs = _inputs(stage, run)
    record = run.record(name)
    changed = differences(record.get("inputs", inputs), inputs)
    if record and record["inputs"] == inputs and record["state"] == "done":
        return
    if changed and stage.COSTLY:
        folders = " and ".join(str(run.path / product) for product in stage.PRODUCTS)
        raise CostlyProductsError(
            f"{folders} was made with other inputs ({'; '.join(changed)}): "
            f"name a new run directory, or delete {folders} to make it again"
        )
    if changed or not record:
        _clear(run, stage)
    _execute(run, stage, inputs, progress)


def _measure_target(run: RunDir, progress: Progress) -> None:
    """Sample and sketch the target set as the pool was, in a run directory within this one."""
    config = run.config
    pool = replace(config.pool, path=config.select.target, limit=0)
    progress.say(f"target: measuring {config.select.target} in {run.target}")
    asked = replace(
        config,
        pool=pool,
        policy=run.policy,
        warmup=WarmupConfig(),  # which the policy has behind it
        rollout=replace(config.rollout, allocation="fixed"),  # all of a target set counts: no prompt is dropped
        select=SelectConfig(n=1),
    )
    work(create_run(run.target, asked), asked, "sketch", progress)


def load(name: str) -> Stage:
    """A stage's module; imported only when it is needed, since some of them import torch."""
    return cast(Stage, import_module(f"learnalign.runs.stages.{name}"))


def stale(run: RunDir) -> dict[str, list[str]]:
    """For every stage that has a record: what changed since it ran. An empty list means up to date."""
    found: dict[str, list[str]] = {}
    for name in stages(run.config):
        record = run.record(name)
        if not record:
            continue
        try:
            found[name] = differences(record["inputs"], _inputs(load(name), run))
        except LearnAlignError as error:
            found[name] = [str(error)]
        before = [other for other, changes in found.items() if changes and other != name]
        if before and not found[name]:
            found[name] = [f"stage {before[0]} is stale"]
    return found


def _inputs(stage: Stage, run: RunDir) -> dict[str, Any]:
    """A stage's own inputs; a cheap one is also done again by another version of this package."""
    return stage.inputs(run) if stage.COSTLY else {**stage.inputs(run), "learnalign": version("learnalign")}


def _execute(run: RunDir, stage: Stage, inputs: dict[str, Any], progress: Progress) -> None:
    run.begin(stage.NAME, inputs, stage.PRODUCTS)
    started = time.monotonic() - run.record(stage.NAME).get("seconds", 0.0)  # earlier attempts count
    progress.tick = lambda: run.lap(stage.NAME, time.monotonic() - started)
    for folder in (run.path, *(run.path / product for product in stage.PRODUCTS)):
        if folder.is_dir():
            files.remove_partials(folder)
    outcome = stage.execute(run, progress)
    seconds = time.monotonic() - started
    run.finish(stage.NAME, outcome.rows, seconds, outcome.notes, outcome.facts)
    progress.say(f"{stage.NAME}: {outcome.rows:,} rows in {seconds:,.1f} s")
    for note in outcome.notes:
        progress.say(f"{stage.NAME}: {note}")


def _clear(run: RunDir, stage: Stage) -> None:
    for product in stage.PRODUCTS:
        path = run.path / product
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def verify(run: RunDir) -> list[str]:
    """Every recorded product that is missing or does not match its digest, and every damaged row of sketches."""
    sketches = _sketch_damage(run)
    damage = []
    for name in stages(run.config):
        record = run.manifest["stages"].get(name, {})
        for product, expected in record.get("outputs", {}).items():
            path = run.path / product
            if not path.exists():
                damage.append(f"{path}: missing; 'learnalign {name} {run.path}' makes it again")
            elif product == SKETCHES and sketches:
                damage.append(f"{path}: damaged; 'learnalign check {run.path} --repair' sets these rows aside:")
                damage += sketches
            elif digest(path) != expected:
                damage.append(f"{path}: differs from what stage {name} wrote; delete it to make it again")
    damage += [] if run.record("sketch").get("outputs") else sketches
    return damage + (verify(open_run(run.target)) if run.config.select.target else [])


def repair(run: RunDir) -> list[str]:
    """Set damaged rows of sketches aside, so that the next run sketches exactly these prompts again.

    Returns what was found, in a target set's directory too. Raises `RunLockedError` while another process works in
    the directory, `StoreError` where the store cannot be repaired.
    """
    from learnalign import store

    target = repair(open_run(run.target)) if run.config.select.target and run.target.is_dir() else []
    with run.locked():
        folder = run.path / SKETCHES
        damage = store.SketchReader(folder).check() if folder.is_dir() else []
        if damage:
            run.reopen("sketch")  # first: whatever happens from here on, the stage is not called done
            store.repair(folder, damage)
        return [str(found) for found in damage] + target


def _sketch_damage(run: RunDir) -> list[str]:
    if not (run.path / SKETCHES).is_dir():
        return []
    from learnalign.store import SketchReader

    return [str(found) for found in SketchReader(run.path / SKETCHES).check()]
