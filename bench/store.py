"""What does writing sketches cost: against the disk, against others, and the thread that makes them?

Floor: raw sequential writes of the same bytes, one fsync. Baselines: numpy.memmap + flush, safetensors, zarr and h5py
(where installed; otherwise named and skipped); none of them checksums blocks, all get rows that are encoded already.
Ours: `SketchWriter`, float32 rows in, encoding included, every block durable. Asserts that what is read back is what
was written. What the producing thread pays is the time of one `append` while the queue has room, as a share of a
sketch that takes 1 ms a row.

All ways take turns, in an order that moves by one and is reversed in every other turn, so that each comes as often
before as behind the others; what counts is the ratio of the medians. "floor again" is a second floor, measured like
the rest: its distance from 1 is the error of the method. The baselines take part in the first turns only. Before every
run the files of the last are deleted, as much memory is touched and freed as a run needs, and the disk is left to
settle (`sync`): a virtual machine gives free memory back to its host, and whoever writes into such pages first pays
several times for the copy; freed blocks are discarded at the next flush, which would be charged to whoever comes next.

    python -m bench.store [--quick] [--folder DIRECTORY]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.measure import finish
from learnalign.store import SketchReader, SketchWriter
from learnalign.store.writer import QUEUE_BYTES

DIMENSION = 8192
BLOCK = 128
COMPARED = ("floor", "floor again", "ours")
BASELINE_TURNS = 4


def main() -> None:
    """Write the same rows in every way, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="64 MB")
    parser.add_argument("--folder", help="on the disk to be measured (default: the temporary folder)")
    parser.add_argument("--repeats", type=int, default=15, help="turns of ours and the floors")
    parser.add_argument("--megabytes", type=int, default=512)
    asked = parser.parse_args()
    blocks = (64 if asked.quick else asked.megabytes) * 2**20 // (BLOCK * DIMENSION * 2)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        measure(Path(folder), blocks, asked.repeats)


def measure(folder: Path, blocks: int, repeats: int) -> None:
    """Every way of writing `blocks` blocks of float16 rows."""
    rng = np.random.default_rng(0)
    phi = rng.standard_normal((BLOCK, DIMENSION), dtype=np.float32)
    unit = (phi / np.linalg.norm(phi.astype(np.float64), axis=1, keepdims=True)).astype(np.float16)
    runs: dict[str, Callable[[], None]] = {
        "floor": partial(raw, folder / "raw", unit, blocks),
        "floor again": partial(raw, folder / "again", unit, blocks),
        "ours": partial(ours, folder / "ours", phi, blocks),
        "memmap": partial(memmap, folder / "memmap.npy", unit, blocks),
    }
    for name, write in (("safetensors", safetensors), ("zarr", zarr), ("h5py", h5py)):
        if importlib.util.find_spec(name) is None:
            print(f"  {name} is not installed: skipped")
        else:
            runs[name] = partial(write, folder / name, unit, blocks)
    size = blocks * unit.nbytes
    seconds = take_turns(folder, runs, repeats, size + QUEUE_BYTES)
    timed(folder, 0, runs["ours"], lambda: check(folder / "ours", unit, blocks))
    print(f"{size / 1e6:,.0f} MB of float16 in blocks of {unit.nbytes / 1e6:.1f} MB")
    floor = statistics.median(seconds["floor"])
    of_floor = {name: [floor / middle for middle in quartiles(own)] for name, own in seconds.items()}
    for name, (high, middle, low) in of_floor.items():
        speed = size / statistics.median(seconds[name]) / 1e6
        spread = f"({low:.2f} to {high:.2f}, {len(seconds[name])} runs)"
        print(f"  {name:<14}{speed:>8,.0f} MB/s{middle:>8.2f} x floor {spread}")
    encode = encoding_only(folder / "encode", phi)
    print(f"  one append takes {encode / (BLOCK * 1e-3):.1%} of a producer that needs 1 ms a sketch")
    finish(
        "store",
        {
            "megabytes": round(size / 1e6),
            "turns": repeats,
            **{f"{name}_of_floor": [round(ratio, 3) for ratio in ratios[::-1]] for name, ratios in of_floor.items()},
            "append_of_a_sketch_of_1_ms_a_row": round(encode / (BLOCK * 1e-3), 4),
        },
        "numpy",
        "safetensors",
        "zarr",
        "h5py",
    )


