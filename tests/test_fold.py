"""The fold as mathematics: counter-based, linear, unbiased, and the same however it is cut into calls."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from learnalign.kernels.fold import TILE_ENTRIES, fold_matrices, fold_reference, fold_segments
from learnalign.kernels.signs import TILE, bucket_masks, philox, signs

SEED, LAYER = 0x1234_5678_9ABC, 77


def test_philox_gives_the_published_known_answers() -> None:
    """Vectors of the Random123 distribution (philox4x32, 10 rounds)."""
    ones = 0xFFFFFFFF
    known = [
        ((0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ones,) * 4, ones << 32 | ones, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0 << 32 | 0xA4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]
    for counter, key, answer in known:
        words = philox(tuple(torch.tensor(c) for c in counter), key)  # type: ignore[arg-type]
        assert " ".join(f"{int(w):08x}" for w in words) == answer


def naive_fold(matrix: np.ndarray, dimension: int, layer: int = LAYER, seed: int = SEED) -> np.ndarray:
    """The definition, entry by entry."""
    rows, columns = matrix.shape
    sign = signs(seed, layer, torch.arange(rows), columns).numpy()
    masks = bucket_masks(seed, layer, torch.arange(-(-rows // TILE)), -(-columns // TILE), dimension).numpy()
    phi = np.zeros(dimension)
    for r in range(rows):
        for c in range(columns):
            local = (r % TILE) * TILE + c % TILE
            phi[(local ^ masks[r // TILE, c // TILE]) % dimension] += sign[r, c] * matrix[r, c]
    return phi


@pytest.mark.parametrize("dimension", [128, 1024, 8192, 16384, 65536])
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (130, 129), (256, 128)])
def test_fold_is_its_definition(dimension: int, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    matrices = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    phi = torch.zeros(2, dimension, dtype=torch.float64)
    fold_matrices(phi, matrices, layer=LAYER, seed=SEED)
    for row in range(2):
        np.testing.assert_allclose(phi[row], naive_fold(matrices[row].numpy(), dimension), rtol=0, atol=1e-12)


def test_segments_are_folded_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ragged and empty segments, and bands of one tile row, give the fold of delta^T x."""
    generator = torch.Generator().manual_seed(2)
    delta = torch.randn(11, 300, generator=generator, dtype=torch.float64)
    x = torch.randn(11, 150, generator=generator, dtype=torch.float64)
    offsets = [0, 4, 4, 5, 11]
    expected = torch.zeros(4, 1024, dtype=torch.float64)
    products = torch.stack([delta[a:b].T @ x[a:b] for a, b in pairwise(offsets)])
    fold_matrices(expected, products, layer=LAYER, seed=SEED)
    monkeypatch.setattr("learnalign.kernels.fold.BAND_ENTRIES", 1)
    phi = torch.zeros(4, 1024, dtype=torch.float64)
    fold_segments(phi, delta, x, offsets, layer=LAYER, seed=SEED)
    torch.testing.assert_close(phi, expected, rtol=0, atol=1e-11)
    assert phi[1].abs().sum() == 0


def test_fold_is_linear() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 1, 200, 140, generator=generator, dtype=torch.float64)
    whole, parts = torch.zeros(2, 1, 512, dtype=torch.float64)
    fold_matrices(whole, 2.0 * a - 3.0 * b, layer=LAYER, seed=SEED)
    for factor, matrix in ((2.0, a), (-3.0, b)):
        one = torch.zeros(1, 512, dtype=torch.float64)
        fold_matrices(one, matrix, layer=LAYER, seed=SEED)
        parts += factor * one
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-11)


def test_inner_products_are_unbiased() -> None:
    """Over 400 seeds the mean of phi_a . phi_b meets <a, b> within four standard errors, whose size is known.

    A count-sketch's inner product has variance (|a|^2 |b|^2 + <a, b>^2 - 2 sum a_i^2 b_i^2) / d; a fold that put
    one sign into each bucket would be off by far more than that.
    """
    generator = torch.Generator().manual_seed(4)
    a = torch.randn(1, 160, 140, generator=generator, dtype=torch.float64)
    b = 0.3 * a + torch.randn(1, 160, 140, generator=generator, dtype=torch.float64) + 0.2
    dimension, products = 1024, []
    for seed in range(400):
        phi = torch.zeros(2, dimension, dtype=torch.float64)
        fold_matrices(phi, torch.cat([a, b]), layer=LAYER, seed=seed)
        products.append(float(phi[0] @ phi[1]))
    truth = float((a * b).sum())
    variance = float(a.square().sum() * b.square().sum() + truth**2 - 2 * (a.square() * b.square()).sum()) / dimension
    assert abs(np.mean(products) - truth) < 4 * np.sqrt(variance / len(products))
    assert 0.7 < np.var(products) / variance < 1.4


