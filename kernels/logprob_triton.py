"""GPU kernels of the vocabulary head: softmax rows to deltas, and log-probabilities without any logits in memory.

`rows_to_delta_triton` is the elementwise middle of `logprob.head_pass` (the products around it are cuBLAS's);
`log_probabilities_triton` is for callers that need no gradient. Neither handles float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from learnalign.kernels.logprob import KLTerm, LogitShape
from torch import Tensor

ROW_BLOCK = 4096
"""Logits of a row that a program takes at a time."""
SPLITS = 8
"""Parts of the vocabulary that have programs of their own."""
TILES: dict[torch.dtype, dict[str, int]] = {
    torch.bfloat16: {"BLOCK_T": 128, "BLOCK_V": 128, "BLOCK_D": 64, "num_warps": 8, "num_stages": 3},
    torch.float16: {"BLOCK_T": 128, "BLOCK_V": 128, "BLOCK_D": 64, "num_warps": 8, "num_stages": 3},
    torch.float32: {"BLOCK_T": 64, "BLOCK_V": 64, "BLOCK_D": 32, "num_warps": 4, "num_stages": 2},
}
LOWEST = tl.constexpr(-1.0e30)
"""Below every logit, and finite: minus infinity less itself would be no number."""


@triton.jit
def logit(z, inner, outer, CAPPED: tl.constexpr):
    """cap tanh(scale z / cap) / temperature as outer * tanh(inner * z); without a cap outer * z."""
    if CAPPED:
        return outer * (1.0 - 2.0 / (tl.exp(2.0 * inner * z) + 1.0))
    return outer * z


@triton.jit(do_not_specialize=["inner", "outer"])
def delta_rows(delta, log_probabilities, products, targets, coefficients, kl_weights, kl_reference,
               vocabulary, inner, outer,
               CAPPED: tl.constexpr, PULLED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One token a program: the row's softmax, then delta [b, V] from products float32 [b, V], both contiguous.

    With PULLED the coefficient gains the KL term, which needs the softmax's result and nothing else.
    """
    token = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    row = products + token * vocabulary
    top = tl.full((BLOCK,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, vocabulary, BLOCK):
        there = first + lanes < vocabulary
        z = tl.load(row + first + lanes, mask=there, other=0.0)
        logits = tl.where(there, logit(z, inner, outer, CAPPED), LOWEST)
        higher = tl.maximum(top, logits)
        total = total * tl.exp(top - higher) + tl.where(there, tl.exp(logits - higher), 0.0)
        top = higher
    highest = tl.max(top, axis=0)
    log_total = tl.log(tl.sum(total * tl.exp(top - highest), axis=0)) + highest
    target, c = tl.load(targets + token), tl.load(coefficients + token)
    log_p = logit(tl.load(row + target), inner, outer, CAPPED) - log_total
    tl.store(log_probabilities + token, log_p)
    if PULLED:
        c += tl.load(kl_weights + token) * (tl.exp(tl.load(kl_reference + token) - log_p) - 1.0)
    for first in range(0, vocabulary, BLOCK):
        there = first + lanes < vocabulary
        logits = logit(tl.load(row + first + lanes, mask=there, other=0.0), inner, outer, CAPPED)
        value = c * (tl.where(first + lanes == target, 1.0, 0.0) - tl.exp(logits - log_total))
        if CAPPED:
            value *= outer * inner * (1.0 - (logits / outer) * (logits / outer))
        else:
            value *= outer
        tl.store(delta + token * vocabulary + first + lanes, value.to(delta.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["inner", "outer"])
def logsumexp_tiles(top_parts, total_parts, target_logits, hidden, weight, targets, tokens, vocabulary, width,
                    hidden_stride, weight_stride, split_tiles, inner, outer,
                    CAPPED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
                    WIDEN: tl.constexpr):  # fmt: skip
    """Running maximum and sum of one block of tokens over one part of the vocabulary: float32 [splits, T] each."""
    split = tl.program_id(1)
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    known = token < tokens
    target = tl.load(targets + token, mask=known, other=-1)
    left_rows = hidden + token.to(tl.int64)[:, None] * hidden_stride
    top = tl.full((BLOCK_T,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    for tile in range(split * split_tiles, min((split + 1) * split_tiles, tl.cdiv(vocabulary, BLOCK_V))):
        word = tile * BLOCK_V + tl.arange(0, BLOCK_V)
        right_rows = weight + word.to(tl.int64)[:, None] * weight_stride
        z = tl.zeros((BLOCK_T, BLOCK_V), tl.float32)
        for first in range(0, width, BLOCK_D):
            depth = first + tl.arange(0, BLOCK_D)
            inside = (depth < width)[None, :]
            left = tl.load(left_rows + depth[None, :], mask=known[:, None] & inside, other=0.0)
            right = tl.load(right_rows + depth[None, :], mask=(word < vocabulary)[:, None] & inside, other=0.0)
            if WIDEN:
                left, right = left.to(tl.float32), right.to(tl.float32)
            z = tl.dot(left, tl.trans(right), z, input_precision="ieee")
        logits = tl.where((word < vocabulary)[None, :], logit(z, inner, outer, CAPPED), LOWEST)
        higher = tl.maximum(top, tl.max(logits, axis=1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(logits - higher[:, None]), axis=1)
        top = higher
        is_target = word[None, :] == target[:, None]
        found = tl.max(tl.where(is_target, 1, 0), axis=1) > 0  # in one tile only: no two programs write one token
        tl.store(target_logits + token, tl.sum(tl.where(is_target, logits, 0.0), axis=1), mask=known & found)
    tl.store(top_parts + split.to(tl.int64) * tokens + token, top, mask=known)
    tl.store(total_parts + split.to(tl.int64) * tokens + token, total, mask=known)


INTERPRETED = not isinstance(delta_rows, triton.JITFunction)


def factors(shape: LogitShape) -> tuple[float, float]:
    """What `logit` takes as inner and outer factor."""
    if shape.cap is None:
        return 1.0, shape.scale / shape.temperature
    return shape.scale / shape.cap, shape.cap / shape.temperature


def rows_to_delta_triton(
    products: Tensor,
    targets: Tensor,
    coefficients: Tensor,
    shape: LogitShape,
    kl: KLTerm | None = None,
    *,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Delta [b, V] in `dtype` and log p [b] from z float32 [b, V]; in place where dtype is float32.

    coefficients and the tensors of kl: float32 [b].
    """
    delta = products if dtype == torch.float32 else torch.empty_like(products, dtype=dtype)
    log_probabilities = torch.empty_like(coefficients)
    inner, outer = factors(shape)
    if not len(products):
        return delta, log_probabilities
    with torch.cuda.device_of(products):  # Triton launches on the current device, whatever the tensors say
        delta_rows[(len(products),)](
            *(delta, log_probabilities, products, targets, coefficients),
            *((kl.weights, kl.reference) if kl else (coefficients, coefficients)),
            *(products.shape[1], inner, outer),
            CAPPED=shape.cap is not None,
            PULLED=kl is not None,
            BLOCK=ROW_BLOCK,
            num_warps=8,
        )
    return delta, log_probabilities


def log_probabilities_triton(hidden: Tensor, weight: Tensor, targets: Tensor, shape: LogitShape) -> Tensor:
    """log p, float32 [T], of targets int64 [T] from hidden [T, D] and weight [V, D], both with contiguous rows.

    No logits in device memory: every program keeps its tile's running maximum and sum.
    """
    tokens, vocabulary = len(hidden), len(weight)
    settings = TILES[hidden.dtype]
    top = torch.empty(SPLITS, tokens, device=hidden.device)
    total, target_logits = torch.empty_like(top), torch.empty(tokens, device=hidden.device)
    inner, outer = factors(shape)
    if tokens == 0:
        return target_logits
    with torch.cuda.device_of(hidden):
        logsumexp_tiles[(triton.cdiv(tokens, settings["BLOCK_T"]), SPLITS)](
            *(top, total, target_logits, hidden, weight, targets, tokens, vocabulary, hidden.shape[1]),
            *(hidden.stride(0), weight.stride(0)),
            *(triton.cdiv(triton.cdiv(vocabulary, settings["BLOCK_V"]), SPLITS), inner, outer),
            CAPPED=shape.cap is not None,
            WIDEN=INTERPRETED,
            **settings,
        )
    highest = top.amax(0)
    return target_logits - highest - (total * (top - highest).exp()).sum(0).log()
