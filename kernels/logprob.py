"""Token log-probabilities of a vocabulary head and their policy gradient, without [tokens, vocabulary] in memory.

For hidden states h_t, head weights W [V, D] and targets y_t, with z_tv = h_t . w_v,

    l_tv = cap tanh(scale z_tv / cap) / temperature        (without a cap: scale z_tv / temperature)
    log p_t = l_{t, y_t} - logsumexp_v l_tv
    L = sum_t c_t log p_t,  dL/dz_tv = delta_tv = c_t ([v = y_t] - softmax(l_t)_v) dl_tv/dz_tv

The coefficients c_t are known beforehand, or with a KL term from log p_t alone, so a block of tokens passes once:
product, softmax, delta, and at once delta W (the gradient to the hidden states) and what a caller makes of delta
(the fold of delta^T h, the head's weight gradient). Blocks of tokens and not of vocabulary, because the softmax of a
whole row needs no second product. Softmax and sums run in float32, or in float64 for float64 inputs. Nothing here
runs a model, and a bias of the head is not supported.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from learnalign.kernels.precision import plain_float32
from torch import Tensor

CACHED_ENTRIES = 1 << 18
"""Logits that plain torch turns into delta at a time: few enough to stay in the cache between its passes."""
WIDENED_ENTRIES = 1 << 20
"""Head weights that are widened at a time, where the processor has no products of narrow numbers."""

Consumer = Callable[[Tensor, int], None]
"""Called with delta [b, V] of tokens first to first + b, and first; delta's memory is used again afterwards."""


@dataclass(frozen=True)
class LogitShape:
    """What a model does to its head's products: Cohere and Granite scale them, Gemma 2 caps them."""

    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0


@dataclass(frozen=True)
class KLTerm:
    """The pull of a KL term towards a reference policy: c_t becomes c_t + b_t (pi_ref(y_t) / pi(y_t) - 1).

    That is the gradient of -b_t (pi_ref / pi - log(pi_ref / pi) - 1), GRPO's estimate of the divergence
    (DeepSeekMath, arXiv 2402.03300, equation 4).
    """

    weights: Tensor  # [T], b_t
    reference: Tensor  # [T], log pi_ref(y_t)

    def part(self, tokens: slice) -> KLTerm:
        """The same of some tokens."""
        return KLTerm(self.weights[tokens], self.reference[tokens])

    def to(self, dtype: torch.dtype) -> KLTerm:
        """The same in another dtype."""
        return KLTerm(self.weights.to(dtype), self.reference.to(dtype))

    def added(self, coefficients: Tensor, log_probabilities: Tensor) -> Tensor:
        """c_t + b_t (pi_ref / pi - 1)."""
        return coefficients + self.weights * torch.expm1(self.reference - log_probabilities)


@dataclass(frozen=True)
class HeadPass:
    """What one pass over the head gives; float32, or float64 for float64 inputs."""

    log_probabilities: Tensor  # [T]
    hidden_gradient: Tensor  # [T, D], dL/dh


def head_pass(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    coefficients: Tensor,
    *,
    memory_bytes: int,
    shape: LogitShape = LogitShape(),
    kl: KLTerm | None = None,
    consume: Consumer | None = None,
    borders: Sequence[int] = (),
) -> HeadPass:
    """Log-probabilities and the gradient of sum_t c_t log p_t, less the KL term, to the hidden states.

    hidden: [T, D], weight: [V, D], of one floating dtype. targets: int64 [T] in [0, V). coefficients: [T].
    memory_bytes: bound on the logits and deltas that exist at once; besides them there are the results and 4 MiB of
    widened weights. consume: takes delta, block by block. borders: rising token numbers at which blocks
    end if they can.
    Raises ValueError for shapes that do not fit, and where the bound is too small for a single token.
    """
    _check(hidden, weight, targets, coefficients)
    hidden, weight = hidden.detach(), weight.detach()
    wide = _wide(hidden)
    on_gpu = _has_kernels(hidden)
    kl = kl and kl.to(wide)
    narrow = hidden.dtype if on_gpu else wide  # of delta: the matrix units' type where there are some
    block = tokens_within(memory_bytes, weight.shape[0], wide.itemsize + (narrow != wide) * narrow.itemsize)
    log_probabilities = hidden.new_empty(len(hidden), dtype=wide)
    gradient = hidden.new_empty(hidden.shape, dtype=wide)

    def one_block(part: slice) -> None:  # a function, so that its logits are gone before the next block's are made
        products = head_products(hidden[part], weight, wide)
        arguments = (products, targets[part], coefficients[part].to(wide), shape, kl and kl.part(part))
        if on_gpu:
            from learnalign.kernels.logprob_triton import rows_to_delta_triton

            delta, log_probabilities[part] = rows_to_delta_triton(*arguments, dtype=narrow)
        else:
            delta, log_probabilities[part] = rows_to_delta(*arguments)
        gradient[part] = back_products(delta, weight, wide)
        if consume is not None:
            consume(delta, part.start)

    with plain_float32():
        for part in blocks(len(hidden), block, borders):
            one_block(part)
    return HeadPass(log_probabilities, gradient)


