"""How close does the scorer come to the speed of memory?

Floor: one plain pass (numpy.max over 64-bit words) over the same bytes with as many threads. Baseline: the two passes
in chunks of NumPy, float32 matrix products. Ours: `score_shards` on the memory-mapped file, page cache warm. Asserts
that ours and NumPy's scores agree, that one thread gives the bits of two, and measures the resident memory beyond the
mapping. The dots pass is the difference to a call that has one row to add.

    python -m bench.score [--quick] [--dtype int8|float16|float32] [--rows N]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.measure import best, finish, table
from learnalign.scoring import Scores, score_shards

DIMENSION = 4096
CHUNK = 4096


def main() -> None:
    """Make the rows, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    parser.add_argument("--dtype", default="int8", choices=["int8", "float16", "float32"])
    parser.add_argument("--rows", type=int, help="default: 1,000,000 of int8, 250,000 of float16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where the rows go (default: the temporary folder)")
    asked = parser.parse_args()
    full = {"int8": 1_000_000, "float16": 250_000, "float32": 125_000}[asked.dtype]
    rows = asked.rows or (20_000 if asked.quick else full)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        measure(stored_rows(Path(folder), rows, asked.dtype), asked.repeats)


def stored_rows(folder: Path, rows: int, dtype: str) -> npt.NDArray[Any]:
    """A mapped .npy of unit rows that lean to one side, as gradients do."""
    rng = np.random.default_rng(0)
    out = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.dtype(dtype), (rows, DIMENSION))
    common = 0.2 * rng.standard_normal(DIMENSION, dtype=np.float32)
    for start in range(0, rows, CHUNK):
        part = rng.standard_normal((min(CHUNK, rows - start), DIMENSION), dtype=np.float32) + common
        part *= (127 / np.abs(part).max(1) if dtype == "int8" else 1 / np.linalg.norm(part, axis=1))[:, None]
        out[start : start + len(part)] = np.rint(part) if dtype == "int8" else part
    out.flush()
    mapped: npt.NDArray[Any] = np.load(folder / "rows.npy", mmap_mode="r")
    return mapped


def numpy_scores(rows: npt.NDArray[Any], learnability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The two passes as one would write them."""
    total, norms = np.zeros(rows.shape[1]), np.empty(len(rows))
    for start in range(0, len(rows), CHUNK):
        part = np.asarray(rows[start : start + CHUNK], np.float32)
        norms[start : start + CHUNK] = np.sqrt(np.einsum("ij,ij->i", part, part))
        weights = learnability[start : start + CHUNK] / norms[start : start + CHUNK]
        total += weights.astype(np.float32) @ part
    mean = (total / len(rows)).astype(np.float32)
    dots = [np.asarray(rows[start : start + CHUNK], np.float32) @ mean for start in range(0, len(rows), CHUNK)]
    scores: npt.NDArray[np.float64] = learnability * np.concatenate(dots) / norms
    return scores


def resident_beyond_the_mapping() -> int:
    """Bytes of anonymous memory of this process."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024


def measure(rows: npt.NDArray[Any], repeats: int) -> None:
    """Run everything in turns and print the ratios."""
    threads = len(os.sched_getaffinity(0))
    learnability = np.random.default_rng(1).integers(1, 8, len(rows)) / 8
    learnability *= 1 - learnability
    one_row = np.zeros(len(rows))
    one_row[0] = 0.25
    words = rows.reshape(-1).view(np.int64)
    with ThreadPoolExecutor(threads) as pool:

        def one_pass(parts: int) -> None:
            list(pool.map(np.max, np.array_split(words, parts)))

        def ours(values: npt.NDArray[np.float64], count: int) -> Scores:
            return score_shards([rows], values, pool_size=len(rows), threads=count)

        one_pass(threads)
        expected = ours(learnability, threads)
        before = resident_beyond_the_mapping()
        ours(learnability, threads)
        # What a call frees again: the lengths of the rows, 16 bytes each, and the two results.
        grown = resident_beyond_the_mapping() - before + 32 * len(rows)
        seconds = best(
            repeats,
            floor=lambda: one_pass(threads),
            floor_one_thread=lambda: one_pass(1),
            both_passes=lambda: ours(learnability, threads),
            both_one_thread=lambda: ours(learnability, 1),
            norms_only=lambda: ours(np.zeros(len(rows)), threads),
            norms_and_dots=lambda: ours(one_row, threads),
        )
        seconds |= best(1, numpy_chunks=lambda: numpy_scores(rows, learnability))
    single = ours(learnability, 1)
    assert single.score.tobytes() == expected.score.tobytes(), "the bits depend on the threads"
    error = np.abs(numpy_scores(rows, learnability) - expected.score).max()
    assert error < 1e-5 * np.abs(expected.score).max(), f"NumPy's scores differ by {error}"
    print(f"{len(rows):,} x {rows.shape[1]:,} {rows.dtype}, {rows.nbytes / 1e9:.2f} GB, {threads} threads")
    table(seconds, "floor")
    dots = seconds["norms_and_dots"] - seconds["norms_only"]
    finish(
        "score",
        {
            "rows": len(rows),
            "dtype": str(rows.dtype),
            "dots_over_floor": round(dots / seconds["floor"], 2),
            "both_over_floor": round(seconds["both_passes"] / seconds["floor"], 2),
            "both_over_floor_one_thread": round(seconds["both_one_thread"] / seconds["floor_one_thread"], 2),
            "numpy_over_ours": round(seconds["numpy_chunks"] / seconds["both_passes"], 1),
            "resident_mb": round(grown / 1e6, 1),
        },
        "numpy",
    )


if __name__ == "__main__":
    main()
