"""Searches on GPUs with CPU indexes in the place of FAISS's GPU indexes, which have not run. What they are given and
what is made of their answers is tested here; the wheel's own names are in tests/faiss_gpu.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import faiss
import fake_faiss_gpu
import numpy as np
import pytest
import torch

from learnalign.errors import ArrayError
from learnalign.scoring.rows import Rows
from learnalign.selection import neighbors
from learnalign.selection.neighbors import all_pairs, faiss_gpu, memory, nearest, packages, plan, probe, ranking
from learnalign.selection.neighbors.plan import Machine

GPU = "cuda:0"
WORKING = frozenset({"int8", "tiles", "flat", "ivf"})


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((9, 24))
    rows = centers[rng.integers(0, 9, 400)] + 0.5 * rng.standard_normal((400, 24))
    return (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float32)


def positions(found: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    parts = list(found)
    assert np.array_equal(np.concatenate([queries for queries, _ in parts]), np.arange(400))
    return np.concatenate([best for _, best in parts])


def flat_answer(vectors: np.ndarray, k: int) -> np.ndarray:
    index = faiss.IndexFlatIP(24)
    index.add(vectors)
    return index.search(vectors, k)[1]


def test_flat_gives_what_indexflatip_gives_of_the_same_halves(vectors: np.ndarray) -> None:
    small = vectors * np.float32(1e-6)  # products of float16 would vanish
    half = (small / np.abs(small).max()).astype(np.float16).astype(np.float32)
    found = positions(faiss_gpu.flat(fake_faiss_gpu.module(), small, 7, 1 << 20, 0))
    assert np.array_equal(found, flat_answer(half, 7))


def test_several_gpus_give_what_indexflatip_gives(vectors: np.ndarray) -> None:
    found = positions(faiss_gpu.flat_on_all_gpus(fake_faiss_gpu.module(gpus=2), vectors, 7))
    assert np.array_equal(found, flat_answer(vectors, 7))


def test_an_empty_replica_is_noticed(vectors: np.ndarray) -> None:
    with pytest.raises(ArrayError, match="FAISS copied 0 of 400 rows to its GPUs: it finds none"):
        next(faiss_gpu.flat_on_all_gpus(fake_faiss_gpu.module(gpus=0), vectors, 7))


def test_ivf_gives_what_indexivfflat_gives() -> None:
    vectors = np.random.default_rng(0).standard_normal((400, 24)).astype(np.float32)
    found = positions(faiss_gpu.ivf(fake_faiss_gpu.module(), vectors, 6, 2, 7, 0, 0))
    quantizer = faiss.IndexFlatIP(24)
    index = faiss.IndexIVFFlat(quantizer, 24, 6, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.seed, index.cp.min_points_per_centroid = True, 0, 1
    sample = np.sort(np.random.default_rng(0).permutation(400)[: 64 * 6])
    index.train(vectors[sample])
    index.add(vectors)
    index.nprobe = 2
    assert np.array_equal(found, index.search(vectors, 7)[1])
    assert not np.array_equal(found, flat_answer(vectors, 7)), "a search of all lists would show nothing"


def test_ivf_looks_into_all_lists_where_one_holds_too_few(vectors: np.ndarray) -> None:
    found = positions(faiss_gpu.ivf(fake_faiss_gpu.module(), vectors, 40, 1, 60, 0, 0))
    assert found.min() >= 0
    assert all(len(set(row)) == 60 for row in found.tolist())


def test_cagra_is_asked_for_more_than_it_returns(vectors: np.ndarray) -> None:
    found = positions(faiss_gpu.cagra(fake_faiss_gpu.module(cuvs=True), vectors, 7, 0))
    assert np.array_equal(found, flat_answer(vectors, 7))


def test_more_than_2048_neighbors_need_cuvs() -> None:
    with pytest.raises(ArrayError, match=r"at most 2,048 neighbors of a row .* 2,049 are asked for .*neighbors=int8"):
        faiss_gpu.check_fetch(fake_faiss_gpu.module(), 2049)
    faiss_gpu.check_fetch(fake_faiss_gpu.module(), 2048)
    faiss_gpu.check_fetch(fake_faiss_gpu.module(cuvs=True), 4096)


# --- the whole path


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU in the place of a GPU: torch's tensors stay here, FAISS's indexes are those of CPUs."""

    class PairsHere(ranking.DevicePairs):
        def __init__(self, rows: Rows, which: np.ndarray, weight: np.ndarray, device: str, room: int) -> None:
            super().__init__(rows, which, weight, here(device), room)

    def here(device: str) -> str:
        assert device == GPU
        return "cpu"

    to_bytes, to_device = neighbors.as_bytes, all_pairs.on_device
    monkeypatch.setattr(neighbors, "gpu", lambda device: GPU)
    monkeypatch.setattr(memory, "room", lambda device: 1 << 30)
    monkeypatch.setattr(probe, "working", lambda device: (WORKING, ""))
    monkeypatch.setattr(packages, "faiss_module", fake_faiss_gpu.module)
    monkeypatch.setattr(ranking, "DevicePairs", PairsHere)
    monkeypatch.setattr(neighbors, "as_bytes", lambda *arguments: to_bytes(*arguments[:-1], here(arguments[-1])))
    monkeypatch.setattr(all_pairs, "on_device", lambda vectors, device: to_device(vectors, here(device)))


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("method", ["auto", "int8", "flat", "ivf"])
@pytest.mark.parametrize("dtype", ["int8", "float32", "float64"])
def test_every_search_gives_similarities_of_the_stored_rows(vectors: np.ndarray, method: str, dtype: str) -> None:
    phi = (90 * vectors).astype(dtype)
    weight = np.random.default_rng(1).integers(1, 5, 400) / 20
    found = nearest(Rows([phi]), np.arange(400), weight, 6, method=method)
    z = phi * (weight / np.linalg.norm(phi.astype(np.float64), axis=1))[:, None]
    full = z @ z.T
    np.testing.assert_allclose(found.similarity, np.take_along_axis(full, found.positions, 1), rtol=1e-5, atol=1e-7)
    assert found.facts["recall"] > 0.95
    assert (found.facts["device"], found.notes) == (GPU, [])
    if method != "auto":
        assert found.facts["method"] == method
    elif dtype == "int8":
        assert (found.facts["method"], found.facts["exact"]) == ("int8", True)