def log_probabilities(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, memory_bytes: int, shape: LogitShape = LogitShape()
) -> Tensor:
    """log p_t [T], float32 or float64, where no gradient is wanted; arguments and errors as for `head_pass`."""
    _check(hidden, weight, targets, targets)
    hidden, weight = hidden.detach(), weight.detach()
    wide, on_gpu = _wide(hidden), _has_kernels(hidden)
    block = tokens_within(memory_bytes, weight.shape[0], (1 if on_gpu else 2) * wide.itemsize)
    result = hidden.new_empty(len(hidden), dtype=wide)

    def one_block(part: slice) -> None:
        products = head_products(hidden[part], weight, wide)
        if on_gpu:
            from learnalign.kernels.logprob_triton import rows_to_log_probabilities_triton

            result[part] = rows_to_log_probabilities_triton(products, targets[part], shape)
        else:
            logits = shaped(products, shape)
            result[part] = logits.gather(1, targets[part, None]).squeeze(1) - logits.logsumexp(1)

    with plain_float32():
        for part in blocks(len(hidden), block):
            one_block(part)
    return result


def blocks(tokens: int, most: int, borders: Sequence[int] = ()) -> list[slice]:
    """Parts of at most `most` tokens; one ends at the last border within it, unless that halves it or worse."""
    found, first = [], 0
    while first < tokens:
        last = min(first + most, tokens)
        border = borders[k - 1] if last < tokens and (k := bisect_right(borders, last)) else last
        if 2 * (border - first) > most:
            last = border
        found.append(slice(first, last))
        first = last
    return found


def shaped(products: Tensor, shape: LogitShape) -> Tensor:
    """l from z, in place."""
    if shape.cap is None:
        return products.mul_(shape.scale / shape.temperature)
    return products.mul_(shape.scale / shape.cap).tanh_().mul_(shape.cap / shape.temperature)


def rows_to_delta(
    products: Tensor, targets: Tensor, coefficients: Tensor, shape: LogitShape, kl: KLTerm | None = None
) -> tuple[Tensor, Tensor]:
    """Turns z [b, V] into delta, in place. Returns delta and log p [b]. The reference of `rows_to_delta_triton`."""
    log_probabilities = products.new_empty(len(products))
    factor = shape.scale / shape.temperature
    step = max(1, CACHED_ENTRIES // products.shape[1])
    for first in range(0, len(products), step):
        part = slice(first, first + step)
        rows, target, c = products[part], targets[part, None], coefficients[part, None]
        slope = None
        if shape.cap is None:
            rows.mul_(factor)
        else:
            rows.mul_(shape.scale / shape.cap).tanh_()
            slope = 1 - rows.square()
            rows.mul_(shape.cap / shape.temperature)
        picked = rows.gather(1, target)
        top = rows.amax(1, keepdim=True)
        total = rows.sub_(top).exp_().sum(1, keepdim=True)
        log_p = picked - top - total.log()
        log_probabilities[part] = log_p.squeeze(1)
        if kl is not None:
            c = kl.part(part).added(c.squeeze(1), log_p.squeeze(1))[:, None]
        rows.mul_(-c / total)
        rows.scatter_add_(1, target, c)
        rows.mul_(factor if slope is None else slope.mul_(factor))
    return products, log_probabilities


def head_products(hidden: Tensor, weight: Tensor, wide: torch.dtype) -> Tensor:
    """hidden [b, D] times weight [V, D] transposed: z [b, V], summed and returned in `wide`."""
    if hidden.dtype == weight.dtype == wide:
        return hidden @ weight.T
    if hidden.device.type == "cuda":
        return torch.mm(hidden, weight.T, out_dtype=wide)
    result = hidden.new_empty(len(hidden), len(weight), dtype=wide)
    hidden = hidden.to(wide)
    for words in _slices(weight):
        torch.mm(hidden, weight[words].to(wide).T, out=result[:, words])
    return result


def back_products(delta: Tensor, weight: Tensor, wide: torch.dtype) -> Tensor:
    """delta [b, V] times weight [V, D]: [b, D], summed and returned in `wide`."""
    if delta.dtype == weight.dtype == wide:
        return delta @ weight
    if delta.device.type == "cuda":
        return torch.mm(delta, weight, out_dtype=wide)
    result = delta.new_zeros(len(delta), weight.shape[1], dtype=wide)
    for words in _slices(weight):
        result.addmm_(delta[:, words], weight[words].to(wide))
    return result


def _slices(weight: Tensor) -> list[slice]:
    """Parts of the vocabulary, so that there is never a widened copy of the whole head."""
    step = max(1, WIDENED_ENTRIES // max(1, weight.shape[1]))
    return [slice(first, first + step) for first in range(0, len(weight), step)]


def tokens_within(memory_bytes: int, vocabulary: int, entry_bytes: int) -> int:
    """Tokens whose logits and deltas fit into the bound."""
    tokens = memory_bytes // max(1, vocabulary * entry_bytes)
    if tokens < 1:
        needed = vocabulary * entry_bytes
        raise ValueError(f"one token's logits take {needed} bytes, memory_bytes is {memory_bytes}: raise it")
    return tokens


def _wide(hidden: Tensor) -> torch.dtype:
    """The dtype of sums and results."""
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _has_kernels(hidden: Tensor) -> bool:
    return hidden.device.type == "cuda" and hidden.dtype != torch.float64 and bool(find_spec("triton"))


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, coefficients: Tensor) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden [T, D] and weight [V, D] do not fit: {tuple(hidden.shape)}, {tuple(weight.shape)}")
    if hidden.dtype != weight.dtype or not hidden.dtype.is_floating_point:
        raise ValueError(f"hidden and weight must share a floating dtype, found {hidden.dtype}, {weight.dtype}")
    if targets.shape != hidden.shape[:1] or coefficients.shape != hidden.shape[:1]:
        raise ValueError(
            f"targets and coefficients must be [{len(hidden)}], "
            f"found {tuple(targets.shape)}, {tuple(coefficients.shape)}"
        )
