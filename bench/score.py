"""How close does the scorer come to the speed of memory, and what do int8 sketches cost the picks?

Floor: one plain pass (numpy.max over 64-bit words) over the same bytes with as many threads, page cache warm.
Baselines: the same two passes in chunks of NumPy and of torch, float32 matrix products, every core. Ours:
`score_shards` on the memory-mapped file. What is compared runs in turns, each at its best; the baselines run once.
Asserts that the scores of all three agree and that one thread gives the bits of all. The dots pass is the difference to
a call that has one row to add; the resident memory is the peak of anonymous memory during a first call. The rows are
one block of 4,096 random rows that lean to one side, as gradients do, repeated in other orders and signs.

    python -m bench.score [--quick] [--dtype int8|float16|float32] [--rows N] [--folder DIRECTORY]

`--real` instead compares the picks: the policy of the demo sketches `PROMPTS` problems into a float32 store, whose rows
go into an int8 and a float16 store as well, and all three are scored.

    python -m bench.score --real RUN

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.measure import Peak, best, finish, kernel_bytes, table
from learnalign.config import SketchConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import demo_config
from learnalign.progress import Progress
from learnalign.runs import pipeline
from learnalign.runs.directory import create_run
from learnalign.scoring import Scores, score_shards
from learnalign.selection import top
from learnalign.store import SketchReader, SketchWriter

FULL_ROWS = {"int8": 1_000_000, "float16": 250_000, "float32": 125_000}
DIMENSION = 4096
CHUNK = 4096
PROMPTS = 3000
"""Problems of which the demo's policy solves some of the time about half."""


