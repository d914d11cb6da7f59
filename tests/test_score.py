"""Scores are mean_j S_ij, exactly, whatever the format, the threads, the shards and the SIMD path."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import SIMD

from learnalign.errors import ArrayError, ConfigError
from learnalign.scoring import score, score_shards
from learnalign.selection import select

SHAPES = [(1, 1), (1, 64), (2, 15), (3, 16), (7, 17), (100, 37), (255, 128), (256, 31), (257, 8), (2100, 65)]


def definition(phi: np.ndarray, success_rate: np.ndarray) -> np.ndarray:
    """The N x N matrix S in float64, averaged over its columns."""
    wide = phi.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    z = (success_rate * (1.0 - success_rate))[:, None] * unit
    return (z @ z.T).mean(axis=1)


def pool(rows: int, dimension: int, dtype: Any = np.float64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of very different lengths that lean to one side, as gradients do; success rates of 8 responses."""
    rng = np.random.default_rng([rows, dimension, seed])
    phi = rng.standard_normal((rows, dimension)) + 0.2 * rng.standard_normal(dimension)
    phi *= 2.0 ** rng.integers(-3, 4, (rows, 1))
    return phi.astype(dtype), rng.integers(0, 9, rows) / 8


@pytest.mark.parametrize("path", SIMD)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_the_definition(
    shape: tuple[int, int], dtype: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEARNALIGN_SIMD", path)
    phi, success_rate = pool(*shape, dtype)
    scores = score(phi, success_rate)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, definition(phi, success_rate), rtol=1e-9, atol=0.0)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(1, 40),
    dimension=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_scores_are_the_definition_for_any_shape(rows: int, dimension: int, seed: int, dtype: Any) -> None:
    """Scores near zero come from cancellation in a sum of V_i V_j <= 1/16, so the tolerance is absolute.

    For float16 rows two numbers are rounded to 42 bits, each by at most 2^-42 of itself: 2 x 2^-42 of 1/16.
    """
    phi, success_rate = pool(rows, dimension, dtype, seed)
    difference = score(phi, success_rate) - definition(phi, success_rate)
    assert np.abs(difference).max() <= (2.0**-45 if dtype == np.float16 else 1e-16)


def test_float64_is_not_rounded_to_float32() -> None:
    """Two rows that differ in the tenth digit: the difference of their scores is seen."""
    phi = np.array([[1.0, 1e-10], [1.0, -1e-10], [1.0, 1.0]])
    scores = score(phi, np.full(3, 0.5))
    assert scores[0] > scores[1]
    np.testing.assert_allclose(scores, definition(phi, np.full(3, 0.5)), rtol=1e-14)


@pytest.mark.parametrize("magnitude", [1e-320, 1e-300, 1e-160, 1e160, 1e300])
def test_float64_at_the_ends_of_its_range(magnitude: float) -> None:
    """Squares overflow or vanish there; the same rows times a power of two, which is exact, do not."""
    phi, success_rate = pool(20, 33)
    phi[::2] *= magnitude / np.abs(phi).max()
    ordinary = phi.copy()
    ordinary[::2] = np.ldexp(phi[::2], -int(np.floor(np.log2(magnitude))))
    np.testing.assert_allclose(score(phi, success_rate), score(ordinary, success_rate), rtol=1e-14)


def test_lengths_cancel() -> None:
    phi, success_rate = pool(300, 50, np.float32)
    factors = 2.0 ** np.random.default_rng(0).integers(-20, 20, (300, 1))
    assert np.array_equal(score(phi, success_rate), score(phi * factors.astype(np.float32), success_rate))


