"""Which weight matrices of a model are sketched, the key of each, and what is left out.

Covered are linear layers (torch.nn.Linear and what derives from it, the transposed Conv1D of GPT-2), routers that
apply a matrix of their own (mixture of experts), and stacked expert matrices [experts, out, in] in the layout that
transformers 5 gives most of its mixtures. In a model with LoRA adapters `space` decides: "lora" takes the matrices
A and B of the adapters and nothing else; "full" takes the weights of the base model, at the point to which the
adapters have moved it, under the keys that they have without adapters.

This module does not touch activations or gradients (see `hooks`).
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from learnalign.errors import PolicyError

SPACES = ("full", "lora")
EXPERTS_FORWARD = ("self", "hidden_states", "top_k_index", "top_k_weights")


@dataclass(frozen=True)
class Coverage:
    """Which share of the trainable weights a sketch sees."""

    covered: int
    total: int
    missing: tuple[str, ...]
    """Names of the parameters that are not covered, such as norms, biases and the embedding table."""


@dataclass(frozen=True)
class Layer:
    """A module with weight matrices that are sketched."""

    name: str
    """As in a model without adapters around it: matrices are keyed by it."""
    module: Any
    kind: str
    """`linear`, `router` or `experts`."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The tensors that are covered."""
        if self.kind == "experts":
            return [self.module.gate_up_proj, self.module.down_proj]
        return [self.module.weight]

    @property
    def matrices(self) -> list[str]:
        """Names of the matrices; every expert's are matrices of their own."""
        if self.kind != "experts":
            return [self.name]
        count = self.module.gate_up_proj.shape[0]
        return [f"{self.name}.{part}.{e}" for part in ("gate_up_proj", "down_proj") for e in range(count)]


def find_layers(model: nn.Module, space: str = "full") -> list[Layer]:
    """Every module of the space that can be sketched, in the model's order.

    Raises `PolicyError` for space "lora" where the model has no adapters.
    """
    found = []
    for name, module in model.named_modules():
        if is_adapter(name) != (space == "lora"):
            continue
        kind = _kind(module)
        if kind:
            found.append(Layer(plain_name(name), module, kind))
    if space == "lora" and not found:
        raise PolicyError('sketch.space is "lora", but the policy has no LoRA adapters: use "full"')
    return found


def coverage(model: Any, layers: Sequence[Layer], space: str = "full") -> Coverage:
    """The share of the space's parameters that `layers` hold."""
    seen = {id(parameter) for layer in layers for parameter in layer.parameters}
    named = {name: p for name, p in model.named_parameters() if is_adapter(name) == (space == "lora")}
    missing = [plain_name(name) for name, p in named.items() if id(p) not in seen]
    embedding = model.get_input_embeddings()
    if space == "full" and embedding is not None and id(getattr(embedding, "weight", None)) in seen:
        missing.append("the input side of the tied embedding")
    covered = sum(p.numel() for p in named.values() if id(p) in seen)
    return Coverage(covered, sum(p.numel() for p in named.values()), tuple(missing))


def keys_of(layers: Sequence[Layer]) -> dict[str, int]:
    """The key of every matrix. Layers that share one parameter share the first one's keys: their gradients add."""
    first: dict[int, Layer] = {}
    alias: dict[str, str] = {}
    for layer in layers:
        owner = first.setdefault(id(layer.parameters[0]), layer)
        alias.update(zip(layer.matrices, owner.matrices, strict=True))
    keys = layer_keys(sorted(set(alias.values())))
    return {name: keys[owner] for name, owner in alias.items()}


def layer_keys(names: Sequence[str]) -> dict[str, int]:
    """A 32-bit key for every matrix, from its name alone, so that it does not depend on the other layers."""
    keys = {name: zlib.crc32(name.encode()) for name in names}
    if len(set(keys.values())) < len(keys):
        raise PolicyError("two layers of the policy have names with the same CRC-32; rename one of them")
    return keys


def plain_name(name: str) -> str:
    """A module's or parameter's name without what wrapping in adapters adds to it."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def is_adapter(name: str) -> bool:
    """Whether a module or parameter belongs to a LoRA adapter, by PEFT's names."""
    return any(part.startswith("lora_") for part in name.split("."))


def is_linear(module: object) -> bool:
    """Whether a module is a linear layer: torch's own, or the transposed Conv1D of GPT-2."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _kind(module: nn.Module) -> str:
    if is_linear(module):
        return "linear"
    own = dict(module.named_parameters(recurse=False))
    if set(own) == {"gate_up_proj", "down_proj"} and _stacked_experts(module):
        return "experts"
    weight = own.get("weight")
    if weight is not None and weight.ndim == 2 and not isinstance(module, nn.Embedding):
        return "router"  # whether it applies the weight as a linear map shows in the probe
    return ""


def _stacked_experts(module: Any) -> bool:
    """Whether experts are gated, without bias, [E, 2 I, H] and [E, H, I], and called as transformers calls them."""
    up, down = module.gate_up_proj, module.down_proj
    flags = ("is_transposed", "has_bias", "has_post_expert_norm", "_is_expert_parallel")
    return (
        up.ndim == down.ndim == 3
        and up.shape == (down.shape[0], 2 * down.shape[2], down.shape[1])
        and not any(getattr(module, flag, False) for flag in flags)
        and getattr(module, "has_gate", True)
        and (hasattr(module, "_apply_gate") or hasattr(module, "act_fn"))
        and tuple(inspect.signature(type(module).forward).parameters) == EXPERTS_FORWARD
    )
