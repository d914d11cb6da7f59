"""Know before you pay: some prompts of the pool go through all stages, and what the run costs is scaled from them.

    plan/        the sampled rows of the pool, and a run directory of their own, each prompt with all its responses
    plan.json    the estimate

The run's own stage `pool` is done by it; nothing else of the run is. A warm-up and a target set are not in it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import files
from learnalign.config import Config, SelectConfig, WarmupConfig
from learnalign.pool.export import write_selection
from learnalign.progress import Progress
from learnalign.rollout.parts import groups
from learnalign.runs import pipeline
from learnalign.runs.directory import RunDir, create_run
from learnalign.runs.estimate import FINAL, Estimate, Sample, estimate

SOURCE = "learnalign_source"
PROMPTS = 64
"""That are sampled, but not more than a third of the pool."""


class Stopwatch(Progress):
    """Keeps the seconds that are spent under every bar: those that grow with the rows."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def track(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
        """See `Progress.track`."""
        started = time.monotonic()
        with super().track(label, total, unit, done) as advance:
            yield advance
        self.seconds[label] = self.seconds.get(label, 0.0) + time.monotonic() - started


def plan(run: RunDir, config: Config, quiet: bool) -> Estimate:
    """Read the pool, sample some of it anew, and estimate. Raises whatever the stages raise."""
    pipeline.work(run, config, "pool", Progress(quiet))
    with run.locked():
        watch = Stopwatch(quiet)
        sampled = _measure(run, config, watch)
        found = _estimate(run, sampled, watch)
        files.write_json(run.path / "plan.json", found.facts())
    return found


def _measure(run: RunDir, config: Config, watch: Stopwatch) -> RunDir:
    """All stages for some prompts, in a directory within the run's."""
    pool = pq.read_table(run.path / "pool.parquet", columns=["row", "source"])
    count = min(len(pool), PROMPTS, max(2, -(-len(pool) // 3)))
    chosen = pool.take(np.sort(np.random.default_rng(config.rollout.seed).choice(len(pool), count, replace=False)))
    folder = run.path / "plan"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    sources = {SOURCE: chosen["source"].to_pylist()}  # which may be the names of files
    written = write_selection(config.pool.path, chosen["row"].to_pylist(), sources, folder, "pool")
    parquet = str(run.record("pool")["name"]).endswith(".parquet")
    path = (written.parquet if parquet else written.jsonl).absolute()
    asked = replace(
        config,
        pool=replace(config.pool, path=str(path), source_column=SOURCE, limit=0),
        warmup=WarmupConfig(),
        rollout=replace(config.rollout, allocation="fixed"),
        select=SelectConfig(n=1),
    )
    sampled = create_run(folder / "run", asked)
    pipeline.work(sampled, asked, "report", watch)
    return sampled


def _estimate(run: RunDir, sampled: RunDir, watch: Stopwatch) -> Estimate:
    sample = _sample(run, sampled)
    responses = float(sample.responses.sum())
    parts = sum(_bytes(sampled.path / name) for name in ("rollouts", "rewards"))
    pool_bytes = (run.path / "pool.parquet").stat().st_size
    found = estimate(run.config, sample, bytes_a_response=parts / responses, pool_bytes=pool_bytes)
    grows = {"rollout": found.responses / responses, "reward": found.responses / responses}
    if sample.learnable.any():
        grows["sketch"] = found.learnable / int(sample.learnable.sum())
    seconds = {"pool": float(run.record("pool")["seconds"])}
    for stage, factor in grows.items():
        whole, work = float(sampled.record(stage)["seconds"]), watch.seconds[stage]
        seconds[stage] = whole - work + factor * work
    seconds |= {stage: float(sampled.record(stage)["seconds"]) for stage in FINAL}
    left_out = {"the warm-up": run.config.warmup.prompts, "the target set": run.config.select.target}
    return replace(found, seconds=seconds, left_out=tuple(name for name, there in left_out.items() if there))


def _sample(run: RunDir, sampled: RunDir) -> Sample:
    columns = (("prompt_id", "prompt_tokens", "length"), ("correct",))
    counts = [_counts(rows) for rows in groups((sampled.path / "rollouts", sampled.path / "rewards"), columns)]
    responses, correct, tokens, prompt = np.array(counts, np.float64).T
    states = pq.read_table(sampled.path / "scores.parquet", columns=["state"])["state"].to_numpy()
    return Sample(
        pool=run.record("pool")["rows"],
        skipped=int((states == "skipped").sum()),
        responses=responses,
        correct=correct,
        learnable=states[states != "skipped"] == "learnable",
        response_tokens=tokens,
        prompt_tokens=prompt,
    )


def _counts(rows: pa.Table) -> tuple[int, int, int, int]:
    length, correct = rows["length"].to_numpy(), rows["correct"].to_numpy()
    return len(length), int(correct.sum()), int(length.sum()), len(rows["prompt_tokens"][0])


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("part-*.parquet"))
