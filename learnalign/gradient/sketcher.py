"""GRPO policy gradients of whole prompts, sketched layer by layer during one forward and one backward pass.

For a prompt with G responses y_g and rewards r_g the gradient is (DeepSeekMath, arXiv 2402.03300, at ratio 1,
without the KL term, which vanishes where the policy is its own reference)

    g = grad (1/G) sum_g A_g (1/|y_g|) sum_t log pi(y_gt | prompt, y_g<t),   A_g = (r_g - mean r) / (std r + eps)

(other weightings: see `groups`) and its sketch is phi = fold(g) (see `learnalign.kernels.fold`). The weights stay
frozen: autograd keeps no layer inputs and makes no weight gradients of its own; taps on every linear layer take
its inputs in the forward and its output gradients in the backward and fold their product at once. This module does
not load models or write files.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learnalign.errors import PolicyError
from learnalign.gradient.groups import RESPONSES_USED, WEIGHTINGS, Group, Weighted, weighted
from learnalign.gradient.layers import SPACES, Coverage, coverage, find_layers, is_linear, keys_of
from learnalign.gradient.packing import batches, pack
from learnalign.gradient.passes import model_dtype, recomputing, response_logits
from learnalign.gradient.probe import examine
from learnalign.gradient.taps import Taps, Target

FOLD_VERSION = 2
"""Changes when signs, buckets or what is folded change: sketches of two versions must not meet in one store."""


class Sketcher:
    """Sketches prompts' policy gradients under one causal language model.

    model: a causal language model in the manner of transformers (called with input_ids and attention_mask,
    returns an object with `logits`; has get_input_embeddings and get_output_embeddings), perhaps with LoRA
    adapters by PEFT. It is put into evaluation mode and its weights are frozen.
    dimension: d, a power of two from 128. seed: of the random map; one value for the whole pool.
    temperature: at which responses were sampled; logits are divided by it.
    rank: None folds exact gradients; k folds their random projections to k x k, cheaper and noisier.
    weighting, advantage_std, responses_used: see `groups`. space: "full" or "lora", see `layers`.
    share_prompts: compute a prompt once for several responses where the model honors that and it is cheaper;
    `unshared` then says why it is not done, or is empty.
    checkpointing: recompute activations in the backward pass instead of keeping them.
    say: takes messages, such as a batch that did not fit into memory; default: `warnings.warn`.
    Raises `PolicyError` where the model has no linear output layer, or an option is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dimension: int = 8192,
        seed: int = 0,
        temperature: float = 1.0,
        rank: int | None = None,
        weighting: str = "mean",
        advantage_std: bool = True,
        responses_used: str = "all",
        space: str = "full",
        share_prompts: bool = True,
        checkpointing: bool = False,
        say: Callable[[str], None] = warnings.warn,
    ) -> None:
        _check_option("weighting", weighting, WEIGHTINGS)
        _check_option("responses_used", responses_used, RESPONSES_USED)
        _check_option("space", space, SPACES)
        if rank is not None and rank < 1:
            raise PolicyError(f"rank must be at least 1, or None for exact gradients, found {rank}")
        causal: Any = model  # transformers' methods are not those of nn.Module
        self.model = causal.eval().requires_grad_(False)
        self.dimension, self.seed, self.temperature = dimension, seed, temperature
        self.weighting, self.advantage_std, self.responses_used = weighting, advantage_std, responses_used
        self.space, self.checkpointing, self.say = space, checkpointing, say
        self.device = next(self.model.parameters()).device
        head = self.model.get_output_embeddings()
        if not is_linear(head) and not is_linear(getattr(head, "base_layer", None)):
            raise PolicyError(f"the policy's output layer must be a torch.nn.Linear, found {type(head).__name__}")
        layers = find_layers(model, space)
        self.taps = Taps(layers, head, keys_of(layers), seed, rank)
        found = examine(self.model, self.taps, share_prompts)
        self.taps = replace(self.taps, layers=found.layers)
        self.costs, self.unshared = found.costs, found.unshared
        self._too_many = 0  # padded tokens that once did not fit into memory

    @property
    def coverage(self) -> Coverage:
        """Parameters whose gradient the sketch holds, against all of the space's."""
        return coverage(self.model, self.taps.layers, self.space)

    def batches(self, groups: Sequence[Group], batch_tokens: int) -> list[list[int]]:
        """Groups of like length together, at most `batch_tokens` padded tokens each, as positions in `groups`."""
        return batches([self._weighted(group) for group in groups], batch_tokens, self.costs)

    def sketch(self, groups: Sequence[Group]) -> np.ndarray:
        """Sketches of whole groups, taken in one forward and one backward pass if memory allows.

        Returns [len(groups), d], float32 (float64 where the model is float64); a row is not normalized, is zero
        where all rewards are equal, and holds NaN or infinity where the gradient does. Out of GPU memory, the
        batch is halved again and again; raises `PolicyError` where a single response does not fit, and `ArrayError`
        for a malformed group.
        """
        wide = torch.float64 if model_dtype(self.model) == torch.float64 else torch.float32
        phi = torch.zeros(len(groups), self.dimension, dtype=wide)
        parts = [self._weighted(group) for group in groups]
        there = [row for row, part in enumerate(parts) if part.responses]
        if there:
            phi[there] = self._within_memory([parts[row] for row in there], wide)
        return phi.numpy()

    def _weighted(self, group: Group) -> Weighted:
        return weighted(group, self.weighting, self.advantage_std, self.responses_used)

    def _within_memory(self, parts: list[Weighted], wide: torch.dtype) -> Tensor:
        """[len(parts), d] on the CPU. The gradient is a sum over responses, so even one group can be halved."""
        whole = self._unless_too_large(parts, wide)
        if whole is not None:
            return whole
        # Outside of the except block, whose traceback would keep the batch's tensors.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(parts) > 1:
            half = len(parts) // 2
            return torch.cat([self._within_memory(some, wide) for some in (parts[:half], parts[half:])])
        (part,) = parts
        half = len(part.responses) // 2
        halves = [Weighted(part.prompt, part.responses[s], part.coefficients[s]) for s in _cuts(half)]
        return self._within_memory(halves[:1], wide) + self._within_memory(halves[1:], wide)

    def _unless_too_large(self, parts: list[Weighted], wide: torch.dtype) -> Tensor | None:
        """The sketches, or None where memory ran out or is known to run out at this size."""
        tokens = self.costs.padded(parts)
        divisible = len(parts) > 1 or len(parts[0].responses) > 1
        if divisible and 0 < self._too_many <= tokens:
            return None
        try:
            return self._pass(parts, wide)
        except torch.OutOfMemoryError as error:
            if not divisible:
                raise PolicyError(
                    f"out of memory with a single response of {tokens:,} tokens, prompt included: "
                    "set sketch.checkpointing, or use a GPU with more memory"
                ) from error
        self._too_many = tokens
        self.say(f"out of memory with a batch of {tokens:,} padded tokens: going on with halves")
        return None

    def _pass(self, parts: Sequence[Weighted], wide: torch.dtype) -> Tensor:
        """One forward and one backward pass."""
        batch = pack(parts, self.costs.together(parts), self.device)
        phi = torch.zeros(len(parts), self.dimension, dtype=wide, device=self.device)
        target = Target(phi, batch.token_offsets, batch.target_offsets)
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            if self.checkpointing:
                stack.enter_context(recomputing(self.model))
            stack.enter_context(self.taps.on(target))
            logits = response_logits(self.model, batch).to(wide) / self.temperature
            log_probabilities = logits.gather(1, batch.targets[:, None]).squeeze(1) - logits.logsumexp(1)
            torch.autograd.backward((log_probabilities * batch.coefficients.to(wide)).sum())
        return phi.cpu()


def _cuts(half: int) -> tuple[slice, slice]:
    return slice(None, half), slice(half, None)


def _check_option(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise PolicyError(f"{name} must be one of {', '.join(choices)}, found {value!r}")
