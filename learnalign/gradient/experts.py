"""Stacked experts in the layouts that transformers 5 gives most of its mixtures, run expert by expert.

An expert's tokens keep their order, so that the tokens of one prompt stay together and several prompts can share a
pass. Whether a module that looks like one of these layouts computes the same is for the probe to find out; experts
of any other kind are seen by their products (see `products`). This module does not fold.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from learnalign.kernels.transfers import on_device

Hook = Callable[[str, int, Tensor, Tensor, Tensor, list[int]], Tensor]
"""(weight's name, expert, view [out, in], output, inputs, offsets) to the output."""


def stacked(module: Any) -> tuple[str, str] | None:
    """Names of the two stacks [E, out, in] (or transposed) of experts as transformers writes them, or None."""
    own = dict(module.named_parameters(recurse=False))
    names = ("gate_up_proj" if "gate_up_proj" in own else "up_proj", "down_proj")
    allowed = {*names, *(f"{name}_bias" for name in names)}
    if not set(names) <= set(own) or not set(own) <= allowed or any(own[name].ndim != 3 for name in names):
        return None
    if any(getattr(module, flag, False) for flag in ("has_post_expert_norm", "_is_expert_parallel")):
        return None
    gated = names[0] == "gate_up_proj"
    up, down = (_matrix(module, own[name], 0).shape for name in names)
    fits = up == ((2 if gated else 1) * down[1], down[0]) and own[names[0]].shape[0] == own[names[1]].shape[0]
    acts = hasattr(module, "_apply_gate") or hasattr(module, "act_fn")
    called = len(inspect.signature(type(module).forward).parameters) == 4 and hasattr(
        type(module).forward, "__wrapped__"
    )
    return names if fits and acts and called else None


def run(
    module: Any, names: tuple[str, str], hidden: Tensor, chosen: Tensor, weights: Tensor, offsets: list[int], hook: Hook
) -> Tensor:
    """What the experts make of hidden states [T, H]; chosen, weights: [T, k]. offsets: where prompts begin in T."""
    result = torch.zeros_like(hidden)
    stacks = {name: getattr(module, name) for name in names}  # once: adapters make them anew at every look
    every_token, every_slot, bounds = by_expert(chosen, len(stacks[names[0]]), offsets)
    for e, own in enumerate(bounds):
        first, last = own[0], own[-1]
        if first == last:
            continue
        tokens, slots, own = every_token[first:last], every_slot[first:last], [bound - first for bound in own]
        up = _apply(module, names[0], stacks, e, hidden[tokens], own, hook)
        down = _apply(module, names[1], stacks, e, _activated(module, names[0], up), own, hook)
        result = result.index_add(0, tokens, (down * weights[tokens, slots, None]).to(result.dtype))
    return result


def by_expert(chosen: Tensor, experts: int, offsets: list[int]) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Token and slot of every choice in chosen [T, k], expert after expert, each by rising token; and bounds.

    bounds: for every expert, where the tokens of each prompt begin and end among them. Choices of no expert
    (below 0, or above the last) lie outside of all bounds. The device is waited for once.
    """
    count, slots = chosen.shape
    expert, order = chosen.flatten().long().sort(stable=True)
    tokens = order // slots
    starts = on_device(tuple(offsets), chosen.device)
    edges = torch.arange(experts, device=chosen.device)[:, None] * count + starts
    bounds: list[list[int]] = torch.searchsorted(expert * count + tokens, edges).tolist()
    return tokens, order % slots, bounds


def _apply(
    module: Any, name: str, stacks: dict[str, Tensor], e: int, x: Tensor, offsets: list[int], hook: Hook
) -> Tensor:
    matrix = _matrix(module, stacks[name], e)
    bias = getattr(module, f"{name}_bias", None)
    output = nn.functional.linear(x, matrix, None if bias is None else bias[e])
    return hook(name, e, matrix, output, x, offsets)


def _matrix(module: Any, stack: Tensor, e: int) -> Tensor:
    return stack[e].mT if getattr(module, "is_transposed", False) else stack[e]


def _activated(module: Any, name: str, up: Tensor) -> Tensor:
    if name == "up_proj":
        result: Tensor = module.act_fn(up)
        return result
    if hasattr(module, "_apply_gate"):
        gated: Tensor = module._apply_gate(up)
        return gated
    gate, value = up.chunk(2, dim=-1)
    product: Tensor = module.act_fn(gate) * value
    return product
