"""A process that flushes subnormal numbers to zero gets the bits of one that does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learnalign.kernels.fold import fold_segments
from store_samples import IDENTITY, SIMD, files

from learnalign import score
from learnalign._core import simd
from learnalign.scoring import mean_direction, score_shards
from learnalign.selection import select
from learnalign.store import SketchWriter


@contextmanager
def flushing() -> Iterator[None]:
    assert torch.set_flush_denormal(True), "this processor can"
    try:
        assert np.float64(5e-324) * np.ones(1) == 0.0, "subnormal numbers are zeros now"
        yield
        assert np.float64(5e-324) * np.ones(1) == 0.0, "and still are: the setting is the process's own"
    finally:
        torch.set_flush_denormal(False)


def same_bits(run: Callable[[], Any]) -> None:
    expected = run()
    with flushing():
        found = run()
    assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()
    assert np.count_nonzero(expected)


def rows_of(dtype: str, dimension: int = 8192) -> np.ndarray:
    """Unit rows, whose small entries are subnormal halves; float64 rows below the normal range as a whole."""
    phi = np.random.default_rng(3).standard_normal((40, dimension)) + 0.1
    phi /= np.linalg.norm(phi, axis=1, keepdims=True)
    phi[0] *= 1e-4  # of float16 nothing but subnormal numbers
    return phi.astype(dtype) if dtype != "float64" else phi * 1e-305


@pytest.mark.parametrize("path", SIMD)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_scores(dtype: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNALIGN_SIMD", path)
    assert simd() == path
    phi, rate = rows_of(dtype), np.full(40, 0.5)
    same_bits(lambda: score(phi, rate))
    same_bits(lambda: score(phi, rate, target=phi[:3]))
    same_bits(lambda: score_shards([phi], rate / 4, pool_size=50, threads=1).alignment)
    same_bits(lambda: mean_direction([phi[:1]]))


def test_tiny_rates_and_picks() -> None:
    phi, rate = rows_of("float64", 64), np.full(40, 1e-160)  # scores are products of two
    same_bits(lambda: score(phi, rate))
    same_bits(lambda: select(phi, rate, 20).indices)
    same_bits(lambda: select(phi, np.full(40, 0.5), 20, strategy="greedy").indices)
    same_bits(lambda: select(phi, np.full(40, 0.5), 20, duplicate_cosine=0.05).indices)


def test_stores_have_the_same_bytes(tmp_path: Path) -> None:
    phi = rows_of("float32")
    phi[1] *= 1e-38  # subnormal, all of it
    for dtype in ("float16", "float32", "int8"):
        _write(tmp_path / "a" / dtype, dtype, phi)
        with flushing():
            _write(tmp_path / "b" / dtype, dtype, phi)
        assert files(tmp_path / "a" / dtype) == files(tmp_path / "b" / dtype)


def _write(directory: Path, dtype: str, phi: np.ndarray) -> None:
    with SketchWriter(directory, dimension=phi.shape[1], dtype=dtype, identity=IDENTITY) as writer:
        writer.append([str(i) for i in range(len(phi))], np.linspace(0.1, 0.9, len(phi)), phi)


def test_folds() -> None:
    """Adding nothing leaves subnormal sums as they are. (What torch multiplies is torch's.)"""
    sums = torch.from_numpy(np.full((1, 1024), 1e-39, np.float32))
    before = sums.numpy().tobytes()
    with flushing():
        fold_segments(sums, torch.zeros(4, 256), torch.ones(4, 300), [0, 4], layer=0, seed=1)
    assert sums.numpy().tobytes() == before
