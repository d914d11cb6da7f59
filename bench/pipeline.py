"""What do the stages cost beside sampling and sketching, and how does that grow with the pool?

A run directory of each size goes through every stage, one process a stage and one thread: pool, rollout, reward
(`exact`), sketch, score, select (`top`, 1 %), report; and the import of a log of the same responses as text, beside its
floor: rendering and encoding the prompts, and encoding the responses (`encode`), which every import of text must. No
policy answers and no gradient is taken: stage rollout is replaced by a writer of made-up responses, 2 to a prompt, in
files of as many as vLLM and servers are asked for at once (--part 256: as with transformers); within stage sketch the
sketcher alone is, by one that gives random rows (int8, d = 1,024 unless --dimension says otherwise), so that its
reading, batching and store are what they are in a run.

Of every stage: processor time, so that a busy machine does not show; rows a second of it (prompts; responses for
reward, import and encode); and the largest anonymous memory above that before the stage. The exponents compare the two
largest sizes: 1 is linear.

    python -m bench.pipeline [--rows 10000 100000] [--folder FOLDER] [--part RESPONSES] [--quick]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.measure import Peak, finish
from learnalign import files
from learnalign.cluster.local import LocalWorkers
from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.demo.run import POLICY
from learnalign.gradient import Costs, Gap, Group, Sketched
from learnalign.logs.importing import import_rollouts
from learnalign.policy import load_renderer
from learnalign.progress import Progress
from learnalign.rollout import BATCH_SEQUENCES
from learnalign.rollout.parts import part_name
from learnalign.runs import pipeline
from learnalign.runs.directory import create_run, open_run
from learnalign.runs.stages import sketch
from learnalign.schemas import ROLLOUTS, SKIPPED

STAGES = ("pool", "rollout", "reward", "sketch", "score", "select", "report", "import", "encode")
SYNTHETIC = ("rollout", "sketch")
RESPONSES = 2


def main() -> None:
    """Every stage of every size in a process of its own; the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--quick", action="store_true", help="500 and 2,000 rows")
    parser.add_argument("--dimension", type=int, default=1024)
    parser.add_argument("--part", type=int, default=BATCH_SEQUENCES["vllm"], help="responses in a file")
    parser.add_argument("--folder", help="where the runs go (default: a temporary folder)")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part < RESPONSES:
        parser.error(f"--part must be at least {RESPONSES}: the responses of a prompt stay together")
    if asked.stage:
        print(json.dumps(measured(asked.stage, Path(asked.folder), asked.rows[0], asked)))
        return
    sizes = sorted([500, 2000] if asked.quick else asked.rows)
    found: dict[str, list[dict[str, float]]] = {stage: [] for stage in STAGES}
    for rows in sizes:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            write_inputs(Path(folder), rows)
            for stage in STAGES:
                found[stage].append(child(stage, folder, rows, asked))
                print(f"{rows:>9,} {stage}: {found[stage][-1]}", file=sys.stderr, flush=True)
    print_table(sizes, found)
    finish(
        "pipeline",
        {
            "rows": sizes,
            "dimension": asked.dimension,
            "part": asked.part,
            "stages": found,
            "exponents": exponents(sizes, found),
        },
    )


