"""The policy model; no other package imports transformers' loaders.

renderer   text to token ids and back
model      weights, and generation token by token
identity   the digest of the weights
warmup     a short GRPO training before anything is measured (extra `train`)
"""

from __future__ import annotations

from learnalign.policy.identity import policy_digest
from learnalign.policy.model import Policy, load_policy, load_trainable, pick_device
from learnalign.policy.renderer import Renderer, adapter_base, load_renderer

__all__ = [
    "Policy",
    "Renderer",
    "adapter_base",
    "load_policy",
    "load_renderer",
    "load_trainable",
    "pick_device",
    "policy_digest",
]
