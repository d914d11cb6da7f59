"""Selection where there is little to choose from, where numbers are far from 1, and where rows are copies."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learnalign import select
from learnalign.errors import ArrayError
from learnalign.scoring import mean_direction, score_against, score_shards
from learnalign.scoring.rows import Rows
from learnalign.selection import STRATEGIES, constraints_of, quota_of
from learnalign.selection.neighbors import plan
from learnalign.selection.neighbors.plan import FEWEST_PROBES

RATES = {"none": [0, 1, 1, 0, 1.0], "one": [0, 1, 0.5, 0, 1], "all alike": [0.5] * 5}
NEEDED: dict[str, dict[str, Any]] = {
    "length": {"response_length": np.arange(5.0)},
    "history": {"history": [[0.1, 0.2], [0.3], [], [1, 0], [0.5]]},
    "limr": {"history": [[0.1, 0.2], [0.3], [], [1, 0], [0.5]]},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("learnable", RATES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_every_strategy_where_hardly_anything_is_learnable(strategy: str, learnable: str, dtype: str) -> None:
    rates = np.array(RATES[learnable])
    phi = (np.random.default_rng(0).standard_normal((5, 64)) * 30).astype(dtype)
    if learnable == "all alike":
        phi[:] = phi[0]
    phi[(rates == 0) | (rates == 1)] = 0
    target = np.ones((2, 64))
    for constraint in ({}, {"group": list("aabbc"), "quota": 1}, {"duplicate_cosine": 0.9}):
        for more in ({}, {"target": target}):
            for n in (1, 3, 5):
                arguments = {**NEEDED.get(strategy, {}), **constraint, **more}
                found = select(phi, rates, n, strategy=strategy, **arguments)
                assert len(set(found.indices.tolist())) == len(found.indices) <= n
                assert len(found.indices) == n or constraint
                assert np.isfinite(found.scores).all()
                if learnable != "all alike" and n == 5:
                    assert "are learnable" in " ".join(found.notes)


def test_a_store_without_rows_is_scored() -> None:
    """As where no prompt of a pool is learnable: nothing to score is no error, against the pool or a target."""
    for shards in ([], [np.empty((0, 4), np.float16)]):
        assert len(score_shards(shards, np.zeros(0), pool_size=3).score) == 0
        assert len(score_against(shards, np.zeros(0), np.ones(4)).score) == 0
        with pytest.raises(ArrayError, match="no prompt of the target set has a gradient"):
            mean_direction(shards)


# --- numbers far from 1


@pytest.mark.parametrize("size", [1e-300, 1e-46, 1e-20, 1e20, 1e300])
def test_the_size_of_float64_rows_does_not_matter(size: float) -> None:
    """Greedy, near-duplicates and targets compare directions, also of rows that float32 does not reach."""
    rng = np.random.default_rng(5)
    phi, rates = rng.standard_normal((60, 24)) + 0.3, rng.integers(1, 8, 60) / 8
    phi[7] = 3 * phi[4]
    for arguments in ({"strategy": "greedy"}, {"duplicate_cosine": 0.999}, {"duplicate_cosine": 0.5}):
        plain = select(phi, rates, 20, **arguments)
        far = select(phi * size, rates, 20, **arguments)
        assert far.indices.tolist() == plain.indices.tolist(), arguments
        np.testing.assert_allclose(far.gains, plain.gains, rtol=1e-6)
        if "duplicate_cosine" in arguments:
            assert not {4, 7} <= set(far.indices.tolist())
    np.testing.assert_allclose(mean_direction([phi * size]), mean_direction([phi]), rtol=1e-12)
    units = Rows([phi * size]).unit(np.arange(60))
    np.testing.assert_allclose(units, phi / np.linalg.norm(phi, axis=1, keepdims=True), rtol=0, atol=3e-7)


def test_rows_of_all_sizes_beside_each_other() -> None:
    phi = np.random.default_rng(1).standard_normal((6, 16))
    sizes = np.array([1e-310, 1e-40, 1.0, 1e30, 1e307, 0.0])
    units = Rows([phi * sizes[:, None]]).unit(np.arange(6))
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), [1, 1, 1, 1, 1, 0], atol=1e-6)


@pytest.mark.parametrize("path", ["float32", "float64", "float16", "int8"])
def test_similarities_are_those_of_float64(path: str) -> None:
    """From the stored rows, symmetric to the bit, the same for every number of threads and SIMD path."""
    from store_samples import SIMD

    from learnalign import _core

    rng = np.random.default_rng(2)
    phi = (rng.standard_normal((40, 333)) * 20).astype(path)
    phi[3] = 0
    weight = rng.uniform(0, 0.25, 40)
    unit = phi.astype(float) / np.maximum(np.linalg.norm(phi.astype(float), axis=1, keepdims=True), 1e-300)
    expected = (weight[:, None] * unit) @ (weight[:, None] * unit).T
    everyone = np.tile(np.arange(40), (40, 1))
    found = []
    for simd in SIMD:
        os.environ["LEARNALIGN_SIMD"] = simd
        try:
            for threads in (1, 3):
                pairs = _core.Pairs([phi[:9], phi[9:]], np.arange(40), weight, threads)
                found.append(pairs.similarities(np.arange(40), everyone, threads))
        finally:
            del os.environ["LEARNALIGN_SIMD"]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=1e-8)
    assert all(other.tobytes() == found[0].tobytes() for other in found)
    assert found[0].tobytes() == np.ascontiguousarray(found[0].T).tobytes()
    with pytest.raises(ArrayError, match="places must lie between 0 and 39, found 40"):
        pairs.similarities(np.arange(1), np.array([[40]]), 0)
    with pytest.raises(ArrayError, match="row numbers must lie between 0 and 39, found -1"):
        _core.Pairs([phi], np.array([-1]), np.ones(1), 0)


# --- constraints


def test_multiples_of_a_heavy_tailed_row_are_duplicates_of_it() -> None:
    """One entry as large as all others together: sums in float32 lose many of the small ones."""
    for seed in (5, 6, 50, 55):
        rng = np.random.default_rng(seed)
        row = rng.standard_t(1.5, 65536)
        phi = np.stack([row * factor for factor in rng.uniform(0.1, 10, 8)]).astype(np.float32)
        found = select(phi, np.full(8, 0.5), 8, duplicate_cosine=1.0)
        assert len(found.indices) == 1
    different = rng.standard_normal((8, 8192)).astype(np.float32)
    assert len(select(different, np.full(8, 0.5), 8, duplicate_cosine=1.0).indices) == 8


def test_groups_are_what_their_names_are() -> None:
    limits = constraints_of(["a", "a\0", "a", 3, "3"], 1, None, 5)
    assert limits.group is not None
    assert limits.quota is not None
    assert limits.group.tolist() == [0, 1, 0, 2, 2]
    assert limits.quota.tolist() == [1, 1, 1]


def test_one_long_group_name_costs_its_length() -> None:
    names = [str(i % 1000) for i in range(100_000)]
    names[5] = "x" * 4000
    tracemalloc.start()
    constraints_of(names, 2, None, len(names))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_a_share_is_the_decimal_that_it_reads_as() -> None:
    for percent in range(1, 100):
        for n in range(1, 101):
            assert quota_of(percent / 100, n) == -(-percent * n // 100)
    assert quota_of(1 / 3, 3) == 1
    assert quota_of(1e-9, 5) == 1


# --- copies


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_of_exact_copies_the_lower_row_is_picked(dtype: str) -> None:
    for seed in range(4):
        once = (np.random.default_rng(seed).standard_normal((40, 100)) * 20 + 8).astype(dtype)
        phi, rates = np.concatenate([once, once, once]), np.full(120, 0.5)
        for n in (13, 40):
            for strategy in ("top", "greedy", "alignment", "band"):
                limited = select(phi, rates, n, strategy=strategy, duplicate_cosine=1.0)
                assert limited.indices.max() < 40, strategy
            assert select(phi, rates, n, strategy="greedy").indices.max() < 40


# --- the time it takes


def test_time_for_ranking_again_is_planned() -> None:
    """The search gets what that leaves, and never less than it needs."""
    assert plan(20_000, 4096, 40).method == "exact"
    assert plan(20_000, 4096, 40, 256).method != "exact"
    assert plan(200_000, 8192, 120, 256).probes == FEWEST_PROBES
    assert plan(3000, 4096, 120, 64).method == "exact"


def test_threads_of_a_blas_are_not_multiplied(tmp_path: Path) -> None:
    """Ranking again asks no BLAS from threads of its own: its time on the processor does not depend on BLAS threads."""
    code = """
import time
import numpy as np
from learnalign.selection import neighbors
from learnalign.scoring.rows import Rows
rng = np.random.default_rng(0)
phi = rng.standard_normal((600, 8192)).astype(np.float16)
found = [(np.arange(600), rng.integers(0, 600, (600, 65)))]
neighbors._search = lambda *arguments: found
neighbors.ranking.measured_recall = lambda *arguments: (1.0, 0)
start = time.process_time()
neighbors.nearest(Rows([phi]), np.arange(600), np.ones(600), 64, device="cpu")
print(time.process_time() - start)
"""
    seconds = {}
    for threads in ("1", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        runs = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
            for _ in range(2)
        ]
        seconds[threads] = min(float(run.stdout) for run in runs)
    assert seconds["4"] < 4 * seconds["1"]
