"""The policy's weights: loads the model, and generates token by token.

It does not decide which token is drawn (the sampler given to `generate` does), judge responses, or take gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from learnalign.config import PolicyConfig
from learnalign.errors import PolicyError
from learnalign.policy.checkpoint import adapter_base
from learnalign.policy.renderer import Renderer, load_renderer
from learnalign.policy.weights import load_weights


@dataclass(frozen=True, kw_only=True)
class Policy(Renderer):
    """A causal language model in evaluation mode, with its tokenizer."""

    model: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        copies: Sequence[int],
        max_new_tokens: int,
        choose: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Generate with a key-value cache until every sequence has ended; a prompt is computed once for its copies.

        prompts: token ids, left-padded here; copies: how many sequences go on from each, B in all. choose(ids
        [B, t], logits [B, V]) returns logits that are -inf but for the tokens it chose. Returns int64 [B, at most
        max_new_tokens], padded with `pad_id` after the end.
        """
        length = max(map(len, prompts))
        ids = torch.full((len(prompts), length), self.pad_id, device=self.device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = torch.tensor(prompt)
            mask[row, length - len(prompt) :] = 1
        rows = torch.repeat_interleave(torch.tensor(copies)).to(self.device)
        settings = plain_generation(self, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, use_cache=True)
        output = self.model.generate(  # type: ignore[operator]
            input_ids=ids[rows],
            attention_mask=mask[rows],
            past_key_values=self._prefill(ids[:, :-1], mask[:, :-1], rows),
            generation_config=settings,
            logits_processor=transformers.LogitsProcessorList([choose]),
        )
        generated: Tensor = output[:, length:].cpu()
        return generated

    def _prefill(self, ids: Tensor, mask: Tensor, rows: Tensor) -> Any:
        """Keys and values of all prompt tokens but the last, once a prompt, then copied to `rows`.

        None (so that `generate` computes every copy) for a prompt of one token and where the cache holds anything
        beside keys and values: a recurrent state is not known to survive being copied.
        """
        if ids.shape[1] == 0:
            return None
        positions = (mask.cumsum(-1) - 1).clamp_(min=0)
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, return_dict=True
        )
        cache = output.past_key_values
        if type(cache) is not transformers.DynamicCache or not all(
            type(layer) is transformers.cache_utils.DynamicLayer for layer in cache.layers
        ):
            return None
        cache.reorder_cache(rows)
        return cache


def load_policy(config: PolicyConfig) -> Policy:
    """Load a policy by directory or hub name. Raises `PolicyError` in one line for whatever is wrong with it."""
    device = pick_device(config.device)
    renderer = load_renderer(config)
    model = load_weights(config.model, _pick_dtype(config.dtype, device), plain_generation(renderer), device)
    return Policy(**vars(renderer), model=model.eval().requires_grad_(False))


def plain_generation(renderer: Renderer, **settings: Any) -> transformers.GenerationConfig:
    """How the policy generates by itself: its end tokens and padding, and nothing of what a checkpoint advises.

    What lies in its generation_config.json (penalties, suppressed tokens, stop strings, ...) would change samples.
    """
    return transformers.GenerationConfig(pad_token_id=renderer.pad_id, eos_token_id=list(renderer.eos_ids), **settings)


def load_trainable(config: PolicyConfig) -> Any:
    """A policy's model to be trained: float32 weights with gradients. Raises `PolicyError` for an adapter."""
    if adapter_base(config.model):
        raise PolicyError(f"{config.model!r} is an adapter: merge it into its model before a warm-up")
    model = load_policy(replace(config, dtype="float32")).model
    return model.train().requires_grad_(True)


def pick_device(name: str) -> torch.device:
    """The device that a configuration names; `auto` is a GPU where there is one. Raises `PolicyError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise PolicyError(f"policy.device must be auto, cpu or cuda:K, found {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PolicyError(f"policy.device is {name!r}, but {torch.cuda.device_count()} GPUs are visible")
    return device


def _pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype
