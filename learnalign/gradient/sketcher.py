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

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learnalign.config import SketchConfig
from learnalign.errors import PolicyError
from learnalign.gradient.batching import Batch, Costs, batches, pack
from learnalign.gradient.checks import sample
from learnalign.gradient.forward import hidden_states, model_dtype, recomputing
from learnalign.gradient.groups import Group, Weighted, weighted
from learnalign.gradient.head import VocabularyHead, find_head, head_bytes, whole_log_probabilities
from learnalign.gradient.hooks import Hooks, StrayTokens, Target
from learnalign.gradient.layers import Coverage, coverage, find_layers, head_of, is_linear, keys_of
from learnalign.gradient.lent import lent, unwrapped
from learnalign.gradient.pending import Own, Pending, Sketched
from learnalign.gradient.probe import examine, longest_row
from learnalign.kernels.logprob import KLTerm, head_pass
from learnalign.kernels.transfers import on_device, reached, to_host

FOLD_VERSION = 3
"""Changes when signs, buckets or what is folded change: sketches of two versions must not meet in one store."""
DEFAULT = SketchConfig()


class Sketcher:
    """Sketches prompts' policy gradients under one causal language model.

    model: a causal language model in the manner of transformers (called with input_ids and attention_mask,
    returns an object with `logits`; has get_input_embeddings and get_output_embeddings), perhaps with LoRA
    adapters by PEFT. It is measured before it is believed (see `probe`), and after every call it is as it was before:
    training mode, requires_grad, gradients, hooks and replaced forwards.
    config: what a sketch is (see `learnalign.config.SketchConfig`); its `dtype`, `batch_tokens` and `reference` are
    of no effect here. temperature: at which responses were sampled; logits are divided by it.
    reference: the model of the KL term, with the same vocabulary; given where, and only where, config.kl_beta > 0.
    `unshared` says why no prompt is computed once for several responses, or is empty. `alone`: prompts run one by
    one, because the model routes their tokens in ways of its own or autograd makes some of its gradients.
    `head.whole` says why the logits of a batch are all made at once, or is empty where they are not.
    say: takes messages, such as a batch that did not fit into memory; default: `warnings.warn`.
    Raises `PolicyError` where the model cannot be sketched right: it is not causal, has no linear output layer, its
    weights are not in this process.
    """

    def __init__(
        self,
        model: nn.Module,
        config: SketchConfig = DEFAULT,
        *,
        temperature: float = 1.0,
        reference: nn.Module | None = None,
        say: Callable[[str], None] = warnings.warn,
    ) -> None:
        if (config.kl_beta > 0) != (reference is not None):
            raise PolicyError(
                "a KL term needs kl_beta > 0 and a reference policy, found "
                f"kl_beta = {config.kl_beta} and {'no' if reference is None else 'a'} reference"
            )
        self.model: Any = unwrapped(model)
        self.config, self.temperature, self.say = config, temperature, say
        self.device = next(self.model.parameters()).device
        head = head_of(self.model)
        if not is_linear(head) and not is_linear(getattr(head, "base_layer", None)):
            raise PolicyError(f"the policy's output layer must be a torch.nn.Linear, found {_class(head)}")
        other = None if reference is None else self._checked(unwrapped(reference))
        layers = find_layers(self.model, config.space)
        hooks = Hooks(layers, head, keys_of(layers), config.seed, config.rank or None)
        with self._lent(other):
            found = examine(self.model, hooks, config.space, config.share_prompts, other)
            self.hooks = replace(hooks, layers=found.layers)
            self.costs, self.unshared, self.alone, self.shares = found.costs, found.unshared, found.alone, found.shares
            self.head = self._find_head(self.model)
            self.reference = None if other is None else self._find_head(other)
        self._longest = min((n for n in map(longest_row, self._models(other)) if n), default=0)
        self._told_memory = False

    def _checked(self, reference: Any) -> Any:
        """The reference policy, if it knows the same tokens."""
        own, other = (head_of(model).weight.shape[0] for model in (self.model, reference))
        if own != other:
            raise PolicyError(f"the reference policy must share the policy's vocabulary of {own:,}, found {other:,}")
        return reference

    def _models(self, reference: Any) -> list[Any]:
        return [self.model] if reference is None or reference is self.model else [self.model, reference]

    @contextmanager
    def _lent(self, reference: Any = None) -> Iterator[None]:
        """Policy and reference in the state in which they are run."""
        with ExitStack() as stack:
            for model in self._models(reference):
                stack.enter_context(lent(model))
            yield

    def _find_head(self, model: Any) -> VocabularyHead:
        probe = pack([sample(model)], 1, model.get_input_embeddings().weight.device)
        odd = model is self.model and any(
            layer.parameter is self.hooks.head.weight and layer.kind == "autograd" for layer in self.hooks.layers
        )
        whole = "the vocabulary head's weight is used in other ways too" if odd else ""
        return find_head(model, probe, self.temperature, whole)

    @property
    def coverage(self) -> Coverage:
        """Parameters whose gradient the sketch holds, against all of the space's."""
        return coverage(self.model, self.hooks.layers, self.config.space, self.shares)

    def batches(self, groups: Sequence[Group], batch_tokens: int) -> list[list[int]]:
        """See `cut`."""
        return cut(groups, batch_tokens, self.config, self.costs)

    def sketch(self, groups: Sequence[Group]) -> np.ndarray:
        """Sketches of whole groups, taken in one forward and one backward pass if memory allows.

        Returns [len(groups), d], float32 (float64 where the model is float64); a row is not normalized, is zero
        where all rewards are equal, and holds NaN or infinity where the gradient does. Out of GPU memory, the
        batch is halved again and again; raises `PolicyError` where a single response does not fit, and `ArrayError`
        for a malformed group. Nothing is learned from one call for the next: a batch has the same bits whatever was
        sketched before it, and by whom.
        """
        return self.measure(groups).phi

    def measure(self, groups: Sequence[Group]) -> Sketched:
        """Like `sketch`, with what the same forward pass says of the groups' recorded log-probabilities."""
        return self.launch(groups).wait()

    def launch(self, groups: Sequence[Group]) -> Pending:
        """Begin what `measure` does, whose result `Pending.wait` returns; raises what `sketch` raises.

        A GPU computes while the host goes on: launch the next batch first, then use the rows of this one. On a CPU
        all is done when this returns.
        """
        wide = torch.float64 if model_dtype(self.model) == torch.float64 else torch.float32
        parts = [_weighted(group, self.config) for group in groups]
        there = [row for row, part in enumerate(parts) if part.responses]
        phi, own = torch.zeros(0, self.config.dimension, dtype=wide), list[Own]()
        self._check_length(parts)
        if there:
            with self._lent(None if self.reference is None else self.reference.model):
                phi = to_host(self._within_memory([parts[row] for row in there], wide, own))
        return Pending([part.told for part in parts], there, phi, own, reached(self.device))

    def _check_length(self, parts: Sequence[Weighted]) -> None:
        """Raise `PolicyError` for a row whose positions would depend on the rows that were run before it."""
        longest = max((len(part.prompt) + len(y) for part in parts for y in part.responses), default=0)
        if self._longest and longest > self._longest:
            raise PolicyError(
                f"a prompt with a response of {longest:,} tokens is longer than the {self._longest:,} positions of the "
                "policy, whose rope_type dynamic stretches them by what was run before: leave it out, or use yarn"
            )

    def _within_memory(self, parts: list[Weighted], wide: torch.dtype, own: list[Own]) -> Tensor:
        """[len(parts), d] on the device. The gradient is a sum over responses, so even one group can be halved.

        own: takes the log-probabilities of every pass.
        """
        whole = self._unless_too_large(parts, wide, own)
        if whole is not None:
            return whole
        # Outside of the except block, whose traceback would keep the batch's tensors.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(parts) > 1:
            half = len(parts) // 2
            return torch.cat([self._within_memory(some, wide, own) for some in (parts[:half], parts[half:])])
        (part,) = parts
        half = len(part.responses) // 2
        first, second = part.part(slice(half)), part.part(slice(half, None))
        return self._within_memory([first], wide, own) + self._within_memory([second], wide, own)

    def _unless_too_large(self, parts: list[Weighted], wide: torch.dtype, own: list[Own]) -> Tensor | None:
        """The sketches, or None where memory ran out."""
        tokens = self.costs.padded(parts)
        try:
            return self._passes(parts, wide, own)
        except torch.OutOfMemoryError as error:
            if len(parts) == 1 and len(parts[0].responses) == 1:
                raise PolicyError(
                    f"out of memory with a single response of {tokens:,} tokens, prompt included: "
                    "set sketch.checkpointing, or use a GPU with more memory"
                ) from error
        if not self._told_memory:
            self._told_memory = True
            self.say(
                f"out of memory with a batch of {tokens:,} padded tokens: going on with halves, as with every such "
                "batch; a smaller sketch.batch_tokens saves the attempts"
            )
        return None

    def _passes(self, parts: Sequence[Weighted], wide: torch.dtype, own: list[Own]) -> Tensor:
        """One pass over the batch, or several where the model does not allow all of it together."""
        if len(parts) > 1 and self.alone:
            return self._one_by_one(parts, wide, own)
        phi = torch.zeros(len(parts), self.config.dimension, dtype=wide, device=self.device)
        for some in self._apart(parts):
            there = [row for row, part in enumerate(some) if part.responses]
            try:
                phi[on_device(tuple(there), self.device)] += self._pass([some[row] for row in there], wide, own)
            except StrayTokens:
                if len(there) == 1:
                    raise
                return self._one_by_one(parts, wide, own)  # tokens fell together by chance in the probe
        return phi

    def _one_by_one(self, parts: Sequence[Weighted], wide: torch.dtype, own: list[Own]) -> Tensor:
        return torch.cat([self._passes([part], wide, own) for part in parts])

    def _apart(self, parts: Sequence[Weighted]) -> list[list[Weighted]]:
        """The parts with their short responses and with their long ones, where those must not meet in a batch."""
        edge = self.costs.boundary
        if not edge:
            return [list(parts)]
        short = [part.of(lambda n: n - 1 <= edge) for part in parts]
        kinds = [short, [part.of(lambda n: n - 1 > edge) for part in parts]]
        return [some for some in kinds if any(part.responses for part in some)]

    def _pass(self, parts: Sequence[Weighted], wide: torch.dtype, own: list[Own]) -> Tensor:
        """One forward and one backward pass."""
        batch = pack(parts, self.costs.together(parts), self.device)
        phi = torch.zeros(len(parts), self.config.dimension, dtype=wide, device=self.device)
        target = Target(phi, batch.token_offsets, batch.target_offsets)
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            if self.config.checkpointing:
                stack.enter_context(recomputing(self.model))
            stack.enter_context(self.hooks.on(target, head=self.head.shape is None))
            if self.head.shape is None:
                log_probabilities = self._backward_from_logits(batch, target, wide)
            else:
                log_probabilities = self._backward_from_hidden(batch, target)
        if any(part.told for part in parts):
            own.append(Own([part.told for part in parts], batch.target_offsets[:-1], to_host(log_probabilities)))
        return phi

    def _backward_from_hidden(self, batch: Batch, target: Target) -> Tensor:
        """The head in blocks, outside of autograd; then back through the model from its inputs. Returns log pi."""
        hidden = hidden_states(self.model, batch)
        assert self.head.shape is not None
        found = head_pass(
            hidden,
            self.head.module.weight,
            batch.targets,
            batch.coefficients,
            memory_bytes=head_bytes(hidden.device),
            shape=self.head.shape,
            kl=self._kl_term(batch),
            consume=partial(self.hooks.fold_head, target, hidden.detach()),
            borders=batch.target_offsets,
        )
        scale = headroom(found.hidden_gradient, hidden.dtype)
        target.scale = 1.0 / scale
        torch.autograd.backward(hidden, (found.hidden_gradient * scale).to(hidden.dtype))
        own: Tensor = found.log_probabilities
        return own

    def _backward_from_logits(self, batch: Batch, target: Target, wide: torch.dtype) -> Tensor:
        """The whole model in autograd, for heads that only the model itself can run. Returns log pi."""
        log_probabilities = whole_log_probabilities(self.model, batch, self.temperature)
        coefficients = batch.coefficients.to(wide)
        kl = self._kl_term(batch)
        if kl is not None:
            coefficients = kl.to(wide).added(coefficients, log_probabilities.detach())
        scale = headroom(coefficients, model_dtype(self.model))
        target.scale = 1.0 / scale
        torch.autograd.backward((log_probabilities * (coefficients * scale)).sum())
        own: Tensor = log_probabilities.detach()
        return own

    def _kl_term(self, batch: Batch) -> KLTerm | None:
        if self.reference is None:
            return None
        device = self.reference.model.get_input_embeddings().weight.device
        reference = self.reference.log_probabilities(batch.to(device))
        return KLTerm(batch.kl_weights, reference.to(self.device))


def cut(groups: Sequence[Group], batch_tokens: int, config: SketchConfig, costs: Costs) -> list[list[int]]:
    """Groups of like length together, at most `batch_tokens` padded tokens each, as positions in `groups`.

    A pure function of its arguments: whoever has a model's `costs` cuts for it without the model.
    """
    return batches([_weighted(group, config) for group in groups], batch_tokens, costs)


def _weighted(group: Group, config: SketchConfig) -> Weighted:
    return weighted(group, config.weighting, config.advantage_std, config.responses_used, config.kl_beta)


def _class(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def headroom(gradient: Tensor, dtype: torch.dtype) -> float:
    """A power of two that lifts a gradient's largest entry to about 1 where float16 would lose the small ones."""
    if dtype != torch.float16:
        return 1.0
    largest = float(gradient.abs().max()) if gradient.numel() else 0.0
    return 2.0 ** -round(math.log2(largest)) if 0 < largest < math.inf else 1.0
