"""The k most similar rows of every row: S_ij = z_i . z_j with z_i = w_i phi_i / |phi_i| (w = V, or 1 for cosines).

An approximate search finds twice as many as are asked for, in fewer dimensions and perhaps among near lists only; the
similarity of what was found is then computed from the stored rows, and the best k are kept. So a weight is never
approximate; a neighbor can be missing, and how many are is measured on a sample of the very rows. `plan` chooses
among three ways by the arithmetic they take:

    exact   every pair at the full dimension, in FAISS's blocked matrix products
    flat    every pair, folded to 1,024 numbers a row
    lists   rows near each other share a list (spherical k-means), and each looks into the nearest lists only. FAISS's
            k-means and matrix products list by list: the same search as its IVFFlat index, which scans one query at a
            time and reached a tenth of the speed at 1,024 dimensions.

On a GPU all pairs are cheap: tiles of a torch matrix product and top-k, without FAISS. Folding multiplies by random
signs and adds buckets up, a count-sketch: inner products stay unbiased, with noise of about 1/sqrt(1,024).
The result is the same for equal rows, seed and machine; another BLAS may find other neighbors among near-equal ones.
This module does not choose prompts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign import _core
from learnalign.errors import ArrayError, MissingPackageError
from learnalign.scoring.rows import Floats, Integers, Rows, blocks

FOLDED = 1024
"""Numbers a row that an approximate search compares."""
RATE = 1e11
"""Multiplications and additions a second that `plan` counts on: what two cores with AVX2 do at least. A constant,
since a measured speed would make the result depend on how busy the machine was."""
GPU_BYTES = 1 << 30
FEWEST_PROBES = 4
QUERIES = 2048
"""Rows searched together; bounds what a block holds."""
PAIR_RATE = 1e9
"""Numbers a second of stored rows that are multiplied to rank again what a search found; a constant as `RATE` is."""
SAMPLED = 256
"""Rows on which recall is measured."""
SMALLEST_NORM = 1e-30
"""Guards a division: a zero row stays zero."""
_searched_in = 0
"""The process in which FAISS was first used."""


@dataclass(frozen=True)
class Plan:
    """How neighbors are searched."""

    method: str
    """`exact`, `flat`, `lists` or `gpu`."""
    dimension: int
    """Numbers a row that are compared."""
    lists: int = 1
    probes: int = 1
    """Lists that a row looks into."""


class Neighbors(NamedTuple):
    """The most similar rows of m rows, best first, the row itself left out."""

    positions: Integers
    """[m, k] places in `which`."""
    similarity: Floats
    """[m, k] S_ij from the stored rows; not rising along a row, of equals the lower place first."""
    facts: dict[str, Any]
    """For a manifest: the plan, k, and recall with the number of rows it was measured on."""


def plan(rows: int, dimension: int, seconds: float, k: int = 0) -> Plan:
    """The most faithful search of all rows among all rows, for k neighbors, that takes about `seconds` on two cores.

    What it finds is ranked again at the full dimension: k of each row, or 2 k where the search is approximate. That
    goes off the time first; where nothing is left, the search is as short as it gets.
    """

    def affordable(ranked: int) -> float:
        """Dimensions, over all pairs, in the time that ranking leaves."""
        left = max(seconds - rows * ranked * dimension / PAIR_RATE, 0.0)
        return left * RATE / (2.0 * rows * max(rows, 1))

    if dimension <= affordable(k):
        return Plan("exact", dimension)
    folded, left = min(dimension, FOLDED), affordable(2 * k)
    if folded <= left:
        return Plan("flat", folded)
    lists = max(int(np.sqrt(rows)), 1)
    # An iteration of k-means and finding every row's list cost as much as probing one list each, about.
    return Plan("lists", folded, lists, min(max(int(lists * left / folded), FEWEST_PROBES), lists))


def nearest(
    rows: Rows,
    which: Integers,
    weight: npt.NDArray[np.float64],
    k: int,
    *,
    seconds: float = 120.0,
    device: str = "auto",
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
        seed: of the signs, the lists and the sample.
        advance: is told how many rows are done.

    Raises:
        MissingPackageError: no GPU, and FAISS is not installed.
        ArrayError: a row too long or too short for float32, fewer than two rows, k < 1, or a GPU that is not there.

    Memory: m rows of float32 at the dimension of the plan (820 MB for 200,000), however many rows are stored.
    The GPU takes half as much, in float16.
    """
    if len(which) < 2 or k < 1:
        raise ArrayError(f"neighbors need at least 2 rows and k >= 1, found {len(which)} rows and k = {k}")
    k = min(k, len(which) - 1)
    on_gpu = _gpu(device)
    search = _gpu_plan(len(which), rows.dimension) if on_gpu else plan(len(which), rows.dimension, seconds, k)
    folded = _folded(rows, which, weight, search.dimension, seed)
    spare = 1 if search.method == "exact" else 2  # what was approximated is ranked again
    fetch = min(spare * k, len(which) - 1) + 1  # itself included
    if on_gpu:
        found = tiled(on_device(folded, on_gpu), fetch)
    elif search.method == "lists":
        found = _in_lists(folded, search, fetch, seed)
    else:
        found = _all_pairs(folded, fetch)
    index, similarity = np.empty((len(which), k), np.int64), np.empty((len(which), k), np.float32)
    pairs = _core.Pairs(rows.shards, np.ascontiguousarray(which, np.int64), np.ascontiguousarray(weight, np.float64), 0)
    for queries, neighbors in found:
        exact = pairs.similarities(queries, np.ascontiguousarray(neighbors), 0)
        exact[neighbors == queries[:, None]] = -np.inf
        order = np.lexsort((neighbors, -exact), axis=1)[:, :k]
        index[queries] = np.take_along_axis(neighbors, order, 1)
        similarity[queries] = np.take_along_axis(exact, order, 1)
        advance(len(queries))
    recall, sampled = measured_recall(rows, which, weight, similarity, seed)
    facts = {**asdict(search), "rows": len(which), "k": k, "recall": round(recall, 4), "recall_rows": sampled}
    return Neighbors(index, similarity, facts)


