"""The k most similar rows of every row: S_ij = z_i . z_j with z_i = w_i phi_i / |phi_i| (w = V, or 1 for cosines).

An approximate search finds 4 k of them, in fewer dimensions and perhaps among near lists only; the
similarity of what was found is then computed from the stored rows, and the best k are kept. So a weight is never
approximate; a neighbor can be missing, and how many are is measured on a sample of the very rows.

    plan          which search: the most faithful that fits into the time and the memory
    vectors       what is compared: rows whole or folded, as float32 or bytes
    all_pairs     `int8`, and `flat` on a GPU: tiles of a torch matrix product
    largest       the k largest of a row of products
    faiss_cpu     `exact`, and `flat` on a CPU
    lists         `lists`: rows near each other, on a CPU
    faiss_gpu     `flat`, `ivf`, `cagra`: FAISS's GPU indexes, none of which has run yet
    probe         which of these a GPU can do, tried in another process
    ranking       similarities of what was found, and recall; on the host or on the GPU
    memory        what a search may take
    packages      FAISS and torch

The result is the same for equal rows, seed, machine and free memory; another BLAS may find other neighbors among
near-equal ones. This package does not choose prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign.errors import ArrayError
from learnalign.scoring.rows import Floats, Integers, Rows
from learnalign.selection.neighbors import all_pairs, faiss_cpu, faiss_gpu, lists, memory, packages, probe, ranking
from learnalign.selection.neighbors.all_pairs import Found
from learnalign.selection.neighbors.plan import ON_CPU, Machine, Plan, estimate, plan, spare
from learnalign.selection.neighbors.vectors import as_bytes, folded, stored_as_bytes

METHODS = ("auto", "exact", "flat", "lists", "ivf", "cagra", "int8")
"""What `nearest` can be asked for; all but `auto` are explained in `plan`."""
CPU_METHODS = ("exact", "lists")
"""Which run on a CPU wherever the rest of a run does."""
CPU_TILE = 1 << 28
"""Bytes of products at a time on a CPU, whose caches gain nothing from more."""
WANTED_RECALL = 0.95
"""Below it a note says what finding all would take."""


class Neighbors(NamedTuple):
    """The most similar rows of m rows, best first, the row itself left out."""

    positions: Integers
    """[m, k] places in `which`."""
    similarity: Floats
    """[m, k] S_ij from the stored rows; not rising along a row, of equals the lower place first."""
    facts: dict[str, Any]
    """For a manifest: the plan, k, and recall with the number of rows it was measured on."""
    notes: list[str]
    """Sentences that the user should read."""


def nearest(
    rows: Rows,
    which: Integers,
    weight: npt.NDArray[np.float64],
    k: int,
    *,
    seconds: float = 120.0,
    device: str = "auto",
    method: str = "auto",
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> Neighbors:
    """The k rows of `which` that are most similar to each row of `which`, by S_ij.

    Args:
        rows: the sketches, mapped or in memory.
        which: [m] distinct row numbers to search among; m >= 2.
        weight: [m] w_i >= 0: learnability, or ones for cosines.
        k: how many; at most m - 1 are returned.
        seconds: about what the search may take (see `plan`).
        device: `auto` (a GPU where torch sees one), `cpu`, `cuda` or `cuda:K`.
        method: one of `METHODS`.
        seed: of the signs, the lists and the sample.
        advance: is told how many rows are done.

    Raises:
        MissingPackageError: the method needs FAISS, and it is not installed.
        ArrayError: a row too long or too short for float32, fewer than two rows, k < 1, a GPU that is not there, or a
            method that does not work on the device.

    Memory: m rows at the dimension of the plan (820 MB for 200,000 folded ones, twice that in lists), however many
    rows are stored; on a GPU also the m rows as they are stored, where they fit into half of what it has.
    """
    if len(which) < 2 or k < 1:
        raise ArrayError(f"neighbors need at least 2 rows and k >= 1, found {len(which)} rows and k = {k}")
    if method not in METHODS:
        raise ArrayError(f"unknown search for neighbors {method!r}: expected one of {', '.join(METHODS)}")
    k = min(k, len(which) - 1)
    on = "cpu" if method in CPU_METHODS else gpu(device) or "cpu"
    pairs, machine = _machine(rows, which, weight, on)
    search = plan(len(which), rows.dimension, seconds, k, machine, method)
    fetch = min(spare(search) * k, len(which) - 1) + 1  # itself included
    index, similarity = np.empty((len(which), k), np.int64), np.empty((len(which), k), np.float32)
    for queries, found in _search(rows, which, weight, search, fetch, machine, seed):
        index[queries], similarity[queries] = ranking.ranked(pairs, queries, found, k)
        advance(len(queries))
    recall, sampled = ranking.measured_recall(pairs, similarity, seed)
    facts = {**asdict(search), "rows": len(which), "k": k, "recall": round(recall, 4), "recall_rows": sampled}
    notes = [note for note in (packages.clash(), machine.trouble) if note]
    if recall < WANTED_RECALL:
        whole = plan(len(which), rows.dimension, np.inf, k, machine)
        price = estimate(whole, len(which), rows.dimension, k)
        notes.append(
            f"the search for neighbors ({search.method}) found {recall:.2f} of the {k} nearest: give it more time with "
            f"select.neighbor_seconds; comparing every pair takes about {price:,.0f} s"
        )
    return Neighbors(index, similarity, facts, notes)


def gpu(device: str) -> str:
    """The torch device of a GPU to search on, with its number; empty for the CPU."""
    if device == "cpu":
        return ""
    import torch

    if not torch.cuda.is_available():
        if device != "auto":
            raise ArrayError(f"neighbors are to be searched on {device}, but torch sees no GPU: use cpu or auto")
        return ""
    number = torch.device("cuda" if device == "auto" else device).index
    return f"cuda:{torch.cuda.current_device() if number is None else number}"


def _machine(
    rows: Rows, which: Integers, weight: npt.NDArray[np.float64], device: str
) -> tuple[ranking.Pairs, Machine]:
    """What ranks, and what may search beside it."""
    room, stored = memory.room(device), stored_as_bytes(rows)
    if device == "cpu":
        methods = ON_CPU | ({"int8"} if multiplies_bytes() else set())
        return ranking.HostPairs(rows, which, weight), Machine("cpu", room, methods, stored)
    working, trouble = probe.working(device)
    trouble = f"not all searches work on {device}: {trouble}" if trouble else ""
    if ranking.dtype_of(rows) in ranking.NARROW and ranking.DevicePairs.bytes_of(rows, which) < room // 2:
        room -= ranking.DevicePairs.bytes_of(rows, which)
        pairs: ranking.Pairs = ranking.DevicePairs(rows, which, weight, device, room // 4)
    else:
        pairs = ranking.HostPairs(rows, which, weight)
    return pairs, Machine(device, 3 * room // 4, working, stored, trouble)


@cache
def multiplies_bytes() -> bool:
    """Whether the processor has instructions for products of bytes (VNNI); torch's are slow and inexact without."""
    return any(name in Path("/proc/cpuinfo").read_text() for name in ("avx512_vnni", "avx_vnni"))


