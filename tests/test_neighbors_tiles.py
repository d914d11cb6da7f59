"""Products of bytes are exact, the largest of a row are found by groups, and lists hold the same as all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learnalign.scoring.rows import Rows
from learnalign.selection.neighbors import all_pairs, lists, nearest
from learnalign.selection.neighbors.largest import largest
from learnalign.selection.neighbors.ranking import DevicePairs, HostPairs
from learnalign.selection.neighbors.vectors import as_bytes, folded


def stored_bytes(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-127, 128, (rows, dimension)).astype(np.int8)


@pytest.mark.parametrize("shape", [(1, 1, 8), (17, 9, 64), (40, 70, 4096), (5, 33, 16384)])
@pytest.mark.parametrize("value", [None, 127, -127, -128])
def test_products_of_bytes_are_exact(shape: tuple[int, int, int], value: int | None) -> None:
    """Also of the largest bytes, where instructions that add into 16 bits would saturate."""
    count, width, d = shape
    left, right = stored_bytes(count, d), stored_bytes(width, d, 1)
    if value is not None:
        left[:], right[:] = value, -128
    found = all_pairs.byte_products(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    assert np.array_equal(found, left.astype(np.int64) @ right.astype(np.int64).T)


@pytest.mark.parametrize(("width", "k"), [(5, 3), (5, 9), (128, 1), (131, 1), (4096, 32), (4097, 32), (20_000, 65)])
@pytest.mark.parametrize("kinds", [3, 10**6])
def test_the_largest_of_a_row(width: int, k: int, kinds: int) -> None:
    """Ties among them: the values are those of a full sort, and no column comes twice."""
    products = torch.from_numpy(np.random.default_rng(width).integers(-kinds, kinds, (7, width)).astype(np.float32))
    values, columns = largest(products, k)
    assert torch.equal(values, products.sort(1, descending=True).values[:, :k])
    assert torch.equal(products.gather(1, columns), values)
    assert all(len(set(row)) == min(k, width) for row in columns.tolist())


@pytest.mark.parametrize("wide", [64, 96, 1 << 16])
def test_bytes_find_the_nearest_of_stored_bytes(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly, in tiles of any width; a row of zeros is like nothing."""
    phi, weight = stored_bytes(300, 36), np.random.default_rng(0).integers(1, 9, 300) / 8
    phi[7] = 0
    monkeypatch.setattr(all_pairs, "tiles", lambda room, fetch: (128, wide))
    found = nearest(Rows([phi[:100], phi[100:]]), np.arange(300), weight, 6, device="cpu", method="int8")
    z = phi * (weight / np.maximum(np.linalg.norm(phi.astype(np.float64), axis=1), 1e-9))[:, None]
    full = z @ z.T
    np.fill_diagonal(full, -np.inf)
    np.testing.assert_allclose(found.similarity, -np.sort(-full, axis=1)[:, :6], rtol=1e-6)
    assert (found.facts["method"], found.facts["exact"], found.facts["recall"]) == ("int8", True, 1.0)


def test_tiles_take_the_memory_that_there_is() -> None:
    for room in (1 << 24, 1 << 28, 1 << 40):
        high, wide = all_pairs.tiles(room, 65)
        assert wide % 32 == 0
        assert high * wide * all_pairs.BYTES_A_PRODUCT <= max(room, high * 292 * all_pairs.BYTES_A_PRODUCT)
    assert all_pairs.tiles(1 << 40, 65)[1] == all_pairs.LARGEST_TILE


def test_rows_that_are_no_bytes_are_rounded_to_127_steps() -> None:
    phi = np.random.default_rng(0).standard_normal((50, 30)).astype(np.float32)
    phi[3] = 0
    rows, which, weight = Rows([phi]), np.arange(50), np.linspace(0.1, 1, 50)
    z = as_bytes(rows, which, weight, 30, 0, "cpu")
    assert z.values.shape == (50, 32)  # eights
    restored = (z.values.float() * z.scale[:, None]).numpy()[:, :30]
    expected = folded(rows, which, weight, 30, 0)
    assert np.abs(restored - expected).max() <= 0.51 * np.abs(expected).max() / 127
    assert not restored[3].any()


@pytest.mark.parametrize("buffer", [1 << 12, 1 << 28])
def test_all_lists_hold_what_all_pairs_hold(buffer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "BUFFER", buffer)
    vectors = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    expected = np.argsort(-(vectors @ vectors.T), axis=1, kind="stable")[:, :7]
    positions = np.full((200, 7), -1)
    for queries, found in lists.in_lists(vectors, 9, 9, 7, seed=0):
        positions[queries] = found
    assert np.array_equal(np.sort(positions), np.sort(expected))


def test_lists_too_small_are_joined_by_others() -> None:
    """One probe of 20 lists over 60 rows, and 30 wanted of each: no row is found twice, none is missing."""
    vectors = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    seen = []
    for queries, found in lists.in_lists(vectors, 20, 1, 30, seed=0):
        seen.append(queries)
        assert all(len(set(row)) == 30 for row in found.tolist())
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(60))


def test_lists_nearest_to_the_row_are_searched() -> None:
    """A row at the border of its list finds neighbors beyond it: more than half of what one probe misses."""
    rng = np.random.default_rng(0)
    phi = rng.standard_normal((2000, 24)).astype(np.float32)
    best = np.sort(phi @ phi.T, axis=1)[:, -10:]
    shares = []
    for probes in (1, 6):
        hits = 0
        for queries, found in lists.in_lists(phi.copy(), 40, probes, 10, seed=0):
            values = np.take_along_axis(phi[queries] @ phi.T, found, 1)
            hits += int((values >= best[queries, :1] - 1e-4).sum())
        shares.append(hits / 20_000)
    assert 1 - shares[1] < 0.5 * (1 - shares[0])


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("room", [1, 1 << 20])
def test_a_device_ranks_as_the_core_does(dtype: str, room: int) -> None:
    """What runs on a GPU, on the CPU in its place: pairs one by one and in blocks; int8 to the bit."""
    phi = (30 * np.random.default_rng(0).standard_normal((60, 70))).clip(-127, 127).astype(dtype)
    phi[4] = 0
    rows, which = Rows([phi[:20], phi[20:]]), np.random.default_rng(1).permutation(60)[:50]
    weight = np.random.default_rng(2).integers(1, 9, 50) / 8
    host, device = HostPairs(rows, which, weight), DevicePairs(rows, which, weight, "cpu", room)
    queries, others = np.arange(50)[::-1].copy(), np.random.default_rng(3).integers(0, 50, (50, 9))
    expected, found = host.similarities(queries, others), device.similarities(queries, others)
    if dtype == "int8":
        assert np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(np.sort(device.largest(queries, 5)), np.sort(host.largest(queries, 5)), rtol=1e-5)


def test_a_device_refuses_rows_that_are_not_finite() -> None:
    from learnalign.errors import ArrayError

    phi = np.ones((5, 4), np.float32)
    phi[2, 1] = np.nan
    with pytest.raises(ArrayError, match="NaN or infinity in row 2; drop or repair it"):
        DevicePairs(Rows([phi]), np.arange(5), np.ones(5), "cpu", 1 << 20)
