"""How fast is exact greedy facility location on a sparse graph, and does it pick what others pick?

Floor: reading every entry once (the first gains), below which no exact greedy can go. Baselines: the plain loop in
NumPy, apricot-select (sparse, lazy) and submodlib-py (dense, lazy), on a size they can do; one that is not installed is
named and skipped. Ours: `facility_location`. Asserts the same picks as the plain loop and objectives equal to 1e-9
(1e-5 for submodlib, which works in float32).

    python -m bench.greedy [--quick]

The last line is one JSON object. `pip install apricot-select submodlib-py scipy` for the comparison.
"""

from __future__ import annotations

import importlib.util
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.measure import asked_quick, best, finish, table
from learnalign.selection import facility_location

NEIGHBORS = 64
Graph = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]


def main() -> None:
    """Compare on a small graph, measure on the large one."""
    quick = asked_quick(__doc__, "10,000 candidates, 1,000 picks")
    compared = compare(1000, 50)
    candidates, picks = (10_000, 1_000) if quick else (100_000, 10_000)
    graph = random_graph(candidates)
    seconds = best(
        3,
        floor=lambda: facility_location(*graph, 1, candidates),
        ours=lambda: facility_location(*graph, picks, candidates),
    )
    print(f"{candidates:,} candidates x {NEIGHBORS} neighbors, {picks:,} picks")
    table(seconds, "floor")
    result = {
        "candidates": candidates,
        "picks": picks,
        "ours_over_floor": round(seconds["ours"] / seconds["floor"], 1),
        "two_seconds_over_ours": round(2 / seconds["ours"], 2),
        **compared,
    }
    finish("greedy", result, "numpy", "scipy", "apricot-select", "submodlib-py")


def random_graph(candidates: int) -> Graph:
    """Random neighbors of random similarity: gains are close together, the hard case for lazy evaluation."""
    rng = np.random.default_rng(0)
    stride = candidates // NEIGHBORS
    shift = rng.integers(0, stride, (candidates, NEIGHBORS))
    indices = (np.arange(NEIGHBORS) * stride + shift).reshape(-1)
    weights = rng.random(len(indices), dtype=np.float32)
    return np.arange(candidates + 1) * NEIGHBORS, indices, weights


def objective(graph: Graph, candidates: int, picks: Any) -> float:
    """F of any picks, in float64."""
    indptr, indices, weights = graph
    covered = np.zeros(candidates)
    for j in picks:
        entries = slice(indptr[j], indptr[j + 1])
        covered[indices[entries]] = np.maximum(covered[indices[entries]], weights[entries])
    return float(covered.sum())


def plain_loop(graph: Graph, candidates: int, picks: int) -> list[int]:
    """Every gain for every pick."""
    indptr, indices, weights = graph
    covered = np.zeros(candidates)
    picked: list[int] = []
    for _ in range(picks):
        added = np.maximum(weights - covered[indices], 0.0)
        gains = np.add.reduceat(added, indptr[:-1])
        gains[picked] = -1.0
        pick = int(gains.argmax())
        picked.append(pick)
        entries = slice(indptr[pick], indptr[pick + 1])
        covered[indices[entries]] = np.maximum(covered[indices[entries]], weights[entries])
    return picked


def compare(candidates: int, picks: int) -> dict[str, float]:
    """Ours against whoever is installed; how many times longer the others take."""
    graph = random_graph(candidates)
    ours = facility_location(*graph, picks, candidates)[0].tolist()
    best_value = objective(graph, candidates, ours)
    assert plain_loop(graph, candidates, picks) == ours, "other picks than the plain loop"
    runs: dict[str, Any] = {
        "ours": lambda: facility_location(*graph, picks, candidates),
        "plain_loop": lambda: plain_loop(graph, candidates, picks),
    }
    tolerance = {"apricot": 1e-9, "submodlib": 1e-5}
    for name, make in (("apricot", apricot_run), ("submodlib", submodlib_run)):
        if any(importlib.util.find_spec(package) is None for package in (name, "scipy")):
            print(f"  {name} is not installed: skipped")
            continue
        runs[name] = make(graph, candidates, picks)
        value = objective(graph, candidates, runs[name]())
        assert abs(value - best_value) <= tolerance[name] * best_value, f"{name}: {value}, ours: {best_value}"
    print(f"{candidates:,} candidates x {NEIGHBORS} neighbors, {picks} picks")
    seconds = best(2, **runs)
    table(seconds, "ours")
    return {f"{name}_over_ours": round(seconds[name] / seconds["ours"], 1) for name in runs if name != "ours"}


def apricot_run(graph: Graph, candidates: int, picks: int) -> Any:
    """apricot reads the sparse matrix as it is, in float64."""
    apricot, csr_matrix = import_module("apricot"), import_module("scipy.sparse").csr_matrix

    indptr, indices, weights = graph
    similar = csr_matrix((weights.astype(np.float64), indices, indptr), (candidates, candidates))

    def run() -> Any:
        chosen = apricot.FacilityLocationSelection(picks, metric="precomputed", optimizer="lazy")
        return chosen.fit(similar).ranking

    return run


def submodlib_run(graph: Graph, candidates: int, picks: int) -> Any:
    """submodlib reads its dense kernel in float32."""
    submodlib, csr_matrix = import_module("submodlib"), import_module("scipy.sparse").csr_matrix

    indptr, indices, weights = graph
    dense = np.ascontiguousarray(csr_matrix((weights, indices, indptr), (candidates, candidates)).T.toarray())
    made = submodlib.FacilityLocationFunction(n=candidates, mode="dense", sijs=dense, separate_rep=False)

    def run() -> Any:
        return [j for j, _ in made.maximize(budget=picks, optimizer="LazyGreedy", show_progress=False)]

    return run


if __name__ == "__main__":
    main()
