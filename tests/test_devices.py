"""A GPU makes the sketches that a CPU makes. Needs a GPU; the kernels themselves are tested without one elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gradient_oracle import SEED, D, random_groups, tiny

from learnalign.config import SketchConfig
from learnalign.gradient import Sketcher

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU: needs a GPU"),
]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Of the norm: rounding of the inputs' type through a few layers."""


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_sketches_agree(kind: str, rank: int | None, dtype: torch.dtype) -> None:
    groups = random_groups(5, seed=7)
    truth = Sketcher(tiny(kind), SketchConfig(dimension=D, seed=SEED, rank=rank or 0)).sketch(groups)
    found = Sketcher(tiny(kind).to("cuda", dtype), SketchConfig(dimension=D, seed=SEED, rank=rank or 0)).sketch(groups)
    assert found.dtype == np.float32
    errors = np.linalg.norm(found - truth, axis=1) / np.linalg.norm(truth, axis=1)
    assert errors.max() < TOLERANCE[dtype]


def test_the_same_batch_gives_the_same_bits() -> None:
    groups = random_groups(5, seed=7)
    sketcher = Sketcher(tiny().to("cuda", torch.bfloat16), SketchConfig(dimension=D, seed=SEED))
    first = sketcher.sketch(groups)
    assert all(np.array_equal(first, sketcher.sketch(groups)) for _ in range(5))