def measured_recall(
    rows: Rows, which: Integers, weight: npt.NDArray[np.float64], similarity: Floats, seed: int
) -> tuple[float, int]:
    """The share of the k truly nearest rows that were found, on a sample, and the size of the sample.

    A found row counts when it is as similar as the k-th of an exact search, so that equals cannot be wrong.
    """
    k = similarity.shape[1]
    sample = np.sort(np.random.default_rng(seed).permutation(len(which))[:SAMPLED])
    queries = rows.unit(which[sample]) * weight[sample, None].astype(np.float32)
    best = np.full((len(sample), k), -np.inf, np.float32)
    for part in blocks(np.arange(len(which)), QUERIES):
        products = queries @ (rows.unit(which[part]) * weight[part, None].astype(np.float32)).T
        products[sample[:, None] == part] = -np.inf
        both = np.concatenate([best, products], axis=1)
        best = -np.partition(-both, k - 1, axis=1)[:, :k]
    kth = best.min(axis=1, keepdims=True)
    tolerance = 1e-5 * np.abs(best).max(initial=0.0)  # two orders of summation
    return float(np.mean(similarity[sample] >= kth - tolerance)), len(sample)


def on_device(vectors: Floats, device: str, tile: int = 8192) -> Any:
    """The vectors as a torch tensor on the device: float16 of a common scale on a GPU, float32 elsewhere."""
    import torch

    half = torch.device(device).type == "cuda"
    scale = float(max(vectors.max(initial=0.0), -vectors.min(initial=0.0))) or 1.0  # small products leave float16
    base = torch.empty(vectors.shape, dtype=torch.float16 if half else torch.float32, device=device)
    for start in range(0, len(vectors), tile):
        base[start : start + tile] = torch.from_numpy(vectors[start : start + tile]).to(device) / scale
    return base


def tiled(base: Any, fetch: int, tile: int = 8192) -> Iterator[tuple[Integers, Integers]]:
    """All pairs in tiles of a torch matrix product, the best `fetch` of every row kept: (rows, [rows, fetch]).

    base: what `on_device` gives. Products of float16 are summed in float32.
    """
    import torch

    for start in range(0, len(base), tile):
        queries = base[start : start + tile]
        best = torch.empty((len(queries), 0), dtype=base.dtype, device=base.device)
        at = torch.empty((len(queries), 0), dtype=torch.int64, device=base.device)
        for other in range(0, len(base), tile):
            products = queries @ base[other : other + tile].T
            top = products.topk(min(fetch, products.shape[1]), dim=1)
            best, at = torch.cat([best, top.values], 1), torch.cat([at, top.indices + other], 1)
            kept = best.topk(min(fetch, best.shape[1]), dim=1)
            best, at = kept.values, at.gather(1, kept.indices)
        yield np.arange(start, start + len(queries)), at.cpu().numpy()


