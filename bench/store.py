"""What does writing sketches cost: against the disk, against others, and the thread that makes them?

Floor: raw sequential writes of the same bytes, one fsync. Baselines: numpy.memmap + flush, safetensors, zarr and h5py
(where installed; otherwise named and skipped); none of them checksums blocks, all get rows that are encoded already.
Ours: `SketchWriter`, float32 rows in, encoding included, every block durable. Asserts that what is read back is what
was written. What the producing thread pays is the time of one `append` while the queue has room, as a share of a
sketch that takes 1 ms a row.

A disk's speed varies from minute to minute, so every way is run once a turn, and what counts is the median over the
turns of the ratio to the floor of the same turn. Between two runs the files of the first are deleted and the disk is
left to settle (`sync`, not timed): freed blocks are discarded at the next flush, which would be charged to whoever
comes next.

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

DIMENSION = 8192
BLOCK = 128


def main() -> None:
    """Write the same rows in every way, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="64 MB")
    parser.add_argument("--folder", help="on the disk to be measured (default: the temporary folder)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1024)
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
        "floor": lambda: raw(folder / "raw", unit, blocks),
        "ours": lambda: ours(folder / "ours", phi, blocks),
        "memmap": lambda: memmap(folder / "memmap.npy", unit, blocks),
    }
    for name, write in (("safetensors", safetensors), ("zarr", zarr), ("h5py", h5py)):
        if importlib.util.find_spec(name) is None:
            print(f"  {name} is not installed: skipped")
        else:
            runs[name] = partial(write, folder / name, unit, blocks)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(timed(folder, run))
    timed(folder, runs["ours"], lambda: check(folder / "ours", unit, blocks))
    size = blocks * unit.nbytes
    print(f"{size / 1e6:,.0f} MB of float16 in blocks of {unit.nbytes / 1e6:.1f} MB, {repeats} turns")
    of_floor = {}
    for name, times in seconds.items():
        ratios = [floor / own for floor, own in zip(seconds["floor"], times, strict=True)]
        of_floor[name] = statistics.median(ratios)
        print(
            f"  {name:<14}{size / statistics.median(times) / 1e6:>8,.0f} MB/s"
            f"{of_floor[name]:>8.2f} x floor ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    encode = encoding_only(folder / "encode", phi)
    print(f"  one append takes {encode / (BLOCK * 1e-3):.1%} of a producer that needs 1 ms a sketch")
    finish(
        "store",
        {
            "megabytes": round(size / 1e6),
            "turns": repeats,
            **{f"{name}_of_floor": round(ratio, 2) for name, ratio in of_floor.items() if name != "floor"},
            "append_of_a_sketch_of_1_ms_a_row": round(encode / (BLOCK * 1e-3), 4),
        },
        "numpy",
        "safetensors",
        "zarr",
        "h5py",
    )


def timed(folder: Path, run: Callable[[], None], after: Callable[[], None] = lambda: None) -> float:
    """Seconds of a run in an empty folder on a disk at rest."""
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