def child(stage: str, folder: str, rows: int, asked: argparse.Namespace) -> dict[str, float]:
    """What `measured` says in a process that does nothing else."""
    command = [sys.executable, "-m", "bench.pipeline", "--stage", stage, "--folder", folder]
    command += ["--rows", str(rows), "--dimension", str(asked.dimension), "--part", str(asked.part)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(stage: str, folder: Path, rows: int, asked: argparse.Namespace) -> dict[str, float]:
    """Processor seconds, rows a second of them and MB of peak memory of one stage."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    config = config_of(folder, rows, asked.dimension)
    if stage not in ("import", "encode"):
        pipeline.load(stage)  # its imports are not the stage's time
    with Peak() as peak:
        started = time.process_time()
        if stage == "import":
            import_rollouts(folder / "imported", [folder / "log.jsonl"], config, Progress())
        elif stage == "encode":
            encode(config, rows)
        elif stage == "rollout":
            write_rollouts(folder / "run", rows, asked.part // RESPONSES)
        else:
            sketch.open_workers = lambda *_: nullcontext(LocalWorkers(RandomSketcher(asked.dimension)))  # type: ignore[assignment,attr-defined]
            pipeline.work(create_run(folder / "run", config), config, stage, Progress())
        seconds = time.process_time() - started
    counted = rows * RESPONSES if stage in ("reward", "import", "encode") else rows
    return {
        "cpu_seconds": round(seconds, 3),
        "rows_per_second": round(counted / seconds),
        "peak_mb": round(peak.grown / 1e6, 1),
    }


def config_of(folder: Path, rows: int, dimension: int) -> Config:
    """One run of a size: exact verdicts, int8 sketches, the best hundredth by score."""
    return Config(
        pool=PoolConfig(path=str(folder / "pool.jsonl")),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(responses=RESPONSES, max_new_tokens=16),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=dimension, dtype="int8"),
        select=SelectConfig(n=rows // 100),
    )


def problems(rows: int) -> Iterator[tuple[str, str, list[str]]]:
    """Id, problem and responses of every prompt; each response is right with the prompt's own probability."""
    draw = random.Random(rows)
    for row in range(rows):
        easy, said = draw.random(), []
        for _ in range(RESPONSES):
            number = 2 * row + (1 if draw.random() < easy else 2)
            said.append(f"\\boxed{{{number}}}.")
        yield f"p{row:07d}", f"{row} + {row + 1} = ?", said


def write_inputs(folder: Path, rows: int) -> None:
    """The pool, and the log that is imported: one response a line."""
    with open(folder / "pool.jsonl", "w") as pool, open(folder / "log.jsonl", "w") as log:
        for row, (prompt_id, problem, said) in enumerate(problems(rows)):
            pool.write(json.dumps({"id": prompt_id, "problem": problem, "answer": str(2 * row + 1)}) + "\n")
            for text in said:
                log.write(json.dumps({"prompt_id": prompt_id, "prompt": problem, "response": text}) + "\n")


def encode(config: Config, rows: int) -> None:
    """The texts of the log as token ids, a block at a time, and nothing else."""
    renderer, waiting = load_renderer(config.policy), problems(rows)
    while block := list(islice(waiting, 4096)):
        renderer.encode_all([(problem, None, None) for _, problem, _ in block])
        renderer.ids([text for _, _, said in block for text in said])


def write_rollouts(path: Path, rows: int, prompts: int) -> None:
    """In place of stage rollout: parts of made-up responses to so many prompts, with its record."""
    run = open_run(path)
    stage = pipeline.load("rollout")
    with run.locked():
        run.begin("rollout", stage.inputs(run), stage.PRODUCTS)
        (path / "rollouts").mkdir()
        waiting: list[tuple[Any, ...]] = []
        for row, (prompt_id, _, said) in enumerate(problems(rows), 1):
            for number, text in enumerate(said):
                tokens = [5 + (row + k) % 40 for k in range(12)]
                waiting.append((prompt_id, number, [7] * 8, tokens, None, len(tokens), text, "stop"))
            if row % prompts == 0 or row == rows:
                columns = zip(*waiting, strict=True)
                arrays = [pa.array(c, f.type) for c, f in zip(columns, ROLLOUTS, strict=True)]
                part = path / "rollouts" / part_name(0, (row - 1) // prompts)
                files.write_parquet(part, pa.table(arrays, schema=ROLLOUTS))
                waiting = []
        files.write_parquet(path / "rollouts" / "skipped.parquet", SKIPPED.empty_table())
        run.finish("rollout", rows * RESPONSES, 0.0, [], {"skipped": 0, "cut": 0.0})


class RandomSketcher:
    """In place of the sketches of gradients: random rows. See `learnalign.cluster.Opened`."""

    device, about = "none", {"threads": 1}

    def __init__(self, dimension: int) -> None:
        self._rows = np.random.default_rng(0).standard_normal((4096, dimension), np.float32)
        self._at = 0

    def costs(self) -> Costs:
        """Those of a small policy that shares no prompts."""
        return Costs(share=False)

    def facts(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def __call__(self, groups: list[Group], shared: dict[int, bool]) -> Sketched:
        """A row a group, and no log-probabilities."""
        rows = np.arange(self._at, self._at + len(groups)) % len(self._rows)
        self._at = int(rows[-1]) + 1
        return Sketched(self._rows[rows], [Gap()] * len(groups))


def exponents(sizes: list[int], found: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Of every stage, how processor time grows between the two largest sizes."""
    if len(sizes) < 2:
        return {}
    grown = math.log(sizes[-1] / sizes[-2])
    return {
        stage: round(math.log(runs[-1]["cpu_seconds"] / runs[-2]["cpu_seconds"]) / grown, 2)
        for stage, runs in found.items()
    }


def print_table(sizes: list[int], found: dict[str, list[dict[str, float]]]) -> None:
    """A line a stage: time, speed and memory of every size, and the exponent."""
    print(
        f"{'stage':<20}" + "".join(f"{f'{rows:,}: CPU s':>18}{'rows/s':>11}{'MB':>9}" for rows in sizes) + "   exponent"
    )
    grown = exponents(sizes, found)
    for stage, runs in found.items():
        name = f"{stage} (synthetic)" if stage in SYNTHETIC else stage
        cells = (f"{r['cpu_seconds']:>18.2f}{r['rows_per_second']:>11,.0f}{r['peak_mb']:>9,.1f}" for r in runs)
        print(f"{name:<20}" + "".join(cells) + f"{grown.get(stage, math.nan):>11.2f}")


if __name__ == "__main__":
    main()
