"""Runs the model on a batch: hidden states or logits where response tokens are predicted, and nowhere else.

This module does not hook layers or form the loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from learnalign.errors import PolicyError
from learnalign.gradient.batching import Batch
from learnalign.gradient.layers import head_of
from learnalign.gradient.lent import in_place_of


def response_logits(model: Any, batch: Batch, embedded: list[Tensor] | None = None) -> Tensor:
    """Logits [N, vocabulary] that predict the batch's response tokens, in the model's dtype.

    The head sees response positions only: no logits for prompt tokens and padding. embedded: takes the embedded
    tokens, from which the gradient starts.
    """
    seen: list[int] = []

    def only_responses(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen.append(1)
        return (inputs[0].flatten(0, -2)[batch.predictors][None],)

    handle = head_of(model).register_forward_pre_hook(only_responses)
    try:
        logits = _run(model, batch, embedded)
    finally:
        handle.remove()
    return logits.squeeze(0) if seen else logits.flatten(0, -2)[batch.predictors]


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """What the vocabulary head would be given where response tokens are predicted, [N, D]; the head does not run."""
    seen: list[Tensor] = []

    def keep(inputs: Tensor) -> Tensor:
        seen.append(inputs.flatten(0, -2)[batch.predictors])
        return inputs.new_zeros(1, 1, 1)

    with in_place_of(head_of(model), keep):
        _run(model, batch)
    return seen[0]


def with_head_products(model: Any, batch: Batch, products: Tensor) -> Tensor:
    """The logits that the model makes where its head returns `products` [n], whatever the batch is."""
    with in_place_of(head_of(model), lambda inputs: products[None, None]):
        return _run(model, batch).flatten()


def _run(model: Any, batch: Batch, embedded: list[Tensor] | None = None) -> Tensor:
    """The model's logits, with a start for autograd although every weight is frozen.

    The gradient starts behind the embedding, in a copy that the model may write to.
    """
    mask = batch.attention_mask
    more: dict[str, Any] = {}
    if batch.position_ids is not None:
        # Added to attention scores, as every implementation takes it; a boolean mask is not for all.
        dtype = model_dtype(model)
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
        more["position_ids"] = batch.position_ids
    if takes(model, "use_cache"):
        more["use_cache"] = False

    def start(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        leaf = output.detach()
        if not torch.is_grad_enabled():
            return leaf
        leaf.requires_grad_(True)
        if embedded is not None:
            embedded.append(leaf)
        return leaf.clone()

    handle = model.get_input_embeddings().register_forward_hook(start)
    try:
        output = model(input_ids=batch.input_ids, attention_mask=mask, **more)
    finally:
        handle.remove()
    logits: Tensor = output.logits
    return logits


def takes(model: Any, name: str) -> bool:
    """Whether the model's forward takes an argument."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(type(inner).forward).parameters
    return name in known or any(p.kind is p.VAR_KEYWORD for p in known.values())


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
    with ExitStack() as stack:
        for block in blocks:
            run = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
            stack.enter_context(in_place_of(block, run))
        yield
