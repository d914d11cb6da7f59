"""What a model must honor, found by changing tokens and looking whose logits move.

Causality: a token changes nothing before it. Rows: one changes nothing in another. Branches of a tree: with a 4-D
mask and restarted positions, each gives what it gives alone, one has no gradient at another's tokens, and does not
move with them. A model that carries a state along a row (convolutions, linear attention) is found by the gradient, in
every precision, and by what it does at the length that is really used one with a window that its configuration does
not name in any known way.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learnalign.errors import PolicyError
from learnalign.gradient.batching import Batch, pack
from learnalign.gradient.forward import model_dtype, response_logits
from learnalign.gradient.groups import Weighted
from learnalign.gradient.lent import lent

MOVED = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Relative change of logits that is rounding: other tokens may change the order of additions in experts."""
HALF_MOVED = 0.05
PADDED = {torch.float64: 1e-5, torch.float32: 1e-3}
"""The same of a row beside shorter ones: other shapes, other roundings; in half precision experts may change over."""
HALF_PADDED = 0.3
PUT = {torch.float64: 1e-12, torch.float32: 3e-7}
"""The same for branches; exactly nothing in half precision, where a hybrid with small weights moves by .005."""
ROUNDINGS = 4.0
"""Experts round otherwise with every other token that they are given: up to so many times what separate rows do."""
TREE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Relative error of a tree's logits against those of separate rows that is rounding."""
HALF_TREE = 0.2
"""The same in half precision, of what the error would be if mask and positions were ignored."""
WIDE_WEIGHTS = 1 << 28
"""Models of at most so many weights are probed in float32 as well."""


def sample(model: Any, prompt: int = 3, first: int = 4, second: int = 3, shift: int = 1) -> Weighted:
    """A prompt with two responses of so many tokens, with coefficients that do not cancel."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = [(7 * i + shift) % vocabulary for i in range(prompt + first + second)]
    responses = [tokens[prompt : prompt + first], tokens[prompt + first :]]
    coefficients = [np.linspace(0.5, 1.0, first), np.linspace(-0.3, -0.8, second)]
    return Weighted(tokens[:prompt], responses, coefficients, [np.zeros(first), np.zeros(second)])


def other(token: int, vocabulary: int) -> int:
    """Another token."""
    return (token + vocabulary // 2 + 1) % vocabulary if vocabulary > 2 else 1 - token


@torch.no_grad()
def check_rows(model: Any, parts: Sequence[Weighted]) -> bool:
    """Whether a token of one prompt moves another prompt's logits in the same batch.

    Raises `PolicyError` where a row is not causal, with padding or without (some models are causal by the mask that
    padding brings and only by that), or where shorter rows beside it change it. The last row is the longest.
    """
    lone, batch = parts[-1].part(slice(len(parts[-1].responses) - 1, None)), pack(parts, 1)
    alone, change, where = _changed(model, [lone])
    _check_causal(model, change[:where], change[where])
    beside, change, where = _changed(model, parts)
    if _differ(model, alone, beside):  # perhaps by the other prompt, which can be kept out
        own = parts[-1:]
        by = _differ(model, alone, _logits(model, pack(own, 1, beside.device)))
        if by:
            raise PolicyError(
                f"{type(model).__name__} makes something else of a row beside shorter ones ({by:.2g} of its "
                "logits): padding must change nothing"
            )
    return _others_moved(model, batch, change, where)


@torch.no_grad()
def mixes_rows(model: Any, parts: Sequence[Weighted]) -> bool:
    """Whether a token in the middle of the last row moves the logits of another row.

    Raises `PolicyError` where it moves those before it in its own row.
    """
    _, change, where = _changed(model, parts)
    return _others_moved(model, pack(parts, 1), change, where)


def _others_moved(model: Any, batch: Batch, change: Tensor, where: int) -> bool:
    length = batch.input_ids.shape[1]
    first = where // length * length
    _check_causal(model, change[first:where], change[where])
    others = change[:first][batch.attention_mask.flatten()[:first].bool()]
    return bool((others > _rounding(model) * change[where]).any())


def _differ(model: Any, alone: Tensor, beside: Tensor) -> float:
    """Relative difference of a row's logits to the last row of a batch; 0 where it is rounding."""
    difference = float((alone - beside[-len(alone) :]).double().norm() / alone.double().norm())
    return difference if difference > PADDED.get(model_dtype(model), HALF_PADDED) else 0.0


def _logits(model: Any, batch: Batch) -> Tensor:
    """Logits at every position of the batch, [rows * length, vocabulary]."""
    everywhere = torch.arange(batch.input_ids.numel(), device=batch.input_ids.device)
    return response_logits(model, replace(batch, predictors=everywhere))


def _changed(model: Any, parts: Sequence[Weighted]) -> tuple[Tensor, Tensor, int]:
    """Logits at every position, how far each moves with the last token of the last row's prompt, and where that is."""
    weight = model.get_input_embeddings().weight
    batch = pack(parts, 1, weight.device)
    where = int(batch.predictors[-len(parts[-1].responses[-1])])
    ids = batch.input_ids.clone()
    ids.view(-1)[where] = other(int(ids.view(-1)[where]), weight.shape[0])
    logits = _logits(model, batch)
    return logits, (logits - _logits(model, replace(batch, input_ids=ids))).double().norm(dim=1), where


