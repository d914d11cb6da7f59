"""Finds out with forward passes of a dozen tokens what a model honors, instead of believing its name.

Which layers are really called, and through which of them gradients flow; whether expert layers compute what the
hooks make of them; whether a tree attention mask with restarted positions gives the outputs of separate sequences.
This module does not change the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learnalign.gradient.batching import Batch, Costs, pack
from learnalign.gradient.forward import model_dtype, response_logits
from learnalign.gradient.groups import Weighted
from learnalign.gradient.hooks import Hooks, Target
from learnalign.gradient.layers import Layer

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Of the difference that a wrong computation would make; half precision is allowed `HALF_TOLERANCE`."""
HALF_TOLERANCE = 0.2
ATTENTION_SHARE = 2.0
"""Assumed: a multiply-add in attention takes twice as long as one in a linear layer (softmax, smaller products)."""


@dataclass(frozen=True)
class ProbeResult:
    """layers: those that can be sketched. costs: of sharing prompts. unshared: why prompts are not shared, or ''."""

    layers: list[Layer]
    costs: Costs
    unshared: str


def sample(model: Any) -> Weighted:
    """One prompt of three tokens with two responses."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = [(7 * i + 1) % vocabulary for i in range(10)]
    responses = [tokens[3:7], tokens[7:]]
    zeros = [np.zeros(len(r)) for r in responses]
    return Weighted(tokens[:3], responses, zeros, zeros)


def examine(model: Any, hooks: Hooks, share: bool) -> ProbeResult:
    """Probe the model on `sample`."""
    group = sample(model)
    plain = pack([group], 1, model.get_input_embeddings().weight.device)
    with torch.no_grad():
        truth = response_logits(model, plain)
    reached, logits = _reached(model, hooks, plain)
    if _differ(logits, truth):  # expert layers of a kind that only looks like the known one
        hooks = replace(hooks, layers=[layer for layer in hooks.layers if layer.kind != "experts"])
        reached, _ = _reached(model, hooks, plain)
    layers = [layer for layer in hooks.layers if layer.name in reached]
    unshared = _static_obstacle(model) if share else "switched off"
    if not unshared:
        unshared = _broken_tree(model, group, truth)
    return ProbeResult(layers, _costs(model, layers, not unshared), unshared)


def _reached(model: Any, hooks: Hooks, batch: Batch) -> tuple[set[str], Tensor]:
    """Names of the layers whose outputs gradients can flow through, and the hooked model's outputs."""
    phi = torch.zeros(1, 128, device=batch.input_ids.device)
    target = Target(phi, batch.token_offsets, batch.target_offsets)
    with torch.enable_grad(), hooks.on(target):
        logits = response_logits(model, batch).detach()
    return target.reached, logits


def _differ(logits: Tensor, truth: Tensor) -> bool:
    """Whether outputs differ by more than rounding; False where they are not finite."""
    error, scale = (logits - truth).norm(), truth.norm()
    return bool(error > TOLERANCE.get(truth.dtype, HALF_TOLERANCE) * scale)


def _static_obstacle(model: Any) -> str:
    """Why a tree mask cannot even be tried, or ''."""
    config = getattr(model, "config", None)
    if config is None:
        return "the model has no configuration to read its attention from"
    kind = getattr(config, "_attn_implementation", "eager")
    if kind not in ("eager", "sdpa"):
        return f"attention implementation {kind!r} takes no mask of its own (load the model with sdpa)"
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return f"{type(base).__name__} takes no position_ids"
    return ""


def _broken_tree(model: Any, group: Weighted, truth: Tensor) -> str:
    """Why the tree mask is not used, or '': the packed outputs against those of separate sequences.

    The yardstick is what the outputs would be if the mask and the positions were ignored.
    """
    tree = pack([group], 2, truth.device)
    ignored = replace(tree, attention_mask=torch.ones_like(tree.input_ids), position_ids=None)
    with torch.no_grad():
        error = (response_logits(model, tree) - truth).norm()
        leak = (response_logits(model, ignored) - truth).norm()
    if error <= TOLERANCE.get(model_dtype(model), HALF_TOLERANCE) * leak:
        return ""
    return f"{type(model).__name__} does not honor a 4-D attention mask with position_ids"


def _costs(model: Any, layers: Sequence[Layer], share: bool) -> Costs:
    """Multiply-adds of one token in the blocks' layers, and of one pair of tokens in attention."""
    if not share:
        return Costs()
    config = model.config.get_text_config()
    head = {id(m) for m in model.get_output_embeddings().modules()}
    used = getattr(config, "num_experts_per_tok", None) or 1
    weights = 0.0
    for layer in layers:
        if id(layer.module) not in head:
            active = used / layer.parameters[0].shape[0] if layer.kind == "experts" else 1.0
            weights += active * sum(p.numel() for p in layer.parameters)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = 2.0 * config.num_hidden_layers * config.num_attention_heads * width
    return Costs(True, weights, ATTENTION_SHARE * pairs, _window(config))


def _window(config: Any) -> int:
    """The shortest attention window of any layer, 0 where all layers see everything.

    Within a window a sliding layer sees what a full one sees; beyond it the tree mask would have to know.
    """
    kinds = set(getattr(config, "layer_types", None) or ("sliding_attention", "chunked_attention"))
    sizes = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    windows = [getattr(config, name, None) for kind, name in sizes.items() if kind in kinds]
    return min((int(w) for w in windows if w), default=0)
