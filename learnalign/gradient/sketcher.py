"""GRPO policy gradients of whole prompts, sketched layer by layer during one forward and one backward pass.

For a prompt with G responses y_g and rewards r_g the gradient is (DeepSeekMath, arXiv 2402.03300, at ratio 1,
without the KL term, which vanishes where the policy is its own reference)

    g = grad (1/G) sum_g A_g (1/|y_g|) sum_t log pi(y_gt | prompt, y_g<t),   A_g = (r_g - mean r) / (std r + eps)

and its sketch is phi = fold(g) (see `learnalign.kernels.fold`). The weights stay frozen: autograd keeps no layer
inputs and makes no weight gradients of its own; hooks on every linear layer take its inputs in the forward and
its output gradients in the backward and fold their product at once. This module does not load models, make
batches, or write files.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learnalign.errors import PolicyError
from learnalign.kernels.fold import fold_segments

FOLD_VERSION = 1
"""Changes when signs, buckets or what is folded change: sketches of two versions must not meet in one store."""
ADVANTAGE_EPSILON = 1e-4

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@dataclass(frozen=True)
class Group:
    """A prompt with its sampled responses, as token ids, and one reward a response."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]
    rewards: Sequence[float]

    @property
    def tokens(self) -> int:
        """Padded tokens that the group takes in a batch: every response beside its own copy of the prompt."""
        return len(self.responses) * (len(self.prompt) + max(map(len, self.responses)))


@dataclass(frozen=True)
class Coverage:
    """Which share of the model's weights a sketch sees."""

    covered: int
    total: int
    missing: tuple[str, ...]
    """Names of the parameters that are not covered, such as norms, biases and the embedding table."""


@dataclass(frozen=True)
class _Batch:
    input_ids: Tensor  # [sequences, length]
    attention_mask: Tensor  # [sequences, length]
    predicts: Tensor  # bool [sequences, length]: the position's output predicts a response token
    targets: Tensor  # [response tokens], in the order of `predicts`
    coefficients: Tensor  # [response tokens], A_g / (G |y_g|)
    token_offsets: list[int]  # of the groups in flattened [sequences * length]
    target_offsets: list[int]  # of the groups in the response tokens


def advantages(rewards: Sequence[float]) -> np.ndarray:
    """Group-relative advantages (r - mean) / (std + 1e-4), float64 [G]; the standard deviation is the biased one."""
    r = np.asarray(rewards, dtype=np.float64)
    scaled: np.ndarray = (r - r.mean()) / (r.std() + ADVANTAGE_EPSILON)
    return scaled