def _check_causal(model: Any, before: Tensor, own: Tensor) -> None:
    moved = float(before.max() / own)
    if moved > _rounding(model):
        raise PolicyError(
            f"{type(model).__name__} is not causal: a token moves earlier logits by {moved:.2g} of what it moves "
            "its own: load it as a decoder (is_decoder=True, no bidirectional attention)"
        )


def _rounding(model: Any) -> float:
    return MOVED.get(model_dtype(model), HALF_MOVED)


def _moved(one: Tensor, two: Tensor, rows: Tensor) -> float:
    """Relative change of some rows of logits; 0 where they are not finite."""
    change = float((one[rows] - two[rows]).double().norm() / one[rows].double().norm())
    return change if np.isfinite(change) else 0.0


def static_obstacle(model: Any) -> str:
    """Why a tree mask cannot even be tried, or ''."""
    config = getattr(model, "config", None)
    if config is None:
        return "the model has no configuration to read its attention from"
    kind = getattr(config, "_attn_implementation", "eager")
    if kind not in ("eager", "sdpa"):
        return f"attention implementation {kind!r} takes no mask of its own (load the model with sdpa)"
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" not in inspect.signature(type(base).forward).parameters:
        return f"{type(base).__name__} takes no position_ids"
    return ""


def broken_tree(model: Any, prompt: int = 3) -> str:
    """Why the tree mask is not used with prompts of so many tokens, or ''. In float32 as well where that fits.

    Whatever goes wrong on the way is a reason too.
    """
    try:
        with lent(model):
            reason = _broken(model, prompt)
            wide = None if reason else _widened(model)
        if wide is not None:
            reason = _broken(wide, prompt)
    except Exception as error:
        return (
            f"a tree attention mask fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
    return reason


def _widened(model: Any) -> Any:
    """A float32 copy of a half-precision model, or None."""
    half = model_dtype(model) in (torch.bfloat16, torch.float16)
    if not half or sum(weight.numel() for weight in model.parameters()) > WIDE_WEIGHTS:
        return None
    return copy.deepcopy(model).float()


@torch.no_grad()
def _broken(model: Any, prompt: int) -> str:
    group = sample(model, prompt)
    device = model.get_input_embeddings().weight.device
    rows, tree = pack([group], 1, device), pack([group], 2, device)
    truth, found = response_logits(model, rows), response_logits(model, tree)
    allowed = TREE.get(model_dtype(model), 0.0) * truth.norm()
    if model_dtype(model) not in TREE:
        ignored = replace(tree, attention_mask=torch.ones_like(tree.input_ids), position_ids=None)
        allowed = HALF_TREE * (response_logits(model, ignored) - truth).norm()
    if (found - truth).norm() > allowed:  # not so where they are not finite
        return f"{type(model).__name__} does not honor a 4-D attention mask with position_ids" + _at(group)
    first = torch.arange(len(truth), device=device) < len(group.responses[0])
    branch = torch.arange(tree.input_ids.shape[1], device=device) >= len(group.prompt) + len(group.responses[0]) - 1
    if not _at(group) and _reached(model, tree, first, branch):
        return f"{type(model).__name__} lets one branch of a tree reach another"
    moved = _moved(found, response_logits(model, _other_tokens(model, tree, branch)), first)
    if moved > PUT.get(model_dtype(model), 0.0):
        row = torch.arange(rows.input_ids.shape[1], device=device) >= len(group.prompt)
        beside = _moved(truth, response_logits(model, _other_tokens(model, rows, row)), first)
        if moved > ROUNDINGS * beside:
            return f"{type(model).__name__} lets one branch of a tree move another (by {moved:.2g})" + _at(group)
    return ""


@torch.enable_grad()
def _reached(model: Any, tree: Batch, first: Tensor, branch: Tensor) -> bool:
    """Whether logits `first` [N] have any gradient at the embedded tokens `branch` [length] of another branch."""
    embedded: list[Tensor] = []
    logits = response_logits(model, tree, embedded)[first].flatten()
    mixed = (logits * torch.arange(len(logits), device=logits.device).cos().to(logits.dtype)).sum()
    (gradient,) = torch.autograd.grad(mixed, embedded[:1], allow_unused=True)
    return gradient is not None and bool((gradient[:, branch] != 0).any())


def _at(group: Weighted) -> str:
    return f" at {len(group.prompt) + len(group.responses[0])} tokens" if len(group.prompt) > 3 else ""


def _other_tokens(model: Any, batch: Batch, where: Tensor) -> Batch:
    """The same batch with other tokens at the positions `where` [length] of its last row."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = batch.input_ids.clone()
    for at in where.nonzero().flatten().tolist():
        ids[-1, at] = other(int(ids[-1, at]), vocabulary)
    return replace(batch, input_ids=ids)