def test_half_precision_reads_every_number() -> None:
    """All 63,488 finite halves, on every path, as NumPy reads them."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    half = np.stack([every, np.ones_like(every)], axis=1)
    rates = np.full(len(half), 0.5)
    np.testing.assert_allclose(score(half, rates), score(half.astype(np.float64), rates), rtol=0, atol=2.0**-45)


@pytest.mark.parametrize("path", SIMD)
@pytest.mark.parametrize("scale", [2.0**-24, 2.0**-14, 1.0, 65504.0])
@pytest.mark.parametrize("dimension", [1, 31, 64, 333, 4096])
def test_lengths_of_half_rows_are_exact(
    dimension: int, scale: float, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of magnitude and wherever it changes: against sums of exact squares.

    Rows end in a number that the direction picks out alone, so that an alignment is that number over the length.
    """
    monkeypatch.setenv("LEARNALIGN_SIMD", path)
    rng = np.random.default_rng(dimension)
    rows = rng.standard_normal((8, dimension)) / 8
    rows[1, : dimension // 2] = 0.0  # nothing where the kernel looks for an order of magnitude,
    rows[2, : dimension // 2] *= 2.0**-9  # little,
    rows[3, dimension // 2 :] *= 2.0**-9  # more than anywhere else,
    rows[4] *= 2.0 ** rng.integers(-12, 3, dimension)  # any of it
    rows[5, dimension // 3] = 1.0
    rows[6, :-1] = 0.0
    half = np.clip(rows * scale, -65504, 65504).astype(np.float16)
    half[:, -1] = np.float16(scale)
    picked = np.zeros(dimension)
    picked[-1] = 1.0
    found = score_shards([half], np.full(8, 0.25), pool_size=8, total=picked).alignment
    exact = [math.sqrt(sum(Fraction(x) ** 2 for x in row)) for row in half.astype(float).tolist()]
    np.testing.assert_allclose(found, float(np.float16(scale)) / np.array(exact), rtol=2.0**-40)


@pytest.mark.parametrize(("dimension", "rounding"), [(1024, 2e-11), (8192, 2e-11), (65536, 1e-9)])
def test_lengths_of_half_rows_of_many_orders_of_magnitude(dimension: int, rounding: float) -> None:
    """What the module's docstring says of them; against sums in extended precision."""
    picked = np.zeros(dimension)
    picked[-1] = 1.0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        normal = rng.standard_normal((8, dimension))
        spike = normal * 1e-3
        spike[:, dimension // 2] = 300.0
        for rows in (
            normal * 2.0 ** rng.uniform(-20, 8, normal.shape),
            rng.standard_t(0.7, normal.shape),
            normal,
            spike,
        ):
            half = np.clip(rows, -65504, 65504).astype(np.float16)
            half[:, -1] = 1000.0
            found = score_shards([half], np.full(8, 0.25), pool_size=8, total=picked).alignment
            length = np.sqrt((half.astype(np.longdouble) ** 2).sum(axis=1))
            assert np.abs(found * length / 1000.0 - 1.0).max() < rounding


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "float64"])
def test_same_bits_for_any_threads_shards_and_simd_path(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(-128, 128, (5000, 77))
    phi = rows.astype(dtype) if dtype == "int8" else (rows / 977).astype(dtype)
    learnability = rng.uniform(0, 0.25, 5000)
    results = []
    for path in SIMD:
        monkeypatch.setenv("LEARNALIGN_SIMD", path)
        for threads in (0, 1, 2, 3, 7):
            for cuts in ([], [1], [1024, 2048], [3, 3, 700, 4999], [5000]):
                shards = np.split(phi, cuts)
                results.append(score_shards(shards, learnability, pool_size=6000, threads=threads))
    for result in results[1:]:
        assert result.score.tobytes() == results[0].score.tobytes()
        assert result.alignment.tobytes() == results[0].alignment.tobytes()


def extreme_rows(dtype: Any, rows: int, dimension: int) -> np.ndarray:
    """Ordinary rows, rows of one number alone, of the largest, the smallest and of nothing, and mixed ones."""
    rng = np.random.default_rng([rows, dimension])
    low, high, least = (-128, 127, 1) if dtype == np.int8 else (-65504.0, 65504.0, 2.0**-24)
    phi = rng.standard_normal((rows, dimension)) * (30 if dtype == np.int8 else 0.02)
    phi[3::13] = low
    phi[4::13] = high
    phi[5::13] = np.where(rng.random(phi[5::13].shape) < 0.5, least, -least)
    phi[6::13] = 0.0
    phi[7::13, :-1] = 0.0
    phi[8::13] *= 2.0 ** rng.integers(-18, 3, phi[8::13].shape)
    return np.clip(phi, low, high).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dimension", [1, 15, 16, 31, 33, 63, 65, 255, 257, 1000, 4160, 9001])
def test_every_path_gives_the_same_bits_at_every_width(
    dimension: int, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The widest registers leave the most over; both passes, and one with a known sum, of an odd number of rows."""
    phi = extreme_rows(dtype, 1043 if dimension < 300 else 41, dimension)
    rng = np.random.default_rng(dimension)
    learnability = rng.uniform(0, 0.25, len(phi)) * rng.integers(0, 2, len(phi))
    known = rng.standard_normal(dimension)
    found = []
    for path in SIMD:
        monkeypatch.setenv("LEARNALIGN_SIMD", path)
        for total in (None, known):
            for cuts in ([], [1, 8, 20]):
                shards = np.split(phi, cuts)
                scores = score_shards(shards, learnability, pool_size=len(phi), total=total)
                found.append((total is None, scores.score.tobytes() + scores.alignment.tobytes()))
    assert len(set(found)) == 2


def test_sums_of_the_largest_bytes_do_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many columns as a lane of 32 bits may add, and more, of the largest numbers against the largest."""
    for dimension in (2**19, 3 * 2**20 + 64):
        for value in (-128, 127):
            phi = np.full((2, dimension), value, np.int8)
            for path in SIMD:
                monkeypatch.setenv("LEARNALIGN_SIMD", path)
                found = score_shards([phi], np.full(2, 0.25), pool_size=2)
                np.testing.assert_allclose(found.alignment, 1.0, rtol=2.0**-29)
                np.testing.assert_allclose(found.score, 0.0625, rtol=1e-8)


def test_nothing_to_learn_scores_exactly_zero() -> None:
    phi, success_rate = pool(50, 20)
    success_rate[:10], success_rate[10:20] = 0.0, 1.0
    phi[5:15] = 0.0
    scores = score(phi, success_rate)
    assert not scores[:20].any()
    assert not np.signbit(scores[:20]).any()
    assert np.count_nonzero(scores[20:]) > 0
    phi[:20] = 1e3  # whatever their gradients, they count in the mean's N only
    assert np.array_equal(score(phi, success_rate), scores)
    np.testing.assert_allclose(score(phi[20:], success_rate[20:]) * 30 / 50, scores[20:], rtol=1e-12)


def test_a_pool_with_nothing_to_learn() -> None:
    phi, _ = pool(5, 4)
    assert not score(phi, np.ones(5)).any()
    result = score_shards([phi], np.zeros(5), pool_size=5)
    assert not result.score.any()
    assert not result.alignment.any()


def test_empty_pool() -> None:
    assert score(np.empty((0, 8)), np.empty(0)).shape == (0,)
    assert score_shards([], np.empty(0), pool_size=3).score.shape == (0,)
    assert not score(np.empty((3, 0)), np.zeros(3)).any()


# --- stored rows


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_stored_rows_against_the_definition(dtype: str) -> None:
    rng = np.random.default_rng(4)
    phi = rng.standard_normal((400, 90)) + 0.1
    stored = np.rint(phi * 30).clip(-127, 127).astype(np.int8) if dtype == "int8" else phi.astype(dtype)
    learnability, size = rng.uniform(0, 0.25, 400), 1000
    learnability[:30] = 0.0
    unit = stored.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    mean = (learnability[:, None] * unit).sum(axis=0) / size
    scale = np.full(400, 0.01, np.float32)
    result = score_shards([stored[:123], stored[123:]], learnability, pool_size=size, scale=scale)
    rounding = 1e-8 if dtype == "int8" else 1e-12  # of the longest score; dense rows
    longest = learnability * np.linalg.norm(mean)
    assert (np.abs(result.score - learnability * (unit @ mean)) <= rounding * longest).all()
    np.testing.assert_allclose(result.alignment, unit @ mean / np.linalg.norm(mean), rtol=0, atol=rounding)
    assert not result.score[:30].any()
    assert result.alignment[:30].all()


@pytest.mark.parametrize(("dtype", "rounding"), [("int8", 1e-10), ("float16", 1e-13)])
def test_dense_rows_keep_the_promised_digits(dtype: str, rounding: float) -> None:
    """What the module's docstring says of d = 4,096: errors as shares of |z||m|, the longest score there could be."""
    rng = np.random.default_rng(9)
    phi = rng.standard_normal((300, 4096)) + 0.2 * rng.standard_normal(4096)
    rows = np.rint(phi * 25).clip(-127, 127).astype(np.int8) if dtype == "int8" else (phi / 64).astype(np.float16)
    learnability = rng.uniform(0, 0.25, 300)
    unit = rows / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    mean = learnability @ unit / 300
    found = score_shards([rows], learnability, pool_size=300)
    longest = learnability * np.linalg.norm(mean)
    assert (np.abs(found.score - learnability * (unit @ mean)) <= rounding * longest).all()
    np.testing.assert_allclose(found.alignment, unit @ mean / np.linalg.norm(mean), rtol=0, atol=rounding)


@pytest.mark.parametrize("path", SIMD)
def test_int8_scores_are_those_of_rounded_weights(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against Python's integers, which do not round: only the weights and the mean are, each by 2^-30 at most.

    Lengths differ a hundredfold, so that the unit of the weights changes within the block.
    """
    monkeypatch.setenv("LEARNALIGN_SIMD", path)
    rng = np.random.default_rng(6)
    rows = rng.integers(-128, 128, (300, 70)).astype(np.int8)
    rows[rng.random(300) < 0.5, 1:] = 0
    rows[:, 0] = 1
    learnability = rng.uniform(0, 0.25, 300)
    lengths = [math.sqrt(sum(x * x for x in row)) for row in rows.tolist()]
    weights = [Fraction(v) / Fraction(n) for v, n in zip(learnability.tolist(), lengths, strict=True)]
    mean = [sum(w * x for w, x in zip(weights, column, strict=True)) / 300 for column in rows.T.tolist()]
    expected = [
        w * sum(m * x for m, x in zip(mean, row, strict=True)) for w, row in zip(weights, rows.tolist(), strict=True)
    ]
    found = score_shards([rows], learnability, pool_size=300).score
    largest = max(map(abs, mean))
    for i in range(300):
        ones = sum(map(abs, rows[i].tolist()))
        bound = weights[i] * ones * (largest + sum(map(abs, weights)) * 128 / 300) / 2**30
        assert abs(Fraction(float(found[i])) - expected[i]) <= bound


def test_extreme_int8_sums_do_not_overflow() -> None:
    rng = np.random.default_rng(6)
    rows = rng.integers(-128, 128, (256, 300)).astype(np.int8)
    learnability = rng.uniform(0, 0.25, 256)
    one = score_shards([rows], learnability, pool_size=256)
    for magnitude in (2.0**-400, 2.0**300):  # powers of two change no digit
        scaled = score_shards([rows], learnability * magnitude, pool_size=256)
        np.testing.assert_allclose(scaled.alignment, one.alignment, rtol=1e-12)
    extreme = np.full((600, 20_000), -128, np.int8)  # the largest sums that 32-bit digits must hold
    same = score_shards([extreme], np.full(600, 0.25), pool_size=600)
    np.testing.assert_allclose(same.score, 0.0625, rtol=1e-9)
    np.testing.assert_allclose(same.alignment, 1.0, rtol=1e-12)


def test_alignment_is_a_cosine() -> None:
    phi = np.array([[3.0, 0.0], [1e-3, 0.0], [-5.0, 0.0], [0.0, 1.0], [0.0, 0.0]], np.float32)
    result = score_shards([phi], np.array([0.25, 0.25, 0.1, 0.0, 0.25]), pool_size=5)
    assert np.array_equal(result.alignment, [1.0, 1.0, -1.0, 0.0, 0.0])
    assert result.score[4] == 0.0
    assert result.score[2] < 0.0


# --- a known sum, a target, a device


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "float64"])
def test_a_known_sum_saves_the_first_pass(dtype: str) -> None:
    rng = np.random.default_rng(8)
    rows = rng.integers(-127, 128, (700, 90)).astype(dtype)
    rows[9] = 0
    learnability = rng.uniform(0, 0.25, 700)
    unit = rows / np.maximum(np.linalg.norm(rows.astype(float), axis=1, keepdims=True), 1.0)
    whole = score_shards([rows], learnability, pool_size=800)
    known = score_shards([rows[:5], rows[5:]], learnability, pool_size=800, total=learnability @ unit, threads=2)
    np.testing.assert_allclose(known.score, whole.score, rtol=0, atol=1e-8 * np.abs(whole.score).max())
    np.testing.assert_allclose(known.alignment, whole.alignment, rtol=0, atol=1e-8)
    with pytest.raises(ArrayError, match=r"total.*shape \[90\], found \[89\]"):
        score_shards([rows], learnability, pool_size=800, total=np.ones(89))
    with pytest.raises(ArrayError, match="total must be finite, found nan in row 3"):
        score_shards([rows], learnability, pool_size=800, total=changed(np.ones(90), 3, np.nan))
    if dtype != "int8":
        with pytest.raises(ArrayError, match="NaN or infinity in row 11;"):
            score_shards([changed(rows, (11, 0), np.nan)], learnability, pool_size=800, total=np.ones(90))


def to_target(phi: np.ndarray, success_rate: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Mean cosine to the target's rows, times the learnability."""
    unit = phi / np.linalg.norm(phi, axis=1, keepdims=True)
    goal = target / np.linalg.norm(target, axis=1, keepdims=True)
    return success_rate * (1 - success_rate) * (unit @ goal.T).mean(axis=1)


def test_a_target_replaces_the_mean_of_the_pool() -> None:
    phi, success_rate = pool(300, 40)
    target = pool(7, 40, seed=1)[0]
    np.testing.assert_allclose(score(phi, success_rate, target=target), to_target(phi, success_rate, target), rtol=1e-9)
    for bad, line in [
        (target[:, :39], r"target must have shape \[M, 40\] with M > 0, found \[7, 39\]"),
        (target[:0], r"found \[0, 40\]"),
        (target[0], "target must have shape"),
        (np.zeros_like(target), "no prompt of the target set has a gradient"),
        (changed(target, (3, 3), np.nan), "target: .*row 3"),
    ]:
        with pytest.raises(ArrayError, match=line):
            score(phi, success_rate, target=bad)
    without = np.delete(target, 2, axis=0)  # a row without a direction is left out, as in a store of a target
    assert np.array_equal(
        score(phi, success_rate, target=changed(target, 2, 0.0)), score(phi, success_rate, target=without)
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("with_target", [False, True])
def test_the_torch_reference_gives_the_scores_of_the_core(
    dtype: str, with_target: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU device, in chunks; a GPU runs the same lines."""
    torch = pytest.importorskip("torch")
    from learnalign.scoring import gpu

    monkeypatch.setattr(gpu, "CHUNK_NUMBERS", 1000)
    phi, success_rate = pool(333, 40, dtype)
    success_rate[:5], phi[:3] = 1.0, 0.0
    target = pool(9, 40, dtype, seed=1)[0] if with_target else None
    values = success_rate * (1 - success_rate)
    found = gpu.score_tensor(torch.from_numpy(phi), values, None if target is None else torch.from_numpy(target))
    expected = score(phi, success_rate, target=target)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert not found[:5].any()


def test_the_torch_reference_refuses_what_the_core_refuses() -> None:
    torch = pytest.importorskip("torch")
    from learnalign.scoring.gpu import score_tensor

    phi = pool(60, 12)[0]
    values = np.full(60, 0.25)
    for bad, target, line in [
        (changed(phi, (41, 3), np.nan), None, "NaN or infinity in row 41;"),
        (changed(phi, (9, 0), np.inf), None, "in row 9;"),
        (changed(phi, slice(10, 20), 0.0), None, r"all zeros. in row 10, 11, 12, 13, 14, ... \(10 rows\);"),
        (phi[0], None, r"phi must have shape \[N, d\]"),
        (phi.astype(int), None, "floating point or int8, found torch.int64"),
        (phi, np.zeros((2, 12)), "no prompt of the target set has a gradient"),
        (phi, phi[:, :5], r"target must have shape \[M, 12\]"),
    ]:
        with pytest.raises(ArrayError, match=line):
            score_tensor(torch.from_numpy(bad), values, target)
    assert score_tensor(torch.empty(0, 12), np.empty(0)).shape == (0,)


def test_a_tensor_of_another_device_goes_to_the_torch_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from learnalign.scoring import cpu

    phi, p = pool(20, 6)
    monkeypatch.setattr(cpu, "_on_accelerator", lambda _: True)
    np.testing.assert_allclose(score(torch.from_numpy(phi), p), definition(phi, p), rtol=1e-9)
    with pytest.raises(ArrayError, match="lie in"):
        score(torch.from_numpy(phi), p + 1)


# --- what comes in


def test_arrays_of_many_kinds_are_taken() -> None:
    phi, success_rate = pool(40, 12)
    expected = score(phi, success_rate)
    big_endian = phi.astype(">f8")
    unaligned = np.frombuffer(b"x" + phi.tobytes(), np.uint8)[1:].view(phi.dtype).reshape(phi.shape)
    for same in (np.asfortranarray(phi), np.repeat(phi, 2, axis=0)[::2], big_endian, phi.tolist(), unaligned):
        assert np.array_equal(score(same, success_rate), expected)
    assert np.array_equal(score(phi, success_rate.tolist()), expected)
    assert np.array_equal(score(phi, np.ones(40, bool)), np.zeros(40))


def test_tensors_are_taken_without_importing_torch() -> None:
    torch = pytest.importorskip("torch")
    phi, success_rate = pool(40, 12)
    expected = score(phi, success_rate)
    tensor = torch.tensor(phi, requires_grad=True)
    assert np.array_equal(score(tensor, torch.tensor(success_rate)), expected)
    half = torch.tensor(phi, dtype=torch.float16)
    assert np.array_equal(score(half, success_rate), score(phi.astype(np.float16), success_rate))
    with pytest.raises(ArrayError, match=r"bfloat16.*pass phi\.float\(\)"):
        score(torch.tensor(phi, dtype=torch.bfloat16), success_rate)
    for tensor, line in [
        (torch.tensor(phi).to_sparse(), r"phi is a sparse_coo tensor: pass phi\.to_dense\(\)"),
        (torch.tensor(phi).to(torch.float8_e4m3fn), r"phi is float8_e4m3fn, which NumPy does not have"),
        (np.ma.masked_less(phi, 0), r"phi is a masked array: pass phi\.filled"),
    ]:
        with pytest.raises(ArrayError, match=line):
            score(tensor, success_rate)
        with pytest.raises(ArrayError, match=line.replace("phi", "target")):
            score(phi, success_rate, target=tensor)
    rate = torch.tensor(success_rate, requires_grad=True)
    assert np.array_equal(score(phi, rate), expected)
    assert select(phi, rate, 3, response_length=rate, strategy="length").indices.max() < 40
    with pytest.raises(ArrayError, match=r"success_rate is a masked array"):
        score(phi, np.ma.masked_less(success_rate, 0.5))
    with pytest.raises(ArrayError, match=r"must be on the CPU, found it on meta"):
        score(torch.empty(3, 3, device="meta"), success_rate)
    code = (
        "import sys, numpy, learnalign.scoring as s; s.score(numpy.ones((2, 2)), numpy.ones(2));"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def changed(array: np.ndarray, where: Any, value: float) -> np.ndarray:
    copy = array.copy()
    copy[where] = value
    return copy


def test_bad_arrays_are_refused_with_their_rows() -> None:
    phi, p = pool(600, 20)
    p[:] = 0.5
    for bad_phi, bad_p, line in [
        (changed(phi, (np.array([3, 299, 400]), 7), np.nan), p, "NaN or infinity in row 3, 299, 400;"),
        (changed(phi, (9, 19), -np.inf), p, "in row 9;"),
        (changed(phi, (9, 19), np.nan), changed(p, 9, 1.0), "in row 9;"),
        (changed(phi, slice(10, 20), np.nan), p, r"in row 10, 11, 12, 13, 14, ... \(10 rows\);"),
        (changed(phi, slice(300, 302), 0.0), p, "all zeros, though 0 < success rate < 1. in row 300, 301;"),
        (phi, changed(p, slice(5, 7), 1.5), r"lie in \[0, 1\], found 1.5 in row 5, 1.5 in row 6"),
        (phi, changed(p, 8, -1e-9), "-1e-09 in row 8"),
        (phi, changed(p, 8, np.nan), "nan in row 8"),
        (phi, p[:599], r"shape \[600\], found \[599\]"),
        (phi, p[:, None], r"found \[600, 1\]"),
        (phi, p.astype(str), "real numbers"),
        (phi[0], p, r"shape \[N, d\].*found \[20\]"),
        (phi.astype(int), p, "float16, float32, float64 or int8, found int64"),
        (phi.astype(np.longdouble), p, "found float128|found longdouble"),
        ([[1.0], [1.0, 2.0]], p[:2], "array of numbers"),
    ]:
        with pytest.raises(ArrayError, match=line) as refusal:
            score(bad_phi, bad_p)
        assert "\n" not in str(refusal.value)
    for dtype in (np.float16, np.float32):
        with pytest.raises(ArrayError, match="in row 41;"):
            score(changed(phi, (41, 0), np.inf).astype(dtype), p)


def test_bad_shards_are_refused() -> None:
    phi, _ = pool(10, 6, np.float32)
    v = np.full(10, 0.1)
    ones = np.ones(10, np.float32)
    for shards, learnability, options, line in [
        ([phi], v, {"pool_size": 9}, "at least the number of rows .10., found 9"),
        ([phi], v[:9], {"pool_size": 10}, r"learnability.*shape \[10\], found \[9\]"),
        ([phi], -v, {"pool_size": 10}, "learnability must be finite and >= 0, found -0.1 in row 0"),
        ([phi], v * np.nan, {"pool_size": 10}, "found nan in row 0"),
        ([phi[:5], phi[5:, :5]], v, {"pool_size": 10}, "shard 1 differs from shard 0"),
        ([phi[:5], phi[5:].astype(np.float64)], v, {"pool_size": 10}, "shard 1 differs from shard 0"),
        ([phi[0]], v, {"pool_size": 10}, r"shard 0 must have shape \[rows, d\]"),
        ([phi.astype(np.int32)], v, {"pool_size": 10}, "int8, float16, float32 or float64"),
        ([phi], v, {"pool_size": 10, "scale": -ones}, "scale must be finite and >= 0"),
        ([phi], v, {"pool_size": 10, "scale": ones[:3]}, r"scale.*shape \[10\]"),
        ([phi], v, {"pool_size": 10, "threads": -1}, "threads must be 0"),
        ([changed(phi, (4, 4), np.nan)], v, {"pool_size": 10}, "in row 4;"),
    ]:
        with pytest.raises(ArrayError, match=line):
            score_shards(shards, learnability, **options)  # type: ignore[arg-type]


def test_the_simd_override_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNALIGN_SIMD", "mmx")
    with pytest.raises(ConfigError, match='must be portable, avx2 or avx512, found "mmx"'):
        score(np.ones((1, 1)), np.ones(1))


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32])
@pytest.mark.parametrize("sum_known", [False, True])
def test_ctrl_c_stops_a_long_call_and_other_threads_run(dtype: Any, sum_known: bool) -> None:
    """The timer's thread needs the interpreter lock to send the signal while the scorer works."""
    d = 16_000 // np.dtype(dtype).itemsize
    shards = [np.ones((1000, d), dtype)] * 4000  # 64 GB to go through: some seconds on any machine
    learnability = np.full(4_000_000, 0.25)
    total = np.ones(d) if sum_known else None
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.process_time())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        score_shards(shards, learnability, pool_size=4_000_000, total=total, threads=1)
    assert time.process_time() - sent[0] < 0.5  # of processor time: a busy machine does not count
