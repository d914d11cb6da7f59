"""Small stores for the tests: how they are made, changed and looked at."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from learnalign import _core
from learnalign.errors import StoreError
from learnalign.store import Damage, SketchReader, SketchWriter, repair

PROGRAM = Path(__file__).with_name("store_writer_program.py")
IDENTITY = {"seed": 7, "policy": "0123abcd"}
PATHS = ["portable", "avx2", "avx512"]
SIMD = PATHS[: PATHS.index(_core.simd()) + 1]
"""The paths that this machine has."""

Batch = tuple[list[str], np.ndarray, np.ndarray]


def batch_of(number: int, rows: int = 3, dimension: int = 37) -> Batch:
    rng = np.random.default_rng(number)
    ids = [f"prompt {number}/{row} é" for row in range(rows)]
    return ids, rng.integers(0, 9, rows) / 8, rng.standard_normal((rows, dimension), dtype=np.float32)


def write(directory: Path, batches: Iterable[Batch], dtype: str = "float16", dimension: int = 37) -> Path:
    """Writes the batches that are not there yet."""
    with SketchWriter(directory, dimension=dimension, dtype=dtype, identity=IDENTITY) as writer:
        for ids, rates, phi in batches:
            if not writer.done.issuperset(ids):
                writer.append(ids, rates, phi)
    return directory


def small_unfinished(directory: Path, blocks: int) -> Path:
    writer = SketchWriter(directory, dimension=5, dtype="float32", identity=IDENTITY)
    for number in range(blocks):
        writer.append(*batch_of(number, 2, 5))
    writer._core.stop()
    return directory


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def unit(phi: np.ndarray) -> np.ndarray:
    wide = phi.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def repaired(directory: Path) -> list[Damage]:
    """Sets damaged rows aside; returns what was found."""
    found = SketchReader(directory).check()
    repair(directory, found)
    return found


def problems(directory: Path) -> list[str]:
    """What opening and checking the store finds wrong."""
    try:
        return [str(damage) for damage in SketchReader(directory).check()]
    except StoreError as error:
        return [str(error)]


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def run_program(directory: Path, dtype: str, shard: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(directory), dtype, str(shard)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process
