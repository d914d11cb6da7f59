"""The kernels that score int8 rows on a GPU, against float64; interpreted where there is no GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from learnalign.scoring import gpu, score

pytest.importorskip("triton", reason="needs Triton (pip install triton)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # conftest turns the interpreter on where there is no GPU

from learnalign.kernels import score_triton  # noqa: E402  (needs Triton)

TOLERANCE = 1e-6
"""Of |q||m|, or of sum_i V_i: some roundings of float32."""
SHAPES = [(1, 1), (1, 16), (7, 40), (64, 128), (33, 300), (5, 1 << 14)]


def problem(rows: int, dimension: int) -> tuple[Tensor, Tensor]:
    """int8 rows that lean to one side, some of them zero, and learnabilities, some of them zero."""
    rng = np.random.default_rng([rows, dimension])
    lean = 40 * rng.standard_normal(dimension)
    found = np.rint(40 * rng.standard_normal((rows, dimension)) + lean).clip(-127, 127).astype(np.int8)
    found[4::9] = 0
    return torch.from_numpy(found), torch.from_numpy(rng.integers(0, 5, rows) / 20)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("programs", [2, score_triton.PROGRAMS])
def test_both_passes_are_those_of_float64(
    shape: tuple[int, int], programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged blocks, one program for many of them, zero rows, lengths that are no power of two."""
    monkeypatch.setattr(score_triton, "PROGRAMS", programs)
    monkeypatch.setattr(score_triton, "BLOCK_NUMBERS", 1 << 10)
    rows, values = problem(*shape)
    wide = rows.double()
    norms = wide.norm(dim=1)
    truth = torch.where(norms > 0, values / norms, 0.0) @ wide
    found, total = score_triton.norms_and_sum(rows.to(DEVICE), values.float().to(DEVICE))
    assert ((found.cpu().double() - norms).abs() <= TOLERANCE * norms).all()
    assert (total.cpu() - truth).abs().max() <= TOLERANCE * values.sum()
    vector = torch.linspace(-1, 1, shape[1]).float()
    found = score_triton.dots(rows.to(DEVICE), vector.to(DEVICE)).cpu().double()
    assert ((found - wide @ vector.double()).abs() <= TOLERANCE * norms * vector.double().norm()).all()


def test_rows_need_not_lie_side_by_side() -> None:
    rows, values = problem(20, 48)
    rows[(rows == 0).all(dim=1)] = 1
    wider = torch.full((20, 64), 99, dtype=torch.int8)
    wider[:, :48] = rows
    view = wider.to(DEVICE)[:, :48]
    for found, expected in zip(
        score_triton.norms_and_sum(view, values.float().to(DEVICE)),
        score_triton.norms_and_sum(rows.to(DEVICE), values.float().to(DEVICE)),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_no_rows_are_no_error() -> None:
    rows = torch.empty(0, 32, dtype=torch.int8, device=DEVICE)
    norms, total = score_triton.norms_and_sum(rows, torch.empty(0, device=DEVICE))
    assert norms.shape == (0,)
    assert torch.equal(total.cpu(), torch.zeros(32, dtype=torch.float64))
    assert score_triton.dots(rows, torch.ones(32, device=DEVICE)).shape == (0,)


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("kernels", [False, True])
def test_int8_rows_score_as_the_core_scores_them(
    kernels: bool, with_target: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through `score_tensor`, in plain torch and by the kernels; the core scores the same integers as float64."""
    if kernels:
        monkeypatch.setattr(gpu, "backend", lambda rows: "triton")
    rows, values = problem(90, 72)
    values[(rows == 0).all(dim=1)] = 0.0
    p = (1 + np.sqrt(1 - 4 * values.numpy())) / 2
    target = rows[10:13].clone() if with_target else None
    found = gpu.score_tensor(rows.to(DEVICE), values.numpy(), target)
    expected = score(rows.double().numpy(), p, target=None if target is None else target.double().numpy())
    tolerance = TOLERANCE if kernels or DEVICE == "cuda" else 1e-12
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert not found[values.numpy() == 0].any()
    empty = (rows == 0).all(dim=1).numpy()
    assert empty.any()
    assert not gpu.score_tensor(rows.to(DEVICE), np.full(90, 0.25))[empty].any(), "a store's prompt without a gradient"


def test_only_int8_rows_of_a_gpu_have_kernels() -> None:
    for rows in (torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.int8)):
        assert gpu.backend(rows) == "torch"
    if DEVICE == "cuda":
        assert gpu.backend(torch.zeros(2, 8, dtype=torch.int8, device=DEVICE)) == "triton"
        assert gpu.backend(torch.zeros(2, 2**15, dtype=torch.int8, device=DEVICE)) == "torch"
