"""What the bench's processes do: train policies, run arms; and the files that hold what came out.

A job is one cell with all its arms, so that they share its first measurement. This module computes no figures.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from bench.outcome.arms import ARMS
from bench.outcome.cells import Cell
from bench.outcome.measures import Results
from bench.outcome.policies import make_policy
from bench.outcome.regimes import Scale
from bench.outcome.runs import run
from learnalign import files

WORKERS = 2


class Job(NamedTuple):
    """A cell of a regime."""

    regime: str
    pool: str
    pair: int
    seed: int


def in_processes(task: Callable[[Any], None], items: Sequence[Any]) -> None:
    """One item at a time in each of `WORKERS` processes of one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as workers:
        for done in as_completed([workers.submit(task, item) for item in items]):
            done.result()  # raises what it raised


def policy_path(folder: Path, pair: int, habit_steps: int) -> Path:
    """Where the policy of a pair is kept."""
    return folder / "policies" / f"pair{pair}-{habit_steps}.safetensors"


def make(folder: Path, habit_steps: int, pair: int) -> None:
    """Train the policy of a pair unless it is there."""
    make_policy(pair, policy_path(folder, pair, habit_steps), habit_steps)


def jobs(scale: Scale) -> list[Job]:
    """All cells."""
    return [
        Job(name, pool, pair, seed)
        for name, regime in scale.regimes.items()
        for pair in scale.pairs
        for pool in regime.pools
        for seed in scale.seeds
    ]


def work(folder: Path, scale: Scale, job: Job) -> None:
    """All arms of one cell that have no result yet."""
    regime = scale.regimes[job.regime]
    paths = {arm: result_path(folder, scale, job, arm) for arm in regime.arms}
    missing = [arm for arm, path in paths.items() if not path.exists()]
    if not missing:
        return
    cell = Cell(job.pair, job.pool, job.seed, regime, policy_path(folder, job.pair, scale.habit_steps))
    for arm in missing:
        start = time.process_time()
        result = run(ARMS[arm], cell)
        seconds = time.process_time() - start
        files.write_text(paths[arm], json.dumps({**result, "seconds": round(seconds, 1)}))
        passed = result["curve"][-1]["passed"]
        print(f"{paths[arm].stem:<45}{job.regime:<7}{passed:.3f}  {seconds:.0f} s", flush=True)


def regime_folder(folder: Path, scale: Scale, regime: str) -> Path:
    """Where the results of a regime are kept."""
    return folder / scale.name / regime


def result_path(folder: Path, scale: Scale, job: Job, arm: str) -> Path:
    """Where the result of a run is kept."""
    return regime_folder(folder, scale, job.regime) / f"pair{job.pair}-{job.pool}-seed{job.seed}-{arm}.json"


def collect(folder: Path, scale: Scale, name: str) -> Results:
    """All results of a regime."""
    found: dict[tuple[str, str], dict[int, list[Any]]] = defaultdict(dict)
    regime = scale.regimes[name]
    for pool in regime.pools:
        for arm in regime.arms:
            for pair in scale.pairs:
                paths = [result_path(folder, scale, Job(name, pool, pair, seed), arm) for seed in scale.seeds]
                found[pool, arm][pair] = [json.loads(path.read_text()) for path in paths]
    return dict(found)