def take_turns(folder: Path, runs: dict[str, Callable[[], None]], repeats: int, memory: int) -> dict[str, list[float]]:
    """Seconds of every run of every way."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats):
        names = [name for name in runs if name in COMPARED or turn < BASELINE_TURNS]
        first = turn % len(names)
        for name in (names[first:] + names[:first])[:: -1 if turn % 2 else 1]:
            seconds[name].append(timed(folder, memory, runs[name]))
    return seconds


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The quartiles of two values or more; one value is all three."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return low, middle, high


def timed(folder: Path, memory: int, run: Callable[[], None], after: Callable[[], None] = lambda: None) -> float:
    """Seconds of a run in an empty folder on a disk at rest, beside `memory` bytes of pages in use before."""
    np.ones(memory, np.uint8)
    os.sync()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    after()
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return seconds


def check(directory: Path, unit: npt.NDArray[Any], blocks: int) -> None:
    """What is read is what was written."""
    reader = SketchReader(directory)
    assert reader.complete
    assert reader.rows == blocks * BLOCK
    assert reader.check() == []
    assert np.abs(reader.shards[0][-BLOCK:].astype(float) - unit.astype(float)).max() < 2**-11


def raw(path: Path, unit: npt.NDArray[Any], blocks: int) -> None:
    """The floor."""
    with open(path, "wb", buffering=0) as file:
        for _ in range(blocks):
            file.write(unit.data)
        os.fsync(file.fileno())


def ours(directory: Path, phi: npt.NDArray[np.float32], blocks: int) -> None:
    """The store."""
    rates = np.full(BLOCK, 0.5)
    with SketchWriter(directory, dimension=DIMENSION, identity={}) as writer:
        for block in range(blocks):
            writer.append([f"{block}/{row}" for row in range(BLOCK)], rates, phi)


def encoding_only(directory: Path, phi: npt.NDArray[np.float32]) -> float:
    """Seconds that one `append` takes from its thread while the queue has room."""
    seconds = []
    with SketchWriter(directory, dimension=DIMENSION, identity={}) as writer:
        for block in range(8):
            ids = [f"{block}/{row}" for row in range(BLOCK)]
            start = time.perf_counter()
            writer.append(ids, np.full(BLOCK, 0.5), phi)
            seconds.append(time.perf_counter() - start)
            writer.flush()
    return min(seconds)


def memmap(path: Path, unit: npt.NDArray[Any], blocks: int) -> None:
    """A .npy of known size, filled through its mapping."""
    out = np.lib.format.open_memmap(path, "w+", unit.dtype, (blocks * BLOCK, DIMENSION))
    for block in range(blocks):
        out[block * BLOCK : (block + 1) * BLOCK] = unit
    out.flush()


def safetensors(path: Path, unit: npt.NDArray[Any], blocks: int) -> None:
    """One file a block: a file is written whole or not at all."""
    save = importlib.import_module("safetensors.numpy").save_file
    path.mkdir(exist_ok=True)
    for block in range(blocks):
        save({"rows": unit}, path / f"{block}.safetensors")
    sync_all(path)


def zarr(path: Path, unit: npt.NDArray[Any], blocks: int) -> None:
    """One uncompressed chunk a block."""
    shape = (blocks * BLOCK, DIMENSION)
    create = importlib.import_module("zarr").create_array
    array = create(str(path), shape=shape, chunks=unit.shape, dtype="float16", compressors=None, overwrite=True)
    for block in range(blocks):
        array[block * BLOCK : (block + 1) * BLOCK] = unit
    sync_all(path)


def h5py(path: Path, unit: npt.NDArray[Any], blocks: int) -> None:
    """One chunked dataset."""
    with importlib.import_module("h5py").File(path, "w") as file:
        rows = file.create_dataset("rows", (blocks * BLOCK, DIMENSION), "f2", chunks=unit.shape)
        for block in range(blocks):
            rows[block * BLOCK : (block + 1) * BLOCK] = unit
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def sync_all(folder: Path) -> None:
    """Makes every file of a folder durable."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


if __name__ == "__main__":
    main()