def _all_pairs(folded: Floats, fetch: int) -> Iterator[tuple[Integers, Integers]]:
    faiss = _faiss()
    for queries in blocks(np.arange(len(folded)), QUERIES):
        yield queries, _knn(faiss, folded[queries], folded, fetch)


def _in_lists(folded: Floats, search: Plan, fetch: int, seed: int) -> Iterator[tuple[Integers, Integers]]:
    """List by list: its rows against the rows of the lists nearest to it, more of them where those are few."""
    faiss = _faiss()
    trainer = faiss.Kmeans(
        search.dimension, search.lists, niter=8, spherical=True, seed=seed % 2**31, min_points_per_centroid=1
    )
    sample = np.sort(np.random.default_rng(seed).permutation(len(folded))[: 64 * search.lists])
    trained = folded[sample]
    trained /= np.maximum(np.linalg.norm(trained, axis=1), SMALLEST_NORM)[:, None]
    trainer.train(trained)
    centers = trainer.centroids
    home = _knn(faiss, folded, centers, 1)[:, 0]
    members = np.split(np.argsort(home, kind="stable"), np.cumsum(np.bincount(home, minlength=search.lists))[:-1])
    sizes = np.array([len(rows) for rows in members])
    for number, own in enumerate(members):
        if not len(own):
            continue
        near = np.argsort(-(centers @ centers[number]), kind="stable")
        enough = int(np.searchsorted(np.cumsum(sizes[near]), fetch)) + 1
        probed = np.sort(np.concatenate([members[other] for other in near[: max(search.probes, enough)]]))
        base = folded[probed]
        for queries in blocks(own, QUERIES):
            yield queries, probed[_knn(faiss, folded[queries], base, fetch)]


def _knn(faiss: Any, queries: Floats, base: Floats, k: int) -> Integers:
    index: Integers = faiss.knn(queries, base, k, metric=faiss.METRIC_INNER_PRODUCT)[1].astype(np.int64)
    return index


def _folded(rows: Rows, which: Integers, weight: npt.NDArray[np.float64], dimension: int, seed: int) -> Floats:
    """[m, dimension] float32 sketches of z."""
    out = np.empty((len(which), dimension), np.float32)
    whole = rows.dimension == dimension
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), rows.dimension)
    missing = -rows.dimension % dimension
    for part in blocks(np.arange(len(which)), QUERIES):
        block = rows.unit(which[part])
        block *= weight[part, None].astype(np.float32)
        if not whole:
            padded = np.pad(block * signs, ((0, 0), (0, missing)))
            block = padded.reshape(len(part), -1, dimension).sum(axis=1)
        out[part] = block
    return out


def _gpu_plan(rows: int, dimension: int) -> Plan:
    """All pairs at the full dimension, folded only where that many rows would not fit into `GPU_BYTES` of float32."""
    return Plan("gpu", dimension if 4 * rows * dimension <= GPU_BYTES else min(dimension, FOLDED))


def _gpu(device: str) -> str:
    """The torch device of a GPU to search on; empty for the CPU."""
    if device == "cpu":
        return ""
    import torch

    there = torch.cuda.is_available()
    if not there and device != "auto":
        raise ArrayError(f"neighbors are to be searched on {device}, but torch sees no GPU: use cpu or auto")
    return ("cuda" if device == "auto" else device) if there else ""


def _faiss() -> Any:
    """FAISS. A fork of a process that has searched with it gets it on one thread.

    Its threads are OpenMP's, which a child of `fork` does not have and would wait for without end.
    """
    global _searched_in
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError(
            "the search for neighbors on a CPU", "faiss", error, "the strategy top works without it"
        ) from error
    _searched_in = _searched_in or os.getpid()
    if _searched_in != os.getpid():
        faiss.omp_set_num_threads(1)
    return faiss
