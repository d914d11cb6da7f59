"""Searches for neighbors side by side: what `bench.select --searches` prints."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.measure import Peak, finish
from learnalign.scoring.rows import Rows
from learnalign.selection.neighbors import nearest, packages, ranking
from learnalign.selection.neighbors.plan import FEWEST_PROBES, FOLDED, SPARE
from learnalign.selection.neighbors.vectors import folded

K = 32
FETCH = SPARE * K + 1
SEARCHES = ("auto", "exact", "int8", "flat", "lists", "ivfflat", "hnsw")
"""Ours, then FAISS's indexes on a CPU."""
SHARE = 0.05
"""Of its lists IVFFlat looks into."""
GRAPH_DEGREE, BREADTH = 32, 128
"""Of HNSW: neighbors a node, and candidates kept while building and searching."""
QUERIES = 2048
Doubles = npt.NDArray[np.float64]


def compare_searches(
    rows: npt.NDArray[np.int8], success_rate: Doubles, candidates: int, seconds: float, names: list[str]
) -> None:
    """One row a search."""
    learnability = success_rate * (1 - success_rate)
    which = np.flatnonzero(learnability > 0)[:candidates]
    weight, stored = learnability[which], Rows([rows])
    stored.gather(which)  # warms the page cache
    print(f"{len(which):,} candidates of {rows.shape[1]:,} int8, k = {K}, {seconds:.0f} s planned")
    print(f"  {'search':<10}{'wall s':>9}{'processor s':>13}{'GB':>7}{'recall':>8}  how")
    found = {}
    for name in names:
        if name in ("ivfflat", "hnsw"):
            found[name] = measured(partial(faiss_index, stored, which, weight, name))
        else:
            found[name] = measured(partial(ours, stored, which, weight, name, seconds))
        row = found[name]
        print(f"  {name:<10}{row['wall']:>9.1f}{row['processor']:>13.1f}{row['gb']:>7.2f}{row['recall']:>8.3f}  "
              f"{row['how']}", flush=True)  # fmt: skip
    result = {"rows": len(rows), "candidates": len(which), "k": K, "seconds": seconds, "searches": found}
    finish("searches", result, "numpy", "torch", "faiss-cpu")


def measured(search: Callable[[], tuple[float, str]]) -> dict[str, Any]:
    """Once: seconds, memory, and what the search says of itself."""
    with Peak() as peak:
        wall, processor = time.perf_counter(), time.process_time()
        recall, how = search()
        spent = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    return {**{name: round(value, 1) for name, value in spent.items()}, "gb": round(peak.grown / 1e9, 2),
            "recall": round(recall, 4), "how": how}  # fmt: skip


def ours(rows: Rows, which: npt.NDArray[np.int64], weight: Doubles, method: str, seconds: float) -> tuple[float, str]:
    """`nearest` on a CPU."""
    facts = nearest(rows, which, weight, K, seconds=seconds, device="cpu", method=method).facts
    probed = f", {facts['probes']} of {facts['lists']} lists" if facts["lists"] > 1 else ""
    return facts["recall"], f"{facts['method']}, {facts['dimension']:,} numbers{probed}"


def faiss_index(rows: Rows, which: npt.NDArray[np.int64], weight: Doubles, name: str) -> tuple[float, str]:
    """An index of the folded rows, its answers ranked again and its recall measured as ours are."""
    faiss = packages.faiss_module()
    vectors = folded(rows, which, weight, FOLDED, 0)
    pairs = ranking.HostPairs(rows, which, weight)
    if name == "hnsw":
        index = faiss.IndexHNSWFlat(FOLDED, GRAPH_DEGREE, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = index.hnsw.efSearch = BREADTH
        how = f"IndexHNSWFlat, {GRAPH_DEGREE} neighbors a node, breadth {BREADTH}"
    else:
        lists = int(np.sqrt(len(which)))
        quantizer = faiss.IndexFlatIP(FOLDED)
        index = faiss.IndexIVFFlat(quantizer, FOLDED, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.spherical, index.nprobe = True, max(int(SHARE * lists), FEWEST_PROBES)
        index.train(vectors[: 64 * lists])
        how = f"IndexIVFFlat, {index.nprobe} of {lists} lists"
    index.add(vectors)
    similarity = np.empty((len(which), K), np.float32)
    for start in range(0, len(which), QUERIES):
        queries = np.arange(start, min(start + QUERIES, len(which)))
        found = index.search(vectors[queries], FETCH)[1].astype(np.int64)
        found = np.where(found < 0, queries[:, None], found)  # fewer than asked for: the row itself, which is left out
        similarity[queries] = ranking.ranked(pairs, queries, found, K)[1]
    return ranking.measured_recall(pairs, similarity, 0)[0], how
