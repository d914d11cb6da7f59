"""Runs the model on a batch: hidden states or logits where response tokens are predicted, and nowhere else.

This module does not hook layers or form the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from learnalign.errors import PolicyError
from learnalign.gradient.batching import Batch


def response_logits(model: Any, batch: Batch) -> Tensor:
    """Logits [N, vocabulary] that predict the batch's response tokens, in the model's dtype.

    The head sees response positions only: no logits for prompt tokens and padding.
    """
    head = model.get_output_embeddings()

    def only_responses(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (inputs[0].flatten(0, -2)[batch.predictors][None],)

    handle = head.register_forward_pre_hook(only_responses)
    try:
        return _run(model, batch).squeeze(0)
    finally:
        handle.remove()


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """What the vocabulary head would be given where response tokens are predicted, [N, D]; the head does not run."""
    seen: list[Tensor] = []

    def keep(inputs: Tensor) -> Tensor:
        seen.append(inputs.flatten(0, -2)[batch.predictors])
        return inputs.new_zeros(1, 1, 1)

    with _in_place_of_head(model, keep):
        _run(model, batch)
    return seen[0]


def with_head_products(model: Any, batch: Batch, products: Tensor) -> Tensor:
    """The logits that the model makes where its head returns `products` [n], whatever the batch is."""
    with _in_place_of_head(model, lambda inputs: products[None, None]):
        return _run(model, batch).flatten()


@contextmanager
def _in_place_of_head(model: Any, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    head = model.get_output_embeddings()
    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def _run(model: Any, batch: Batch) -> Tensor:
    """The model's logits, with a start for autograd although every weight is frozen."""
    mask = batch.attention_mask
    more = {}
    if batch.position_ids is not None:
        # Added to attention scores, as every implementation takes it; a boolean mask is not for all.
        dtype = model_dtype(model)
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
        more["position_ids"] = batch.position_ids
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: output.requires_grad_(torch.is_grad_enabled())
    )
    try:
        output = model(input_ids=batch.input_ids, attention_mask=mask, use_cache=False, **more)
    finally:
        handle.remove()
    logits: Tensor = output.logits
    return logits


def model_dtype(model: Any) -> torch.dtype:
    """The dtype in which the model computes: that of its embedding table."""
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Activation checkpointing of every block, also in evaluation mode, until the context ends.

    transformers' own switch works in training mode only, which would turn dropout on. Raises `PolicyError` where
    the model's blocks cannot be found.
    """
    blocks: list[Any] = [
        m for m in model.modules() if any(c.__name__ == "GradientCheckpointingLayer" for c in type(m).__mro__)
    ]
    if not blocks:
        raise PolicyError(f"{type(model).__name__} has no blocks for activation checkpointing: leave it off")
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
