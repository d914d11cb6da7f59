"""Neighbors are those of the full matrix, similarities are exact, and what was missed is measured."""

from __future__ import annotations

import re
import sys
import tracemalloc
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from learnalign.config import NeighborSearch
from learnalign.errors import ArrayError, MissingPackageError
from learnalign.scoring.rows import Rows
from learnalign.selection import neighbors
from learnalign.selection.neighbors import Plan, memory, nearest, plan
from learnalign.selection.neighbors.all_pairs import on_device, tiled
from learnalign.selection.neighbors.plan import Machine
from learnalign.selection.neighbors.ranking import HostPairs, measured_recall


def clustered(rows: int, dimension: int, seed: int = 0, clusters: int = 12) -> np.ndarray:
    """Rows around some centers, so that neighbors mean something."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((clusters, dimension))
    return (centers[rng.integers(0, clusters, rows)] + 0.8 * rng.standard_normal((rows, dimension))).astype(np.float32)


def similarities(phi: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """S in float64, the diagonal left out."""
    z = weight[:, None] * phi / np.linalg.norm(phi.astype(np.float64), axis=1)[:, None]
    full = z @ z.T
    np.fill_diagonal(full, -np.inf)
    return full


def found_share(phi: np.ndarray, weight: np.ndarray, positions: np.ndarray) -> float:
    """Recall by sets, over all rows."""
    k = positions.shape[1]
    best = np.argsort(-similarities(phi, weight), axis=1)[:, :k]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(best.tolist(), positions.tolist(), strict=True)]))


@pytest.fixture
def searched_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan], None]:
    def choose(wanted: Plan) -> None:
        monkeypatch.setattr(neighbors, "plan", lambda *arguments: wanted)

    return choose


@pytest.mark.parametrize(
    "wanted",
    [
        Plan("exact", 300, exact=True),
        Plan("flat", 64),
        Plan("flat", 128),
        Plan("lists", 128, 12, 5),
        Plan("lists", 128, 40, 1),
        Plan("int8", 300),
        Plan("int8", 128),
    ],
)
def test_similarities_are_exact_however_neighbors_were_found(searched_by: Callable[[Plan], None], wanted: Plan) -> None:
    phi, rng = clustered(500, 300), np.random.default_rng(1)
    weight = rng.integers(1, 5, 500) / 20
    searched_by(wanted)
    told: list[int] = []
    found = nearest(Rows([phi]), np.arange(500), weight, 10, device="cpu", advance=told.append)
    full = similarities(phi, weight)
    assert found.positions.shape == found.similarity.shape == (500, 10)
    assert sum(told) == 500
    assert (found.positions != np.arange(500)[:, None]).all(), "no row is its own neighbor"
    assert all(len(set(row)) == 10 for row in found.positions.tolist())
    np.testing.assert_allclose(found.similarity, np.take_along_axis(full, found.positions, 1), rtol=1e-4, atol=1e-6)
    assert (np.diff(found.similarity, axis=1) <= 0).all()
    share = found_share(phi, weight, found.positions)
    assert found.facts["method"] == wanted.method
    assert found.facts["recall"] == pytest.approx(share, abs=0.05)
    assert share == 1.0 if wanted.method == "exact" else share > (0.5 if wanted.probes == 1 else 0.8)


def test_the_measured_recall_counts_what_is_missing() -> None:
    phi, weight = clustered(200, 40), np.ones(200)
    best = -np.sort(-similarities(phi, weight), axis=1)[:, :8].astype(np.float32)
    pairs = HostPairs(Rows([phi]), np.arange(200), weight)
    assert measured_recall(pairs, best, seed=0) == (1.0, 200)
    worse = best.copy()
    worse[:, 6:] = -1.0  # two of eight were not found
    assert measured_recall(pairs, worse, seed=0)[0] == 0.75


def test_folding_does_not_need_signs_in_the_rows(searched_by: Callable[[Plan], None]) -> None:
    """Rows of positive numbers, unlike sketches: without random signs of their own, folding would add them up."""
    rng = np.random.default_rng(0)
    phi = np.repeat(rng.random((50, 512)) ** 4, 4, axis=0).astype(np.float32) + 0.02 * rng.random(
        (200, 512), np.float32
    )
    searched_by(Plan("flat", 128))
    found = nearest(Rows([phi]), np.arange(200), np.ones(200), 3, device="cpu")
    assert found_share(phi, np.ones(200), found.positions) > 0.95


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float64])
def test_rows_of_any_type_in_any_shards(dtype: type) -> None:
    phi = np.rint(10 * clustered(120, 70)).clip(-127, 127).astype(dtype)
    which = np.random.default_rng(0).permutation(120)[:90]
    whole = nearest(Rows([phi]), which, np.ones(90), 5, device="cpu")
    cut = nearest(Rows([phi[:50], phi[50:50], phi[50:]]), which, np.ones(90), 5, device="cpu")
    assert np.array_equal(whole.positions, cut.positions)
    expected = -np.sort(-similarities(phi[which].astype(np.float64), np.ones(90)), axis=1)[:, :5]
    np.testing.assert_allclose(whole.similarity, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tile", [7, 64, 1000])
def test_tiles_of_torch_find_the_same(tile: int) -> None:
    """What runs on a GPU, run on the CPU: every border of tiles."""
    phi = clustered(150, 30)
    unit = phi / np.linalg.norm(phi, axis=1)[:, None]
    positions = np.full((150, 6), -1)
    for queries, found in tiled(on_device(unit, "cpu", tile), 6, tile):
        positions[queries] = found
    full = unit @ unit.T
    expected = -np.sort(-full, axis=1)[:, :6]
    np.testing.assert_allclose(np.take_along_axis(full, positions, 1), expected, atol=1e-6)


def test_more_neighbors_than_there_are() -> None:
    found = nearest(Rows([clustered(4, 9)]), np.arange(4), np.ones(4), 10, device="cpu")
    assert sorted(found.positions[1].tolist()) == [0, 2, 3]


def test_equal_rows_go_to_the_lower_place() -> None:
    phi = np.ones((6, 5), np.float32)
    assert nearest(Rows([phi]), np.arange(6), np.ones(6), 5, device="cpu").positions[3].tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("bytes_stored", [False, True])
def test_more_time_never_makes_the_search_less_faithful(bytes_stored: bool) -> None:
    machine = Machine(methods=frozenset({"exact", "flat", "lists", "int8"}), bytes_stored=bytes_stored)
    order = {"lists": 0, "flat": 1, "int8": 2 if bytes_stored else 1, "exact": 2}
    for rows in (10, 1000, 20_000, 200_000, 1_000_000):
        plans = [plan(rows, 4096, seconds, 32, machine) for seconds in (0.01, 1, 10, 100, 1000, 1e4, 1e6)]
        ranks = [(order[p.method], p.probes / p.lists) for p in plans]
        assert ranks == sorted(ranks)
        assert plans[-1].exact
        assert all(1 <= p.probes <= p.lists and p.dimension <= 4096 for p in plans)
    assert plan(200_000, 4096, 120, 32, machine).method == "lists"
    assert plan(7000, 4096, 120, 32).method == "exact"
    assert plan(7000, 4096, 120, 32, machine).method == ("int8" if bytes_stored else "exact")


def test_a_plan_fits_into_the_memory() -> None:
    for room in (1 << 40, 20_000 * 4096 * 4, 20_000 * 4096, 20_000 * 1024 * 4):
        chosen = plan(20_000, 4096, 1e6, 32, Machine(room=room))
        assert chosen.method == ("exact" if room >= 20_000 * 4096 * 4 else "flat")
    with pytest.raises(ArrayError, match=r"select\.neighbors=exact takes 0\.3 GiB on cpu, which has 0\.1 GiB"):
        plan(20_000, 4096, 1e6, 32, Machine(room=1 << 27), "exact")


def test_a_container_may_take_a_share_of_what_its_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "limit", tmp_path / "used"
    used.write_text("40000000\n")
    monkeypatch.setattr(memory, "GROUP_LIMITS", ((limit, used),))
    unlimited = memory.room("cpu")
    limit.write_text("max\n")
    assert memory.room("cpu") > 60_000_000 < unlimited
    limit.write_text("140000000\n")
    assert memory.room("cpu") == 60_000_000
    limit.write_text("30000000\n")
    assert memory.room("cpu") == 0


def test_what_is_asked_for_is_planned() -> None:
    for method in ("exact", "flat", "lists"):
        assert plan(20_000, 4096, 1.0, 32, Machine(), method).method == method
    with pytest.raises(ArrayError, match=r"select\.neighbors=ivf does not work on cpu: use auto"):
        plan(20_000, 4096, 1.0, 32, Machine(), "ivf")
    with pytest.raises(ArrayError, match="unknown search for neighbors 'hnsw': expected one of auto, exact"):
        nearest(Rows([clustered(9, 5)]), np.arange(9), np.ones(9), 2, method="hnsw")
    assert get_args(NeighborSearch) == neighbors.METHODS
    table = (resources.files("learnalign.guides") / "strategies.md").read_text().partition("| `select.neighbors` |")[2]
    assert set(re.findall(r"^\|[^|]*\| `(\w+)` \|", table, re.MULTILINE)) == {*neighbors.METHODS} - {"auto"}


def test_a_low_recall_is_told_with_the_price_of_more() -> None:
    phi = np.random.default_rng(0).standard_normal((1500, 48)).astype(np.float32)
    found = nearest(Rows([phi]), np.arange(1500), np.ones(1500), 5, device="cpu", method="lists", seconds=1e-9)
    assert found.facts["recall"] < 0.9
    assert re.fullmatch(
        r"the search for neighbors \(lists\) found 0.\d\d of the 5 nearest: give it more time with "
        r"select.neighbor_seconds; comparing every pair takes about 0 s",
        found.notes[0],
    )
    assert plan(1500, 48, float("inf"), 5, method="lists").probes == 38, "all of them"


def test_memory_is_that_of_the_rows_asked_for(tmp_path: Path) -> None:
    """30,000 mapped int8 rows, 300 of them searched: nothing of the size of all of them is made."""
    file = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.int8, (30_000, 1024))
    file[:] = np.random.default_rng(0).integers(-9, 9, 1024)
    file[::100] += np.random.default_rng(1).integers(-90, 90, (300, 1024)).astype(np.int8)
    rows = Rows([np.load(tmp_path / "rows.npy", mmap_mode="r")])
    nearest(rows, np.arange(0, 300), np.ones(300), 5, device="cpu")  # imports are not counted
    tracemalloc.start()
    nearest(rows, np.arange(0, 30_000, 100), np.ones(300), 5, device="cpu")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000 * 1024  # a quarter of what all rows take as float32


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(ArrayError, match="at least 2 rows and k >= 1, found 1 rows"):
        nearest(Rows([np.ones((3, 4), np.float32)]), np.arange(1), np.ones(1), 2)
    broken = np.ones((3, 4))
    broken[1, 2] = np.inf
    with pytest.raises(ArrayError, match="must be finite: NaN or infinity in row 1"):
        nearest(Rows([broken]), np.arange(3), np.ones(3), 2, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ArrayError, match="searched on cuda, but torch sees no GPU: use cpu or auto"):
            nearest(Rows([np.ones((3, 4), np.float32)]), np.arange(3), np.ones(3), 2, device="cuda")
    with pytest.raises(ArrayError, match="of one d,"):
        Rows([np.ones((2, 3)), np.ones((2, 4))])
    with pytest.raises(ArrayError, match="of one dtype, found float32, float64"):
        Rows([np.ones((2, 3)), np.ones((2, 3), np.float32)])


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'learnalign\[faiss\]'.*top works without it"):
        nearest(Rows([clustered(9, 5)]), np.arange(9), np.ones(9), 2, device="cpu")
