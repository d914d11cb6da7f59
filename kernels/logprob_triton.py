"""GPU kernels of the vocabulary head: rows of its products to log-probabilities, and to deltas.

They are the elementwise middle of `logprob.head_pass` and of `logprob.log_probabilities`; the products around them are
cuBLAS's. A target outside of the vocabulary reads nothing and gives NaN. Nothing here handles float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from learnalign.kernels.logprob import KLTerm, LogitShape
from torch import Tensor

ROW_BLOCK = 4096
"""Logits of a row that a program takes at a time."""
LOWEST = tl.constexpr(-1.0e30)
"""Below every logit, and finite: minus infinity less itself would be no number."""


@triton.jit
def logit(z, inner, outer, CAPPED: tl.constexpr):
    """cap tanh(scale z / cap) / temperature as outer * tanh(inner * z); without a cap outer * z."""
    if CAPPED:
        return outer * (1.0 - 2.0 / (tl.exp(2.0 * inner * z) + 1.0))
    return outer * z


@triton.jit
def log_softmax_at(row, target, vocabulary, inner, outer, CAPPED: tl.constexpr, BLOCK: tl.constexpr):
    """log p of the target, and logsumexp of the row, in one pass with one exponential a logit."""
    lanes = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, vocabulary, BLOCK):
        there = first + lanes < vocabulary
        logits = logit(tl.load(row + first + lanes, mask=there, other=0.0), inner, outer, CAPPED)
        above = logits - top
        shrunk = tl.exp(-tl.abs(above))  # of the two exponentials of an online softmax the other one is 1
        total = tl.where(there, tl.where(above > 0.0, total * shrunk + 1.0, total + shrunk), total)
        top = tl.where(there, tl.maximum(top, logits), top)
    highest = tl.max(top, axis=0)
    log_total = tl.log(tl.sum(total * tl.exp(top - highest), axis=0)) + highest
    known = (target >= 0) & (target < vocabulary)
    picked = tl.load(row + target, mask=known, other=float("nan"))
    return logit(picked, inner, outer, CAPPED) - log_total, log_total


@triton.jit(do_not_specialize=["inner", "outer"])
def log_probability_rows(log_probabilities, products, targets, vocabulary, inner, outer,
                         CAPPED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One token a program: log p from products float32 [b, V], contiguous."""
    token = tl.program_id(0).to(tl.int64)
    log_p, _ = log_softmax_at(products + token * vocabulary, tl.load(targets + token), vocabulary, inner, outer,
                              CAPPED, BLOCK)  # fmt: skip
    tl.store(log_probabilities + token, log_p)


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
    target, c = tl.load(targets + token), tl.load(coefficients + token)
    log_p, log_total = log_softmax_at(row, target, vocabulary, inner, outer, CAPPED, BLOCK)
    tl.store(log_probabilities + token, log_p)
    if PULLED:
        c += tl.load(kl_weights + token) * (tl.exp(tl.load(kl_reference + token) - log_p) - 1.0)
    c = tl.where((target >= 0) & (target < vocabulary), c, float("nan"))
    for first in range(0, vocabulary, BLOCK):
        there = first + lanes < vocabulary
        logits = logit(tl.load(row + first + lanes, mask=there, other=0.0), inner, outer, CAPPED)
        value = c * (tl.where(first + lanes == target, 1.0, 0.0) - tl.exp(logits - log_total))
        if CAPPED:
            value *= outer * inner * (1.0 - (logits / outer) * (logits / outer))
        else:
            value *= outer
        tl.store(delta + token * vocabulary + first + lanes, value.to(delta.dtype.element_ty), mask=there)


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


def rows_to_log_probabilities_triton(products: Tensor, targets: Tensor, shape: LogitShape) -> Tensor:
    """log p [b] of targets int64 [b] from z float32 [b, V], which stays as it is."""
    log_probabilities = torch.empty(len(products), dtype=torch.float32, device=products.device)
    inner, outer = factors(shape)
    if len(products):
        with torch.cuda.device_of(products):
            log_probability_rows[(len(products),)](
                *(log_probabilities, products, targets, products.shape[1], inner, outer),
                CAPPED=shape.cap is not None,
                BLOCK=ROW_BLOCK,
                num_warps=8,
            )
    return log_probabilities
