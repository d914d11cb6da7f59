"""GRPO policy gradients of whole prompts, sketched layer by layer during one forward and one backward pass.

For a prompt with G responses y_g and rewards r_g the gradient is (DeepSeekMath, arXiv 2402.03300, at ratio 1,
without the KL term, which vanishes where the policy is its own reference)

    g = grad (1/G) sum_g A_g (1/|y_g|) sum_t log pi(y_gt | prompt, y_g<t),   A_g = (r_g - mean r) / (std r + eps)

(other weightings and the KL term: see `groups`) and its sketch is phi = fold(g) (see `learnalign.kernels.fold`). The
weights stay frozen: autograd keeps no layer inputs and makes no weight gradients of its own; hooks on every linear
layer take its inputs in the forward and its output gradients in the backward and fold their product at once. The
vocabulary head runs in blocks of tokens between forward and backward, so that the logits of a batch never exist (see
`head`). This module does not load models or write files.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learnalign.errors import PolicyError
from learnalign.gradient.batching import Batch, batches, pack
from learnalign.gradient.forward import hidden_states, model_dtype, recomputing
from learnalign.gradient.groups import RESPONSES_USED, WEIGHTINGS, Group, Weighted, weighted
from learnalign.gradient.head import HEAD_BYTES, VocabularyHead, find_head, whole_log_probabilities
from learnalign.gradient.hooks import Hooks, Target
from learnalign.gradient.layers import SPACES, Coverage, coverage, find_layers, is_linear, keys_of
from learnalign.gradient.probe import examine, sample
from learnalign.kernels.logprob import KLTerm, head_pass

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
    reference, kl_beta: a second model with the same vocabulary, and the strength of the KL term that pulls towards it
    (0.04 in the paper); both or neither.
    share_prompts: compute a prompt once for several responses where the model honors that and it is cheaper;
    `unshared` then says why it is not done, or is empty.
    checkpointing: recompute activations in the backward pass instead of keeping them.
    `head.whole` says why the logits of a batch are all made at once, or is empty where they are not.
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
        reference: nn.Module | None = None,
        kl_beta: float = 0.0,
        share_prompts: bool = True,
        checkpointing: bool = False,
        say: Callable[[str], None] = warnings.warn,
    ) -> None:
        _check_option("weighting", weighting, WEIGHTINGS)
        _check_option("responses_used", responses_used, RESPONSES_USED)
        _check_option("space", space, SPACES)
        if rank is not None and rank < 1:
            raise PolicyError(f"rank must be at least 1, or None for exact gradients, found {rank}")
        if not kl_beta >= 0 or (kl_beta > 0) != (reference is not None):
            raise PolicyError(
                "a KL term needs kl_beta > 0 and a reference policy, found "
                f"kl_beta = {kl_beta} and {'no' if reference is None else 'a'} reference"
            )
        causal: Any = model  # transformers' methods are not those of nn.Module
        self.model = causal.eval().requires_grad_(False)
        self.dimension, self.seed, self.temperature = dimension, seed, temperature
        self.weighting, self.advantage_std, self.responses_used = weighting, advantage_std, responses_used
        self.kl_beta = kl_beta
        self.space, self.checkpointing, self.say = space, checkpointing, say
        self.device = next(self.model.parameters()).device
        head = self.model.get_output_embeddings()
        if not is_linear(head) and not is_linear(getattr(head, "base_layer", None)):
            raise PolicyError(f"the policy's output layer must be a torch.nn.Linear, found {type(head).__name__}")
        layers = find_layers(model, space)
        self.hooks = Hooks(layers, head, keys_of(layers), seed, rank)
        found = examine(self.model, self.hooks, share_prompts)
        self.hooks = replace(self.hooks, layers=found.layers)
        self.costs, self.unshared = found.costs, found.unshared
        self.head = self._find_head(self.model)
        self.reference = None if reference is None else self._find_head(self._checked(reference))
        self._too_many = 0  # padded tokens that once did not fit into memory

    def _checked(self, reference: Any) -> Any:
        """The reference policy in evaluation mode, if it knows the same tokens."""
        own, other = (model.get_output_embeddings().weight.shape[0] for model in (self.model, reference))
        if own != other:
            raise PolicyError(f"the reference policy must share the policy's vocabulary of {own:,}, found {other:,}")
        return reference.eval()

    def _find_head(self, model: Any) -> VocabularyHead:
        probe = pack([sample(self.model)], 1, model.get_input_embeddings().weight.device)
        return find_head(model, probe, self.temperature)

    @property
    def coverage(self) -> Coverage:
        """Parameters whose gradient the sketch holds, against all of the space's."""
        return coverage(self.model, self.hooks.layers, self.space)

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
        return weighted(group, self.weighting, self.advantage_std, self.responses_used, self.kl_beta)

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
        first, second = part.part(slice(half)), part.part(slice(half, None))
        return self._within_memory([first], wide) + self._within_memory([second], wide)

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
            stack.enter_context(self.hooks.on(target, head=self.head.shape is None))
            if self.head.shape is None:
                self._backward_from_logits(batch, wide)
            else:
                self._backward_from_hidden(batch, target)
        return phi.cpu()

    def _backward_from_hidden(self, batch: Batch, target: Target) -> None:
        """The head in blocks, outside of autograd; then back through the model from its inputs."""
        hidden = hidden_states(self.model, batch)
        assert self.head.shape is not None
        found = head_pass(
            hidden,
            self.head.module.weight,
            batch.targets,
            batch.coefficients,
            memory_bytes=HEAD_BYTES,
            shape=self.head.shape,
            kl=self._kl_term(batch),
            consume=partial(self.hooks.fold_head, target, hidden.detach()),
        )
        torch.autograd.backward(hidden, found.hidden_gradient.to(hidden.dtype))

    def _backward_from_logits(self, batch: Batch, wide: torch.dtype) -> None:
        """The whole model in autograd, for heads that only the model itself can run."""
        log_probabilities = whole_log_probabilities(self.model, batch, self.temperature)
        coefficients = batch.coefficients.to(wide)
        kl = self._kl_term(batch)
        if kl is not None:
            coefficients = kl.to(wide).added(coefficients, log_probabilities.detach())
        torch.autograd.backward((log_probabilities * coefficients).sum())

    def _kl_term(self, batch: Batch) -> KLTerm | None:
        if self.reference is None:
            return None
        device = self.reference.model.get_input_embeddings().weight.device
        reference = self.reference.log_probabilities(batch.to(device))
        return KLTerm(batch.kl_weights, reference.to(self.device))


def _check_option(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise PolicyError(f"{name} must be one of {', '.join(choices)}, found {value!r}")
