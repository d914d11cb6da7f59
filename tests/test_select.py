"""Selections are in the right order, ties included, and impossible requests are refused."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnalign.errors import ArrayError
from learnalign.scoring import score
from learnalign.selection import facility_location, select, top


def in_order(scores: np.ndarray, learnability: np.ndarray) -> list[int]:
    """Python's sort, by the rule itself."""
    return sorted(range(len(scores)), key=lambda row: (not learnability[row] > 0, -scores[row], row))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), rows=st.integers(1, 60))
def test_top_is_the_sorted_order(data: st.DataObject, rows: int) -> None:
    """Few distinct values, so that ties and rows with nothing to learn are everywhere."""
    scores = np.array(data.draw(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0]), min_size=rows, max_size=rows)))
    values = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.25]), min_size=rows, max_size=rows)))
    n = data.draw(st.integers(1, rows))
    picked = top(scores, values, n)
    assert picked.dtype == np.int64
    assert picked.tolist() == in_order(scores, values)[:n]


def test_top_of_a_large_pool() -> None:
    rng = np.random.default_rng(0)
    scores, values = rng.integers(-50, 50, 20_000) / 7, rng.integers(0, 3, 20_000) / 10
    for n in (1, 777, 20_000):
        assert top(scores, values, n).tolist() == in_order(scores, values)[:n]


def test_equal_scores_go_to_the_lower_row() -> None:
    assert top(np.full(9, 0.3), np.full(9, 0.1), 4).tolist() == [0, 1, 2, 3]


def test_learnable_rows_go_first_even_below_zero() -> None:
    scores = np.array([0.0, -0.2, 0.0, -0.1])
    assert top(scores, np.array([0.0, 0.2, 0.0, 0.1]), 4).tolist() == [3, 1, 0, 2]


def test_select_scores_and_picks() -> None:
    rng = np.random.default_rng(1)
    phi, p = rng.standard_normal((50, 9)), rng.integers(0, 5, 50) / 4
    selection = select(phi, p, 12)
    assert np.array_equal(selection.scores, score(phi, p))
    assert selection.indices.tolist() == in_order(selection.scores, p * (1 - p))[:12]
    assert np.array_equal(selection.gains, selection.scores[selection.indices])


def test_prompts_of_one_row_each_do_not_depend_on_the_order_of_the_pool() -> None:
    rng = np.random.default_rng(2)
    phi, p = rng.standard_normal((200, 30)), rng.uniform(0.1, 0.9, 200)
    order = rng.permutation(200)
    picked = select(phi, p, 20).indices
    assert order[select(phi[order], p[order], 20).indices].tolist() == picked.tolist()


@pytest.mark.parametrize("n", [0, -1, 6, 2**70, 2.0, "3", None, True])
def test_impossible_n(n: Any) -> None:
    for call in (lambda: select(np.eye(5), np.full(5, 0.5), n), lambda: top(np.ones(5), np.ones(5), n)):
        with pytest.raises(ArrayError, match=r"n \(how many rows to select\) must"):
            call()


def test_bad_input() -> None:
    with pytest.raises(ArrayError, match="unknown strategy 'best': expected one of top"):
        select(np.eye(2), np.full(2, 0.5), 1, strategy="best")
    with pytest.raises(ArrayError, match="NaN in row 1"):
        top(np.array([0.0, np.nan, np.nan]), np.ones(3), 1)
    with pytest.raises(ArrayError, match="NaN in row 2"):
        top(np.ones(3), np.array([0.0, 1.0, np.nan]), 1)
    with pytest.raises(ArrayError, match=r"found shapes \[3\] and \[2\]"):
        top(np.ones(3), np.ones(2), 1)
    with pytest.raises(ArrayError, match=r"success_rate must lie in \[0, 1\]"):
        select(np.eye(2), np.array([0.5, 2.0]), 1)


# --- facility location

Graph = tuple[np.ndarray, np.ndarray, np.ndarray, int]


def graph_of(rows: list[dict[int, float]], points: int) -> Graph:
    """CSR arrays of one dictionary {point: weight} a candidate."""
    indptr = np.cumsum([0, *(len(row) for row in rows)])
    indices = np.array([point for row in rows for point in row], np.int64)
    return indptr, indices, np.array([w for row in rows for w in row.values()], np.float32), points


def naive_greedy(graph: Graph, n: int) -> tuple[list[int], list[float]]:
    """Every gain computed anew for every pick, from the definition."""
    indptr, indices, weights, points = graph
    best, picks, gains = np.zeros(points), [], []
    entries = [slice(a, b) for a, b in zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True)]
    for _ in range(n):
        added = [
            -1.0 if j in picks else sum(np.maximum(weights[e].astype(float) - best[indices[e]], 0.0).tolist())
            for j, e in enumerate(entries)
        ]
        pick = int(np.argmax(added))  # the first of equals
        picks.append(pick)
        gains.append(added[pick])
        best[indices[entries[pick]]] = np.maximum(best[indices[entries[pick]]], weights[entries[pick]])
    return picks, gains