class Sketcher:
    """Sketches prompts' policy gradients under one causal language model.

    model: a causal language model in the manner of transformers (called with input_ids and attention_mask,
    returns an object with `logits`; has get_input_embeddings and get_output_embeddings). It is put into
    evaluation mode and its weights are frozen. dimension: d, a power of two from 128. seed: of the random map;
    one value for the whole pool. temperature: at which responses were sampled; logits are divided by it.
    Raises `PolicyError` where the model has no linear output layer.
    """

    def __init__(self, model: nn.Module, *, dimension: int = 8192, seed: int = 0, temperature: float = 1.0) -> None:
        causal: Any = model  # transformers' methods are not those of nn.Module
        self.model = causal.eval().requires_grad_(False)
        self.dimension, self.seed, self.temperature = dimension, seed, temperature
        self.device = next(self.model.parameters()).device
        self.head = self.model.get_output_embeddings()
        if not isinstance(self.head, nn.Linear):
            raise PolicyError(f"the policy's output layer must be a torch.nn.Linear, found {type(self.head).__name__}")
        self.layers: dict[str, Any] = {name: m for name, m in model.named_modules() if is_linear(m)}
        self.keys = layer_keys(list(self.layers))

    @property
    def coverage(self) -> Coverage:
        """Parameters whose gradient the sketch holds, against all of the model's."""
        seen = {id(module.weight) for module in self.layers.values()}
        named = dict(self.model.named_parameters())
        covered = sum(p.numel() for p in named.values() if id(p) in seen)
        missing = [name for name, p in named.items() if id(p) not in seen]
        embedding = self.model.get_input_embeddings()
        if embedding is not None and id(embedding.weight) in seen:
            missing.append("the input side of the tied embedding")
        return Coverage(covered, sum(p.numel() for p in named.values()), tuple(missing))

    def sketch(self, groups: Sequence[Group]) -> np.ndarray:
        """Sketches of whole groups, taken in one forward and one backward pass.

        Returns [len(groups), d], float32 (float64 where the model is float64); a row is not normalized, and
        holds NaN or infinity where the gradient does.
        """
        if not groups:
            return np.zeros((0, self.dimension), dtype=np.float32)
        batch = self._pack(groups)
        wide = torch.float64 if next(self.model.parameters()).dtype == torch.float64 else torch.float32
        phi = torch.zeros(len(groups), self.dimension, dtype=wide, device=self.device)
        with self._hooked(batch, phi), torch.enable_grad():
            output = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
            logits = output.logits.squeeze(0).to(wide) / self.temperature  # [response tokens, vocabulary]
            log_probabilities = logits.gather(1, batch.targets[:, None]).squeeze(1) - logits.logsumexp(1)
            (log_probabilities * batch.coefficients.to(wide)).sum().backward()
        return phi.cpu().numpy()

    def _pack(self, groups: Sequence[Group]) -> _Batch:
        """Right-padded sequences, one a response; the groups' rows stay together and in order."""
        sequences, coefficients, starts, target_offsets = [], [], [], [0]
        width = max(len(g.responses) for g in groups)
        for group in groups:
            scale = advantages(group.rewards) / len(group.responses)
            for response, a in zip(group.responses, scale, strict=True):
                sequences.append([*group.prompt, *response])
                starts.append(len(group.prompt))
                coefficients.extend([a / len(response)] * len(response) if len(response) else [])
            target_offsets.append(len(coefficients))
            for _ in range(width - len(group.responses)):  # an empty row keeps the groups equally tall
                sequences.append([group.prompt[0]])
                starts.append(1)
        length = max(map(len, sequences))
        ids = torch.zeros(len(sequences), length, dtype=torch.int64)
        mask, predicts = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
            predicts[row, start - 1 : len(sequence) - 1] = True
        targets = ids[:, 1:][predicts[:, :-1]]
        tall = width * length
        return _Batch(
            ids.to(self.device),
            mask.to(self.device),
            predicts.to(self.device),
            targets.to(self.device),
            torch.tensor(coefficients, dtype=torch.float64).to(self.device),
            [tall * k for k in range(len(groups) + 1)],
            target_offsets,
        )

    @contextmanager
    def _hooked(self, batch: _Batch, phi: Tensor) -> Iterator[None]:
        """Hooks that fold every linear layer's weight gradient into phi while the backward pass runs."""
        embedding = self.model.get_input_embeddings()
        handles = [
            # Gives autograd a start although every weight is frozen.
            embedding.register_forward_hook(lambda module, inputs, output: output.requires_grad_(True)),
            # The head sees response positions only: no logits for prompt tokens and padding.
            self.head.register_forward_pre_hook(lambda module, inputs: (inputs[0][batch.predicts][None],)),
        ]
        for name, module in self.layers.items():
            offsets = batch.target_offsets if module is self.head else batch.token_offsets
            handles.append(module.register_forward_hook(self._fold_hook(name, offsets, phi)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _fold_hook(self, name: str, offsets: list[int], phi: Tensor) -> Hook:
        layer, seed = self.keys[name], self.seed

        def after_forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x = inputs[0].detach().flatten(0, -2)
            if x.shape[0] != offsets[-1]:
                raise PolicyError(
                    f"layer {name} saw {x.shape[0]} tokens where {offsets[-1]} were given: "
                    "layers that route or drop tokens are not supported"
                )

            def after_backward(delta: Tensor) -> None:
                fold_segments(phi, delta.flatten(0, -2), x, offsets, layer=layer, seed=seed)

            output.register_hook(after_backward)  # type: ignore[no-untyped-call]

        return after_forward


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer: torch's own, or the transposed Conv1D of GPT-2."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def layer_keys(names: Sequence[str]) -> dict[str, int]:
    """A 32-bit key for every layer, from its name alone, so that it does not depend on the other layers."""
    keys = {name: zlib.crc32(name.encode()) for name in names}
    if len(set(keys.values())) < len(keys):
        raise PolicyError("two layers of the policy have names with the same CRC-32; rename one of them")
    return keys


def batches(groups: Sequence[Group], batch_tokens: int) -> list[list[int]]:
    """Groups of like length together, at most `batch_tokens` padded tokens each (a larger group stays alone).

    Returns lists of positions in `groups`. A pure function of the groups, so that a resumed run makes the same
    batches, and with them the same rounding, as an uninterrupted one.
    """
    order = sorted(range(len(groups)), key=lambda i: (groups[i].tokens // max(1, len(groups[i].responses)), i))
    result: list[list[int]] = []
    longest = width = 0
    for i in order:
        group = groups[i]
        length = group.tokens // max(1, len(group.responses))
        longest, width = max(longest, length), max(width, len(group.responses))
        if result and longest * width * (len(result[-1]) + 1) <= batch_tokens:
            result[-1].append(i)
        else:
            result.append([i])
            longest, width = length, len(group.responses)
    return result
