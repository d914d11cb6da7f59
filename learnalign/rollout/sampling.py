"""Reproducible draws: response r of prompt i is the same in any batch, on any resume.

Token t of a response is drawn by inverting the cumulative distribution at a number u_t in [0, 1) that depends
on (run seed, prompt id, response number, t) and nothing else. Two runs differ only where rounding in the model
itself moves a probability across u_t. This module knows no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def uniforms(seed: int, prompt_id: str, response: int, count: int) -> np.ndarray:
    """The response's numbers u_0 ... u_(count-1), float64 in [0, 1), from Philox keyed by a hash of the three."""
    text = f"{seed}\0{prompt_id}\0{response}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def request_seed(seed: int, prompt_id: str) -> int:
    """Seed below 2^62 of a prompt's response 0 for engines that draw themselves; response r takes this plus r."""
    digest = hashlib.blake2b(f"{seed}\0{prompt_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


class Sampler:
    """Chooses tokens of a batch for `Policy.generate` and keeps their log-probabilities.

    draws: [B, most new tokens], one row of `uniforms` a sequence. temperature: divides the logits.
    """

    def __init__(self, draws: Sequence[np.ndarray], temperature: float) -> None:
        self.draws = torch.from_numpy(np.stack(draws))
        self.temperature = temperature
        self.steps: list[Tensor] = []

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Logits that are 0 for the token drawn and -inf elsewhere. ids: [B, t]; logits: [B, V]."""
        log_probabilities = (logits.float() / self.temperature).log_softmax(-1)
        cumulative = log_probabilities.double().exp().cumsum(-1)
        u = self.draws[:, len(self.steps)].to(logits.device)[:, None] * cumulative[:, -1:]
        # Strictly above u, so that a token of probability zero is never drawn, not even at u = 0.
        token = torch.searchsorted(cumulative, u, right=True).clamp_(max=logits.shape[-1] - 1)
        self.steps.append(log_probabilities.gather(1, token).squeeze(1))
        return torch.full_like(logits, -torch.inf).scatter_(1, token, 0.0)

    def log_probabilities(self) -> Tensor:
        """float32 [B, steps taken], of every token drawn; meaningless after a sequence's end."""
        return torch.stack(self.steps, dim=1).cpu()
