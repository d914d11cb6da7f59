"""FAISS on GPUs: every pair (`flat`), inverted lists (`ivf`), and a graph (`cagra`, where FAISS was built with cuVS).

FAISS compares float32 or float16, never int8: `knn_gpu` raises TypeError for int8 rows. Without cuVS it finds 2,048
neighbors of a row at most. Where there is no device `knn_gpu` aborts the process, so `probe` tries first in another.
No GPU index has run yet: these adapters are tested with CPU indexes in the place of the GPU's, and against the
signatures of the wheel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from learnalign.errors import ArrayError
from learnalign.scoring.rows import Floats, blocks
from learnalign.selection.neighbors.all_pairs import Found

MOST_WITHOUT_CUVS = 2048
PARTS = 8
"""In which queries are searched, so that progress is seen."""
SAMPLE_A_LIST = 64
ADDED = 1 << 16
"""Rows added to an index together."""


def has_gpu(faiss: Any) -> bool:
    """Whether this FAISS was built for GPUs; says nothing of a device."""
    return hasattr(faiss, "StandardGpuResources") and hasattr(faiss, "GpuIndexIVFFlat")


def has_cuvs(faiss: Any) -> bool:
    """Whether this FAISS was built with cuVS."""
    return hasattr(faiss, "GpuIndexCagra")


def check_fetch(faiss: Any, fetch: int) -> None:
    """Raises `ArrayError` for more neighbors than FAISS finds on a GPU."""
    if fetch > MOST_WITHOUT_CUVS and not has_cuvs(faiss):
        raise ArrayError(
            f"FAISS without cuVS finds at most {MOST_WITHOUT_CUVS:,} neighbors of a row on a GPU, and {fetch:,} are "
            "asked for (itself and spare ones among them): use select.neighbors=int8"
        )


def flat(faiss: Any, vectors: Floats, fetch: int, room: int, device: int) -> Found:
    """All pairs in float16 by `knn_gpu`, in tiles of rows and of queries that take `room` bytes of the device."""
    check_fetch(faiss, fetch)
    resources = faiss.StandardGpuResources()
    largest = float(np.abs(vectors).max(initial=0.0)) or 1.0
    half = (vectors / np.float32(largest)).astype(np.float16)  # small products leave float16
    for queries in blocks(np.arange(len(half)), -(-len(half) // PARTS)):
        _, found = faiss.knn_gpu(
            resources,
            half[queries],
            half,
            fetch,
            metric=faiss.METRIC_INNER_PRODUCT,
            device=device,
            vectorsMemoryLimit=room // 2,
            queriesMemoryLimit=room // 4,
        )
        yield queries, np.asarray(found, np.int64)


def ivf(faiss: Any, vectors: Floats, lists: int, probes: int, fetch: int, seed: int, device: int) -> Found:
    """Inverted lists on one GPU. A row whose lists hold too few looks into all."""
    check_fetch(faiss, fetch)
    index = _trained(faiss, vectors, lists, seed, device)
    _add(index, vectors)
    for queries in blocks(np.arange(len(vectors)), -(-len(vectors) // PARTS)):
        index.nprobe = probes
        found = np.asarray(index.search(vectors[queries], fetch)[1], np.int64)
        short = np.flatnonzero((found < 0).any(axis=1))
        if len(short):
            index.nprobe = lists
            found[short] = index.search(vectors[queries[short]], fetch)[1]
        yield queries, found


def _trained(faiss: Any, vectors: Floats, lists: int, seed: int, device: int) -> Any:
    """Inverted lists that hold nothing yet."""
    config = faiss.GpuIndexIVFFlatConfig()
    config.device = device
    resources = faiss.StandardGpuResources()
    index = faiss.GpuIndexIVFFlat(resources, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT, config)
    index.cp.spherical, index.cp.seed, index.cp.min_points_per_centroid = True, seed % 2**31, 1
    sample = np.sort(np.random.default_rng(seed).permutation(len(vectors))[: SAMPLE_A_LIST * lists])
    index.train(vectors[sample])
    return index


def cagra(faiss: Any, vectors: Floats, fetch: int, device: int) -> Found:
    """A graph, built and searched on one GPU.

    Searched, since the graph itself (`get_knngraph`) is pruned of detours and lacks near neighbors.

    Raises:
        ArrayError: the search found fewer than `fetch` of a row.
    """
    config = faiss.GpuIndexCagraConfig()
    config.device, config.graph_degree, config.intermediate_graph_degree = device, fetch, 2 * fetch
    resources = faiss.StandardGpuResources()
    index = faiss.GpuIndexCagra(resources, vectors.shape[1], faiss.METRIC_INNER_PRODUCT, config)
    index.train(vectors)  # builds the graph of these rows
    parameters = faiss.SearchParametersCagra()
    parameters.itopk_size = 1 << (2 * fetch - 1).bit_length()
    for queries in blocks(np.arange(len(vectors)), -(-len(vectors) // PARTS)):
        found = np.asarray(index.search(vectors[queries], fetch, params=parameters)[1], np.int64)
        if (found < 0).any() or (found >= len(vectors)).any():
            raise ArrayError(f"FAISS's cagra found fewer than {fetch:,} neighbors of a row: use select.neighbors=int8")
        yield queries, found


def flat_on_all_gpus(faiss: Any, vectors: Floats, fetch: int) -> Found:
    """All pairs in float16, with a copy of the rows on every GPU; the GPUs share the queries.

    Raises:
        ArrayError: FAISS made a replica that holds no rows, which it does silently where it finds no GPU.
    """
    check_fetch(faiss, fetch)
    options = faiss.GpuMultipleClonerOptions()
    options.shard, options.useFloat16 = False, True
    alone = faiss.IndexFlatIP(vectors.shape[1])
    _add(alone, vectors)
    index = faiss.index_cpu_to_all_gpus(alone, co=options)
    if index.ntotal != len(vectors):
        raise ArrayError(
            f"FAISS copied {index.ntotal:,} of {len(vectors):,} rows to its GPUs: it finds none; "
            "use select.neighbors=int8, or policy.device=cpu"
        )
    for queries in blocks(np.arange(len(vectors)), -(-len(vectors) // PARTS)):
        yield queries, np.asarray(index.search(vectors[queries], fetch)[1], np.int64)


def _add(index: Any, vectors: Floats) -> None:
    for start in range(0, len(vectors), ADDED):
        index.add(vectors[start : start + ADDED])
