"""The policy model; no other package imports transformers' loaders.

checkpoint  what lies in a policy's folder beside the weights
ends        the tokens that end a response
renderer    text to token ids and back
weights     a checkpoint's weights, whole or not at all
model       the policy, and generation token by token
identity    the digest of the weights
warmup      a short GRPO training before anything is measured (extra `train`)
"""

from __future__ import annotations

from learnalign.policy.checkpoint import adapter_base, tokenizer_source
from learnalign.policy.identity import policy_digest
from learnalign.policy.model import Policy, load_policy, load_trainable, pick_device
from learnalign.policy.renderer import Renderer, load_renderer

__all__ = [
    "Policy",
    "Renderer",
    "adapter_base",
    "load_policy",
    "load_renderer",
    "load_trainable",
    "pick_device",
    "policy_digest",
    "tokenizer_source",
]