def main() -> None:
    """Make the rows, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    parser.add_argument("--dtype", default="int8", choices=list(FULL_ROWS))
    parser.add_argument("--rows", type=int, help="default: 1,000,000 of int8, 250,000 of float16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where the rows go (default: the temporary folder)")
    parser.add_argument("--real", type=Path, metavar="RUN", help="compare formats on real sketches, kept in RUN")
    asked = parser.parse_args()
    if asked.real is not None:
        compare_formats(asked.real)
        return
    rows = asked.rows or (20_000 if asked.quick else FULL_ROWS[asked.dtype])
    wanted, there = rows * DIMENSION * np.dtype(asked.dtype).itemsize, kernel_bytes("MemAvailable", "/proc/meminfo")
    if wanted > 0.9 * there:
        sys.exit(f"{wanted / 1e9:.1f} GB of rows do not stay in {there / 1e9:.1f} GB of memory: name fewer --rows")
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        measure(stored_rows(Path(folder), rows, asked.dtype), asked.repeats)


def stored_rows(folder: Path, rows: int, dtype: str) -> npt.NDArray[Any]:
    """A mapped .npy of rows that lean to one side."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((CHUNK, DIMENSION), np.float32) + 0.2 * rng.standard_normal(DIMENSION, np.float32)
    block *= (127 / np.abs(block).max(1) if dtype == "int8" else 1 / np.linalg.norm(block, axis=1))[:, None]
    stored = (np.rint(block) if dtype == "int8" else block).astype(dtype)
    out = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.dtype(dtype), (rows, DIMENSION))
    for start in range(0, rows, CHUNK):
        part = np.roll(stored, start // CHUNK, axis=0)
        turned = rng.random(CHUNK) < 0.2
        part[turned] = -part[turned]
        out[start : start + CHUNK] = part[: rows - start]
    out.flush()
    mapped: npt.NDArray[Any] = np.load(folder / "rows.npy", mmap_mode="c")  # torch warns of "r"
    return mapped


def chunks(rows: npt.NDArray[Any]) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """The rows, some at a time, and where they stand."""
    for start in range(0, len(rows), CHUNK):
        yield slice(start, start + CHUNK), rows[start : start + CHUNK]


def numpy_scores(rows: npt.NDArray[Any], learnability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The two passes as one would write them."""
    total, norms, dots = np.zeros(rows.shape[1]), np.empty(len(rows)), np.empty(len(rows))
    for at, chunk in chunks(rows):
        part = np.asarray(chunk, np.float32)
        norms[at] = np.sqrt(np.einsum("ij,ij->i", part, part))
        total += (learnability[at] / norms[at]).astype(np.float32) @ part
    mean = (total / len(rows)).astype(np.float32)
    for at, chunk in chunks(rows):
        dots[at] = np.asarray(chunk, np.float32) @ mean
    return learnability * dots / norms


def torch_scores(rows: npt.NDArray[Any], learnability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The same in torch."""
    values = torch.from_numpy(learnability)
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    norms, dots = torch.empty(len(rows)), torch.empty(len(rows))
    for at, chunk in chunks(rows):
        part = torch.from_numpy(chunk).float()
        norms[at] = torch.linalg.vector_norm(part, dim=1)
        total += (values[at] / norms[at]).float() @ part
    mean = (total / len(rows)).float()
    for at, chunk in chunks(rows):
        dots[at] = torch.from_numpy(chunk).float() @ mean
    scores: npt.NDArray[np.float64] = (values * dots / norms).numpy()
    return scores


def measure(rows: npt.NDArray[Any], repeats: int) -> None:
    """Run everything in turns and print the ratios."""
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    learnability = np.random.default_rng(1).integers(1, 8, len(rows)) / 8
    learnability *= 1 - learnability
    nothing, one_row = np.zeros(len(rows)), np.zeros(len(rows))
    one_row[0] = 0.25
    total = np.ones(rows.shape[1])
    words = rows.reshape(-1).view(np.int64)

    def ours(values: npt.NDArray[np.float64], count: int, **known: Any) -> Scores:
        return score_shards([rows], values, pool_size=len(rows), threads=count, **known)

    with ThreadPoolExecutor(threads) as pool:

        def one_pass(parts: int) -> None:
            list(pool.map(np.max, np.array_split(words, parts)))

        one_pass(threads)
        with Peak(every=0.001) as peak:
            ours(learnability, threads)
        seconds = best(
            repeats,
            floor=lambda: one_pass(threads),
            floor_one_thread=lambda: one_pass(1),
            both_passes=lambda: ours(learnability, threads),
            both_one_thread=lambda: ours(learnability, 1),
            norms_only=lambda: ours(nothing, threads),
            norms_and_dots=lambda: ours(one_row, threads),
            sum_known=lambda: ours(learnability, threads, total=total),
        )
    expected = ours(learnability, threads)
    assert ours(learnability, 1).score.tobytes() == expected.score.tobytes(), "the bits depend on the threads"
    for name, baseline in (("numpy", numpy_scores), ("torch", torch_scores)):
        start = time.perf_counter()
        found = baseline(rows, learnability)
        seconds[name] = time.perf_counter() - start
        error = np.abs(found - expected.score).max()
        assert error < 1e-5 * np.abs(expected.score).max(), f"the scores of {name} differ by {error}"
    print(f"{len(rows):,} x {rows.shape[1]:,} {rows.dtype}, {rows.nbytes / 1e9:.2f} GB, {threads} threads")
    table(seconds, "floor")
    dots = seconds["norms_and_dots"] - seconds["norms_only"]
    finish(
        "score",
        {
            "rows": len(rows),
            "dtype": str(rows.dtype),
            "floor_gb_per_second": round(rows.nbytes / 1e9 / seconds["floor"], 1),
            "dots_over_floor": round(dots / seconds["floor"], 2),
            "both_over_floor": round(seconds["both_passes"] / seconds["floor"], 2),
            "both_over_floor_one_thread": round(seconds["both_one_thread"] / seconds["floor_one_thread"], 2),
            "sum_known_over_floor": round(seconds["sum_known"] / seconds["floor"], 2),
            "numpy_over_ours": round(seconds["numpy"] / seconds["both_passes"], 1),
            "torch_over_ours": round(seconds["torch"] / seconds["both_passes"], 1),
            "resident_mb": round(peak.grown / 1e6, 1),
        },
        "numpy",
        "torch",
    )


def compare_formats(folder: Path) -> None:
    """Scores and picks of real sketches stored as int8 and as float16, against those stored as float32."""
    exact = SketchReader(real_sketches(folder))
    learnability = exact.success_rate * (1 - exact.success_rate)
    n = round(exact.rows / 10)
    wanted = score_shards(exact.shards, learnability, pool_size=exact.rows)
    found: dict[str, float] = {}
    for dtype in ("int8", "float16"):
        rounded = stored_again(exact, folder / dtype, dtype)
        ours = score_shards(rounded.shards, learnability, pool_size=exact.rows, scale=rounded.scale)
        common = np.intersect1d(top(wanted.score, learnability, n), top(ours.score, learnability, n))
        found |= {
            f"{dtype}_overlap": round(len(common) / n, 4),
            f"{dtype}_spearman": spearman(wanted.score, ours.score),
            f"{dtype}_spearman_of_alignments": spearman(wanted.alignment, ours.alignment),
        }
    print(f"{exact.rows:,} real sketches of {exact.dimension:,} numbers, the best {n} of each format")
    for name, value in found.items():
        print(f"  {name:<36}{value:>12.7f}")
    finish("score --real", {"rows": exact.rows, "n": n, **found}, "numpy", "torch")


def real_sketches(folder: Path) -> Path:
    """The float32 store of the demo's policy on `PROMPTS` generated problems; made once."""
    folder.mkdir(parents=True, exist_ok=True)
    write_pool(folder / "run-pool.jsonl", PROMPTS)
    config = replace(demo_config(folder / "run"), sketch=SketchConfig(dtype="float32"))
    pipeline.work(create_run(folder / "run", config), config, "sketch", Progress())
    return folder / "run" / "sketches"


def stored_again(exact: SketchReader, folder: Path, dtype: str) -> SketchReader:
    """The same rows through the store's own encoder; a row's length does not matter to it."""
    with SketchWriter(folder, dimension=exact.dimension, dtype=dtype, identity=exact.identity) as writer:
        todo = [row for row, prompt_id in enumerate(exact.prompt_ids) if prompt_id not in writer.done]
        if todo:
            ids = [exact.prompt_ids[row] for row in todo]
            writer.append(ids, exact.success_rate[todo], np.concatenate(exact.shards)[todo])
    return SketchReader(folder)


def spearman(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Correlation of ranks; there are no ties."""
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


if __name__ == "__main__":
    main()