@pytest.mark.usefixtures("on_a_gpu")
def test_tiles_of_torch_take_the_place_of_faiss(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the trial of FAISS ended in an abort; the user reads why."""
    trouble = "exit code -6: Faiss assertion"
    monkeypatch.setattr(probe, "working", lambda device: (frozenset({"int8", "tiles"}), trouble))
    found = nearest(Rows([vectors]), np.arange(400), np.ones(400), 6, method="flat")
    assert (found.facts["library"], found.facts["recall"]) == ("torch", 1.0)
    assert found.notes == [f"not all searches work on {GPU}: {trouble}"]
    with pytest.raises(ArrayError, match=r"neighbors=ivf does not work on cuda:0 \(.*exit code -6: Faiss assertion\)"):
        nearest(Rows([vectors]), np.arange(400), np.ones(400), 6, method="ivf")


@pytest.mark.parametrize(
    ("gib", "expected"), [(83, ("int8", 4096)), (4, ("int8", 4096)), (2, ("int8", 1024)), (0.5, ("lists", 1024))]
)
def test_a_gpu_gets_what_fits(gib: float, expected: tuple[str, int]) -> None:
    """A million rows of 4,096 bytes: whole where their 3.8 GiB fit, then folded, then on the CPU."""
    chosen = plan(1_000_000, 4096, 120, 32, Machine(GPU, int(gib * 2**30), WORKING, bytes_stored=True))
    assert (chosen.method, chosen.dimension) == expected
    assert chosen.device == ("cpu" if gib < 1 else GPU)


def test_without_time_for_all_pairs_an_index_is_taken() -> None:
    machine = Machine(GPU, methods=WORKING | {"cagra"})
    assert plan(30_000_000, 4096, 120, 32, machine).method in ("ivf", "cagra")


# --- the trial


def test_a_trial_that_aborts_answers_no() -> None:
    """What was said before the abort counts; the process that asked lives on."""
    code = "import os, sys\nprint('works: int8', flush=True)\nprint('Faiss assertion', file=sys.stderr)\nos.abort()"
    working, trouble = probe.tried([sys.executable, "-c", code])
    assert working == {"int8"}
    assert trouble.startswith("exit code -6: Faiss assertion")


def test_a_trial_that_hangs_answers_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.5)
    working, trouble = probe.tried([sys.executable, "-c", "import time; time.sleep(60)"])
    assert (working, trouble) == (frozenset(), "took more than 0 s")


@pytest.mark.parametrize("cuvs", [False, True])
def test_every_search_passes_its_trial(cuvs: bool) -> None:
    trials = probe.trials(fake_faiss_gpu.module(gpus=2, cuvs=cuvs), "cpu")
    names = {name for name, search in trials if probe.finds_itself(search())}
    assert names == {*WORKING, "flat on all GPUs"} | ({"cagra"} if cuvs else set())


def test_a_trial_notices_wrong_rows() -> None:
    assert not probe.finds_itself(iter([(np.arange(3), np.array([[0], [2], [1]]))]))


def test_the_trial_of_a_gpu_that_is_not_there() -> None:
    """The program itself: every search fails, none is named, and it ends."""
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert probe.working("cuda:0")[0] == frozenset()


# --- packages


def test_two_wheels_of_faiss_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_installed", lambda name: name in ("faiss-cpu", "faiss-gpu"))
    assert packages.clash().startswith("faiss-cpu and faiss-gpu are both installed and overwrite each other's files")
    monkeypatch.setattr(packages, "_installed", lambda name: name == "faiss-cpu")
    assert packages.clash() == ""
