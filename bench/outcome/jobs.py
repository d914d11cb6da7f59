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
from typing import Any

from bench.outcome.arms import ARMS, Cell, Size, run
from bench.outcome.policies import make_policy
from bench.outcome.pools import POOLS
from bench.outcome.table import Results
from learnalign import files

WORKERS = 2
Job = tuple[str, int, int]
"""Pool, pair, seed."""


def in_processes(task: Callable[[Any], None], items: Sequence[Any]) -> None:
    """One item at a time in each of `WORKERS` processes of one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as workers:
        for done in as_completed([workers.submit(task, item) for item in items]):
            done.result()  # raises what it raised


def policy_path(folder: Path, size: Size, pair: int) -> Path:
    """Where the policy of a pair is kept."""
    return folder / "policies" / f"pair{pair}-{size.habit_steps}.safetensors"


def make(folder: Path, size: Size, pair: int) -> None:
    """Train the policy of a pair unless it is there."""
    make_policy(pair, policy_path(folder, size, pair), size.habit_steps)


def work(folder: Path, results: Path, size: Size, job: Job) -> None:
    """All arms of one cell that have no result yet."""
    pool, pair, seed = job
    missing = [arm for arm in ARMS if not result_path(results, job, arm).exists()]
    if not missing:
        return
    cell = Cell(pair, pool, seed, size, policy_path(folder, size, pair))
    for arm in missing:
        start = time.process_time()
        result = run(arm, cell)
        seconds = time.process_time() - start
        files.write_text(result_path(results, job, arm), json.dumps({**result, "seconds": round(seconds, 1)}))
        passed = result["curve"][-1]["passed"]
        print(f"pair {pair}, {pool}, seed {seed}: {arm:<15}{passed:.3f}  {seconds:.0f} s", flush=True)


def result_path(results: Path, job: Job, arm: str) -> Path:
    """Where the result of a run is kept."""
    pool, pair, seed = job
    return results / f"pair{pair}-{pool}-seed{seed}-{arm.replace(', ', '-')}.json"


def collect(results: Path, size: Size) -> Results:
    """All results."""
    found: dict[tuple[str, str], dict[int, list[Any]]] = defaultdict(dict)
    for pool in POOLS:
        for arm in ARMS:
            for pair in size.pairs:
                paths = [result_path(results, (pool, pair, seed), arm) for seed in size.seeds]
                found[pool, arm][pair] = [json.loads(path.read_text()) for path in paths]
    return dict(found)