def test_facility_location_by_hand() -> None:
    graph = graph_of([{0: 1.0, 1: 0.5}, {1: 1.0, 2: 0.75}, {2: 1.0}, {0: 1.0, 1: 0.5}], 3)
    picks, gains = facility_location(*graph[:3], 4, rows=3)
    assert picks.tolist() == [1, 0, 2, 3]
    assert gains.tolist() == [1.75, 1.0, 0.25, 0.0]
    assert (picks.dtype, gains.dtype) == (np.int64, np.float64)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), candidates=st.integers(1, 12), points=st.integers(1, 10))
def test_lazy_greedy_is_greedy_pick_by_pick(data: st.DataObject, candidates: int, points: int) -> None:
    """Few distinct weights make ties, negative ones never count, and some weights round when they are summed."""
    weight = st.sampled_from([-1.0, 0.0, 0.1, 0.3, 0.5, 1.0, 1e-7, 3e7])
    rows = [data.draw(st.dictionaries(st.integers(0, points - 1), weight, max_size=points)) for _ in range(candidates)]
    graph = graph_of(rows, points)
    n = data.draw(st.integers(1, candidates))
    picks, gains = facility_location(*graph[:3], n, graph[3])
    assert (picks.tolist(), gains.tolist()) == naive_greedy(graph, n)


def random_graph(candidates: int, neighbors: int, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    indices = np.concatenate([rng.choice(candidates, neighbors, replace=False) for _ in range(candidates)])
    weights = rng.random(len(indices), dtype=np.float32)
    return np.arange(candidates + 1) * neighbors, indices, weights, candidates


def test_greedy_of_a_larger_graph() -> None:
    graph = random_graph(400, 9, seed=4)
    picks, gains = facility_location(*graph[:3], 400, graph[3])
    expected = naive_greedy(graph, 60)
    assert (picks[:60].tolist(), gains[:60].tolist()) == expected
    assert sorted(picks.tolist()) == list(range(400))
    assert (np.diff(gains) <= 0).all()
    indptr, indices, weights, _ = graph
    best = np.zeros(400, np.float32)
    np.maximum.at(best, indices, weights)
    np.testing.assert_allclose(gains.sum(), best.sum(dtype=np.float64), rtol=1e-12)
    unsigned = facility_location(indptr.astype(np.uint32), indices.astype(np.int32), weights, 60, 400)
    assert unsigned[0].tolist() == expected[0]


def test_greedy_half_of_all_pairs_is_near_the_optimum() -> None:
    """F of 3 greedy picks against the best of all 3-subsets: at least 1 - 1/e of it."""
    rng = np.random.default_rng(7)
    dense = rng.random((9, 9)).astype(np.float32)
    graph = graph_of([dict(enumerate(row.tolist())) for row in dense], 9)
    best = max(dense[list(some)].max(axis=0).sum() for some in itertools.combinations(range(9), 3))
    assert facility_location(*graph[:3], 3, 9)[1].sum() >= (1 - 1 / np.e) * best


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"indices": [0, 3]}, "indices must lie between 0 and 2, found 3 in row 1"),
        ({"indices": [-1, 2]}, "found -1 in row 0"),
        ({"indptr": [0, 2, 2], "indices": [1, 1]}, "indices must differ, found 1 twice in row 0"),
        ({"weights": np.array([0.5, np.nan], np.float32)}, "weights must be finite: NaN or infinity in row 1"),
        ({"weights": np.array([np.inf, 0.5], np.float32)}, "weights must be finite: NaN or infinity in row 0"),
        ({"weights": np.ones(2)}, r"weights must be float32 \[2\], found float64"),
        ({"weights": np.ones(3, np.float32)}, r"weights must be float32 \[2\], found float32 \[3\]"),
        ({"indptr": [0, 1]}, "indptr must begin with 0 and end with 2 .the entries., found 0 and 1"),
        ({"indptr": [1, 1, 2]}, "found 1 and 2"),
        ({"indptr": [0, 3, 2]}, "indptr must not fall: it does in row 1"),
        ({"indptr": [0, -1, 2]}, "indptr must not fall: it does in row 0"),
        ({"indptr": []}, "indptr must"),
        ({"indptr": [0.0, 1.0, 2.0]}, "indptr must be 1-dimensional and of whole numbers"),
        ({"n": 3}, "between 1 and 2"),
        ({"n": 0}, "between 1 and 2"),
    ],
)
def test_what_is_no_graph_is_refused(change: dict[str, Any], line: str) -> None:
    graph: dict[str, Any] = {"indptr": [0, 1, 2], "indices": [0, 2], "weights": np.ones(2, np.float32), "n": 1}
    with pytest.raises(ArrayError, match=line):
        facility_location(**{**graph, **change}, rows=3)


def test_ctrl_c_stops_greedy() -> None:
    """All candidates represent the same points, so the first pick makes every gain stale."""
    rows = 60_000
    indices, weights = np.tile(np.arange(64), rows), np.random.default_rng(0).random(64 * rows, dtype=np.float32)
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.process_time())
        os.kill(os.getpid(), signal.SIGINT)

    def work() -> None:
        for _ in range(1000):
            facility_location(np.arange(rows + 1) * 64, indices, weights, rows, 64)

    threading.Timer(0.5, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.process_time() - sent[0] < 0.5  # of processor time: a busy machine does not count