def test_signs_do_not_know_their_bucket() -> None:
    """The classic trap: sign and bucket from one hash give every bucket a single sign, and nothing cancels."""
    rows, columns, dimension = 512, 512, 256
    sign = signs(SEED, LAYER, torch.arange(rows), columns).numpy().astype(np.int64)
    masks = bucket_masks(SEED, LAYER, torch.arange(rows // TILE), columns // TILE, dimension).numpy()
    r, c = np.indices((rows, columns))
    bucket = (((r % TILE) * TILE + c % TILE) ^ masks[r // TILE, c // TILE]) % dimension
    sums = np.bincount(bucket.ravel(), weights=sign.ravel(), minlength=dimension)
    # Sums of n fair signs a bucket: sum over buckets of sum^2 / n is chi-squared with `dimension` degrees.
    chi = float((sums**2 / (rows * columns / dimension)).sum())
    assert abs(chi - dimension) < 6 * np.sqrt(2 * dimension)
    assert abs(sign.sum()) < 5 * np.sqrt(sign.size)


def test_layers_and_seeds_have_maps_of_their_own() -> None:
    rows = torch.arange(128)
    base = signs(SEED, LAYER, rows, 128)
    for other in (signs(SEED, LAYER + 1, rows, 128), signs(SEED + 1, LAYER, rows, 128)):
        assert 0.45 < (base == other).float().mean() < 0.55
    assert 0.45 < (signs(SEED + (1 << 40), LAYER, rows, 128) == base).float().mean() < 0.55


def test_padding_columns_do_not_move_signs() -> None:
    narrow, wide = (signs(SEED, LAYER, torch.arange(5), width) for width in (130, 500))
    assert torch.equal(narrow[:, :130], wide[:, :130])


@pytest.mark.parametrize(
    ("phi", "delta", "x", "offsets"),
    [
        ((2, 100), (4, 3), (4, 3), [0, 2, 4]),
        ((2, 64), (4, 3), (4, 3), [0, 2, 4]),
        ((2, 128), (4, 3), (5, 3), [0, 2, 4]),
        ((2, 128), (4, 3), (4, 3), [0, 4]),
        ((2, 128), (4, 3), (4, 3), [0, 3, 2]),
        ((2, 128), (4, 3), (4, 3), [0, 3, 5]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    phi: tuple[int, int], delta: tuple[int, int], x: tuple[int, int], offsets: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"dimension|tokens|offsets"):
        fold_segments(torch.zeros(phi), torch.zeros(delta), torch.zeros(x), offsets, layer=1, seed=1)


def test_one_tile_has_every_bucket_equally_often() -> None:
    """In exact mode a full tile fills its d buckets evenly: the fold's noise is then that of a random map."""
    phi = torch.zeros(1, 8192, dtype=torch.float64)
    ones = signs(SEED, LAYER, torch.arange(128), 128).double()[None]
    fold_matrices(phi, ones, layer=LAYER, seed=SEED)  # the signs cancel themselves: counts remain
    assert torch.equal(phi, torch.full_like(phi, TILE_ENTRIES / 8192))


def test_the_process_may_have_other_defaults() -> None:
    """torch.set_default_dtype and set_default_device are the caller's business."""
    delta, x = torch.randn(6, 130, generator=torch.Generator().manual_seed(1)), torch.ones(6, 200)
    expected = torch.zeros(2, 256)
    fold_segments(expected, delta, x, [0, 2, 6], layer=3, seed=4)
    for change, back in [
        (lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_dtype(torch.float32)),
        (lambda: torch.set_default_dtype(torch.bfloat16), lambda: torch.set_default_dtype(torch.float32)),
        (lambda: torch.set_default_device("meta"), lambda: torch.set_default_device(None)),
    ]:
        found = torch.zeros(2, 256)
        change()
        try:
            fold_segments(found, delta, x, [0, 2, 6], layer=3, seed=4)
        finally:
            back()
        assert torch.equal(found, expected)


def test_no_segment_is_no_error() -> None:
    for fold in (fold_segments, fold_reference):
        fold(torch.zeros(0, 128), torch.ones(0, 130), torch.ones(0, 20), [0], layer=0, seed=1)
