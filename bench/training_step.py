"""A plain training step, the floor of what a gradient costs: batched forward and backward with weight gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from learnalign.gradient.batching import Batch
from learnalign.gradient.head import whole_log_probabilities


@contextmanager
def trainable(model: Any) -> Iterator[None]:
    """Weights with gradients, which are gone afterwards."""
    model.requires_grad_(True)
    try:
        yield
    finally:
        model.requires_grad_(False)
        model.zero_grad(set_to_none=True)


def floor(model: Any, batch: Batch) -> None:
    """Forward and backward with weight gradients, as one training step has them."""
    with trainable(model):
        torch.autograd.backward(loss(model, batch))


def loss(model: Any, batch: Batch) -> Tensor:
    """sum_t c_t log pi_t."""
    found = whole_log_probabilities(model, batch, 1.0)
    return (found * batch.coefficients.to(found.dtype)).sum()
