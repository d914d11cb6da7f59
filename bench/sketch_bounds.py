"""What the products of a pass allow: the seconds of the floor, and how far above it any implementation can come.

Operations are counted, nothing is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from learnalign.gradient import Group


def least_seconds(model: Any, groups: Sequence[Group], flops: float) -> float:
    """What the products of the floor take at the rate of the ceiling."""
    linear = {name: m.weight.numel() for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    head = linear.pop("lm_head")
    responses = sum(len(y) for g in groups for y in g.responses)
    tokens = responses + sum(len(g.prompt) * len(g.responses) for g in groups)
    return 6.0 * (sum(linear.values()) * tokens + head * responses) / flops


def bounds(model: Any, groups: Sequence[Group]) -> dict[str, float]:
    """What no implementation beats by much, from the products alone: 2 operations a weight and token of the forward
    pass, 2 of the backward pass, 2 of the weight gradients (of which rank 128 makes hardly any).

    Shared: a prompt's tokens once a group. Skipping: half of the prompts, against logits at every position.
    """
    linear = {name: m.weight.numel() for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    head = linear.pop("lm_head")
    layers = sum(linear.values())
    responses = sum(len(y) for g in groups for y in g.responses)
    prompts = sum(len(g.prompt) for g in groups)
    apart = layers * (responses + sum(len(g.prompt) * len(g.responses) for g in groups))
    shared = layers * (responses + prompts) + head * responses
    return {
        "exact": 1.0,
        "rank 128": 1.5,
        "sharing": (apart + head * responses) / shared,
        "skipping over per module": 2.0 * apart * (1 + head / layers) / shared,
    }
