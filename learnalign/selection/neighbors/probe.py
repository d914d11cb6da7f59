"""Which searches a GPU can do: each tried on a few rows, in a process of its own.

`faiss.knn_gpu` ends the process by an abort where FAISS finds no device it has code for, although torch may find one.
A method that is not known to work is not used. Run as a program it tries and prints a line for each that worked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from learnalign.errors import MissingPackageError
from learnalign.scoring.rows import Floats, Integers
from learnalign.selection.neighbors import all_pairs, faiss_gpu, packages
from learnalign.selection.neighbors.vectors import Bytes

SECONDS = 180.0
"""Until a trial counts as failed; FAISS compiles code for a new kind of GPU at its first search."""
ROWS, DIMENSION, FETCH = 512, 64, 4
WORKS = "works:"


@cache
def working(device: str) -> tuple[frozenset[str], str]:
    """The methods that work on a torch device such as `cuda:0`, and why the trial ended early, if it did."""
    return tried([sys.executable, "-P", "-m", "learnalign.selection.neighbors.probe", device])


def tried(command: list[str]) -> tuple[frozenset[str], str]:
    """What a trial printed before it ended or was ended."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as late:
        return _named(late.stdout), f"took more than {SECONDS:.0f} s"
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    return _named(
        run.stdout
    ), "" if run.returncode == 0 else f"exit code {run.returncode}: {lines[-1] if lines else ''}"


def _named(output: str | bytes | None) -> frozenset[str]:
    text = output.decode() if isinstance(output, bytes) else output or ""
    return frozenset(line.removeprefix(WORKS).strip() for line in text.splitlines() if line.startswith(WORKS))


def trials(faiss: Any, device: str) -> Iterator[tuple[str, Callable[[], Iterator[tuple[Integers, Integers]]]]]:
    """Methods and searches of the trial's rows, those that can abort last. faiss: None where it is not for GPUs."""
    import torch

    rows, number = trial_rows(), torch.device(device).index or 0
    whole = torch.from_numpy(np.rint(rows * 127).astype(np.int8)).to(device)
    scale = torch.full((ROWS,), 1 / 127, device=device)
    yield "int8", lambda: all_pairs.bytes_in_tiles(Bytes(whole, scale), FETCH, 1 << 26)
    yield "tiles", lambda: all_pairs.tiled(all_pairs.on_device(rows, device), FETCH)
    if faiss is None:
        return
    yield "flat", lambda: faiss_gpu.flat(faiss, rows, FETCH, 1 << 26, number)
    yield "ivf", lambda: faiss_gpu.ivf(faiss, rows, 4, 4, FETCH, 0, number)
    if faiss.get_num_gpus() > 1:
        yield "flat on all GPUs", lambda: faiss_gpu.flat_on_all_gpus(faiss, rows, FETCH)
    if faiss_gpu.has_cuvs(faiss):
        yield "cagra", lambda: faiss_gpu.cagra(faiss, rows, FETCH, number)


def trial_rows() -> Floats:
    """Rows whose nearest is themselves by far, and that bytes hold exactly."""
    return np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (ROWS, DIMENSION))


def finds_itself(found: Iterator[tuple[Integers, Integers]]) -> bool:
    """Whether every row's nearest is the row itself."""
    return all((best[:, 0] == queries).all() for queries, best in found)


def main() -> None:
    """Try, print."""
    try:
        faiss = packages.faiss_module()
    except MissingPackageError:
        faiss = None
    faiss = faiss if faiss_gpu.has_gpu(faiss) else None
    for method, search in trials(faiss, sys.argv[1]):
        try:
            worked = finds_itself(search())
        except Exception as error:  # a method that fails is not used, and the others are tried
            print(f"{method}: {error}", file=sys.stderr, flush=True)
        else:
            print(f"{WORKS} {method}" if worked else f"{method}: wrong rows", flush=True)


if __name__ == "__main__":
    main()