def _search(
    rows: Rows, which: Integers, weight: npt.NDArray[np.float64], search: Plan, fetch: int, machine: Machine, seed: int
) -> Found:
    """The search of a plan. Vectors are handed over, not held here: a search may reorder them."""
    if search.method == "int8":
        z = as_bytes(rows, which, weight, search.dimension, seed, search.device)
        tile = min(machine.room // 4, CPU_TILE) if search.device == "cpu" else machine.room // 4
        return all_pairs.bytes_in_tiles(z, fetch, tile)

    def vectors() -> Floats:
        return folded(rows, which, weight, search.dimension, seed)

    if search.method == "lists":
        return lists.in_lists(vectors(), search.lists, search.probes, fetch, seed)
    if search.device == "cpu":
        return faiss_cpu.all_pairs(vectors(), fetch)
    if search.library == "torch":
        return all_pairs.tiled(all_pairs.on_device(vectors(), search.device), fetch)
    faiss, number = packages.faiss_module(), int(search.device.removeprefix("cuda:"))
    if search.method == "ivf":
        return faiss_gpu.ivf(faiss, vectors(), search.lists, search.probes, fetch, seed, number)
    if search.method == "cagra":
        return faiss_gpu.cagra(faiss, vectors(), fetch, number)
    if "flat on all GPUs" in machine.methods:
        return faiss_gpu.flat_on_all_gpus(faiss, vectors(), fetch)
    return faiss_gpu.flat(faiss, vectors(), fetch, machine.room, number)
