"""What a model does to the products of its vocabulary head, found by probing it, so that the head can run in blocks.

A head that is a plain linear layer, followed by nothing but a scale or a soft cap, is taken out of the model's own
forward pass: `learnalign.kernels.logprob` runs it a block of tokens at a time, and the logits of a whole batch never
exist. Any other head (with a bias, with adapters of its own, quantized) stays in the model, and the reason is kept.
This module does not take gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from learnalign.gradient.batching import Batch
from learnalign.gradient.forward import hidden_states, response_logits, with_head_products
from learnalign.gradient.layers import head_of
from learnalign.kernels.logprob import LogitShape, log_probabilities

HEAD_BYTES = 1 << 30
GPU_HEAD_BYTES = 4 << 30
GPU_SHARE = 16
"""Bounds on the logits, and deltas, that exist at once; on a GPU at most one part in so many of its memory."""
SMALL, LARGE = 1e-6, 1e6
"""Where a soft cap is still linear, to float64's last digits, and where it has saturated."""
SHAPE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class VocabularyHead:
    """A model's head. shape: None where the model runs it whole; `whole` then says why, and is empty otherwise."""

    model: Any
    temperature: float
    shape: LogitShape | None
    whole: str

    @property
    def module(self) -> Any:
        """The head itself."""
        return head_of(self.model)

    @torch.no_grad()
    def log_probabilities(self, batch: Batch) -> Tensor:
        """log pi of the batch's response tokens, float32 or float64 [N]."""
        if self.shape is None:
            return whole_log_probabilities(self.model, batch, self.temperature)
        hidden = hidden_states(self.model, batch)
        found: Tensor = log_probabilities(
            hidden, self.module.weight, batch.targets, memory_bytes=head_bytes(hidden.device), shape=self.shape
        )
        return found


def head_bytes(device: torch.device) -> int:
    """What logits and deltas may take on a device: of its whole memory, so that blocks are the same every time."""
    if device.type != "cuda":
        return HEAD_BYTES
    return min(GPU_HEAD_BYTES, torch.cuda.get_device_properties(device).total_memory // GPU_SHARE)


def find_head(model: Any, probe: Batch, temperature: float, whole: str = "") -> VocabularyHead:
    """How the head of a model can be run. probe: a batch of few tokens. whole: why not in blocks, if that is known."""
    whole = whole or _obstacle(model, probe)
    scale, cap = (1.0, None) if whole else _scale_and_cap(model, probe)
    if scale is None:
        whole = "what the model does to its logits is neither a scale nor a soft cap"
    shape = None if whole or scale is None else LogitShape(scale, cap, temperature)
    return VocabularyHead(model, temperature, shape, whole)


def whole_log_probabilities(model: Any, batch: Batch, temperature: float) -> Tensor:
    """log pi of the response tokens [N] by way of all their logits, differentiable."""
    logits = response_logits(model, batch)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logits = logits.to(wide) / temperature
    return logits.gather(1, batch.targets[:, None]).squeeze(1) - logits.logsumexp(1)


@torch.no_grad()
def _obstacle(model: Any, probe: Batch) -> str:
    """Why the head cannot run in blocks, or ''."""
    head = head_of(model)
    if type(head).forward is not nn.Linear.forward or "forward" in vars(head):
        return f"the vocabulary head is a {type(head).__name__}, not a plain torch.nn.Linear"
    if head.bias is not None:
        return "the vocabulary head has a bias"
    dtype = hidden_states(model, probe).dtype
    if dtype != head.weight.dtype:
        return f"the vocabulary head is {head.weight.dtype}, its inputs are {dtype}"
    return ""


@torch.no_grad()
def _scale_and_cap(model: Any, probe: Batch) -> tuple[float | None, float | None]:
    """s and cap of cap tanh(s z / cap), or of s z, from what the model makes of chosen products z.

    (None, None) where it is neither.
    """
    head = head_of(model)
    z = torch.cat(
        [torch.linspace(-60.0, 60.0, 41, dtype=torch.float64), torch.tensor([SMALL, LARGE], dtype=torch.float64)]
    )
    z = z.to(head.weight.device)
    found = with_head_products(model, probe, z).double()
    scale, top = (found[-2] / SMALL).item(), found[-1].item()
    cap = None if abs(top - scale * LARGE) <= SHAPE_TOLERANCE * abs(top) else top
    right = scale * z if cap is None else cap * torch.tanh(scale * z / cap)
    if not torch.allclose(found, right, rtol=SHAPE_TOLERANCE, atol=SHAPE_TOLERANCE):
        return None, None
    return scale, cap
