"""Rank-k hooks: projected on both sides as defined, unbiased, linear, and exact where a side is not wider than k."""

from __future__ import annotations

import zlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from gradient_oracle import SEED, D, random_groups, tiny
from learnalign.kernels.fold import fold_matrices
from learnalign.kernels.signs import signs
from torch import nn

from learnalign.config import SketchConfig
from learnalign.gradient import Sketcher
from learnalign.gradient.hooks import Hooks, Target
from learnalign.gradient.layers import find_layers, keys_of

OFFSETS = [0, 4, 4, 9]


class OneLayer(nn.Module):
    """A linear layer between fixed inputs and fixed output gradients."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.layer = nn.Linear(inputs, outputs, bias=False).double().requires_grad_(False)
        self.x = torch.randn(9, inputs, generator=generator, dtype=torch.float64, requires_grad=True)
        self.delta = torch.randn(9, outputs, generator=generator, dtype=torch.float64)
        # Three segments that share a direction, so that inner products between prompts are not near 0.
        with torch.no_grad():
            self.x[4:] += self.x[:1]
            self.delta[4:] += self.delta[:1]

    def gradients(self) -> torch.Tensor:
        spans = pairwise(OFFSETS)
        return torch.stack([self.delta[a:b].T @ self.x.detach()[a:b] for a, b in spans])

    def sketch(self, seed: int, rank: int | None, dimension: int = 512, scale: float = 1.0) -> torch.Tensor:
        layers = find_layers(self)
        phi = torch.zeros(3, dimension, dtype=torch.float64)
        with Hooks(layers, nn.Identity(), keys_of(layers), seed, rank).on(Target(phi, OFFSETS, [])):
            (self.layer(self.x) * self.delta * scale).sum().backward()
        return phi


@pytest.mark.parametrize("rank", [None, 1, 5, 8, 200])
@pytest.mark.parametrize("shape", [(20, 30), (150, 6), (3, 140)])
def test_tap_is_its_definition(shape: tuple[int, int], rank: int | None) -> None:
    model = OneLayer(*shape)
    (key,) = keys_of(find_layers(model)).values()
    matrix = model.gradients()
    for side, axis in (("in", 2), ("out", 1)):
        width = matrix.shape[axis]
        if rank is not None and rank < width:
            own = zlib.crc32(f"{key:08x}/{side}".encode())
            p = signs(SEED, own, torch.arange(width), rank)[:, :rank].double() / rank**0.5
            matrix = (matrix.transpose(axis, 2) @ p).transpose(axis, 2)
    phi = torch.zeros(3, 512, dtype=torch.float64)
    fold_matrices(phi, matrix.contiguous(), layer=key, seed=SEED)
    np.testing.assert_allclose(model.sketch(SEED, rank), phi, rtol=0, atol=1e-11)
    assert not model.sketch(SEED, rank)[1].any(), "the empty segment"


@pytest.mark.parametrize("rank", [None, 3])
def test_inner_products_are_unbiased_over_seeds(rank: int | None) -> None:
    model = OneLayer(20, 12)
    gradients = model.gradients().flatten(1)
    truth = (gradients[0] @ gradients[2]).item()
    samples = []
    for seed in range(250):
        phi = model.sketch(seed, rank, dimension=128)
        samples.append((phi[0] @ phi[2]).item())
    error = np.std(samples) / len(samples) ** 0.5
    assert abs(np.mean(samples) - truth) < 4 * error
    assert error < 0.25 * abs(truth), "the test can tell a bias from noise"


def test_projections_are_linear() -> None:
    model = OneLayer(20, 30)
    np.testing.assert_allclose(model.sketch(3, 4, scale=-2.5), -2.5 * model.sketch(3, 4), rtol=0, atol=1e-12)


def test_rank_of_the_widest_layer_is_exact_and_smaller_ranks_are_not() -> None:
    model, groups = tiny("gpt2"), random_groups(2)
    exact = Sketcher(model, SketchConfig(dimension=D, seed=SEED)).sketch(groups)
    wide = Sketcher(model, SketchConfig(dimension=D, seed=SEED, rank=128)).sketch(groups)
    np.testing.assert_allclose(wide, exact, rtol=0, atol=1e-12)
    narrow = Sketcher(model, SketchConfig(dimension=D, seed=SEED, rank=16)).sketch(groups)
    assert np.linalg.norm(narrow - exact) > 0.1 * np.linalg.norm(exact)
    again = np.concatenate(
        [Sketcher(model, SketchConfig(dimension=D, seed=SEED, rank=16)).sketch([g]) for g in groups[::-1]]
    )
    np.testing.assert_allclose(again[::-1], narrow, rtol=0, atol=1e-12 * np.abs(narrow).max())
