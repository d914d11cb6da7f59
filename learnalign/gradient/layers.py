"""Which weight matrices of a model are sketched, the key of each, and what is left out.

Covered are linear layers (torch.nn.Linear, the transposed Conv1D of GPT-2), stacked experts in transformers' layouts
(see `experts`), and every other weight of two or more axes that a module owns, by the products that it is used in
(see `products`) or by autograd. Whether a layer is what it seems to be is measured (see `probe`). In a model with
adapters `space` decides: "lora" takes the matrices of the adapters and nothing else; "full" takes the weights of the
base model, at the point to which the adapters have moved it, under the keys that they have without adapters.

This module does not touch activations or gradients (see `hooks`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from learnalign.errors import PolicyError
from learnalign.gradient import experts

TIED_INPUT = "the input side of the tied embedding"


@dataclass(frozen=True)
class Coverage:
    """Which share of the trainable weights a sketch sees."""

    covered: int
    total: int
    missing: tuple[str, ...]
    """Names of the parameters that are not covered, such as norms, biases and the embedding table."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of the squared gradient of the probe's two small groups: what each missing parameter had."""


@dataclass(frozen=True)
class Layer:
    """One weight of a module, a matrix or a stack of matrices, that is sketched."""

    name: str
    """As in a model without adapters around it: matrices are keyed by it."""
    module: Any
    kind: str
    """`linear`, `experts`, `products` or `autograd`: how its gradient is come by."""
    attribute: str
    parameter: Any = field(compare=False)
    """The weight itself; the module may have another tensor in its place while it runs (adapters of experts)."""
    clone: bool = False
    """Whether something writes to the layer's output in place."""

    @property
    def matrices(self) -> list[str]:
        """Names of the matrices; every expert's are matrices of their own."""
        count = len(self.stack(self.parameter))
        return [self.name] if self.parameter.ndim == 2 or count == 1 else [f"{self.name}.{e}" for e in range(count)]

    def stack(self, weight: Tensor) -> Tensor:
        """The weight, or its gradient, as a stack of matrices [E, m, n]; a convolution is one matrix."""
        if self.kind == "linear":
            return (weight.T if type(self.module).__name__ == "Conv1D" else weight)[None]
        if weight.ndim == 3 and weight.shape[1] > 1 and not isinstance(self.module, nn.modules.conv._ConvNd):
            return weight
        return weight.flatten(1)[None]


def find_layers(model: nn.Module, space: str = "full") -> list[Layer]:
    """Every weight of the space that may be sketched, in the model's order.

    Raises `PolicyError` for space "lora" where the model has no adapters, or none that are at work.
    """
    inside = prefix(model)
    found: list[Layer] = []
    for name, module in model.named_modules():
        for layer in _of_module(plain_name(name, inside), module):
            own = f"{name}.{layer.attribute}"
            if is_adapter(own) != (space == "lora") or is_spare(name):
                continue
            if any(layer.name == known.name for known in found):  # adapters around adapters of one module
                layer = replace(layer, name=layer.name.replace(plain_name(name, inside), name.removeprefix(inside)))
            found.append(layer)
    if space == "lora":
        _check_adapters(model, found)
    return found


def _of_module(name: str, module: Any) -> Iterator[Layer]:
    if is_linear(module) and _runs_as_linear(module):
        yield Layer(name, module, "linear", "weight", module.weight)
        return
    names = experts.stacked(module)
    if names:
        yield from (Layer(f"{name}.{one}", module, "experts", one, getattr(module, one)) for one in names)
        return
    if isinstance(module, nn.Embedding):
        return
    for own, weight in module.named_parameters(recurse=False):
        if weight.ndim >= 2 and weight.is_floating_point() and weight.numel() > max(weight.shape):
            yield Layer(name if own == "weight" else f"{name}.{own}", module, "products", own, weight)


def _runs_as_linear(module: Any) -> bool:
    """Whether the module's own class is a plain layer; a weight that is packed leaves no choice but to believe it."""
    if "weight" not in module._parameters:
        return False
    plain = type(module).forward is nn.Linear.forward or type(module).__name__ == "Conv1D"
    return plain or not module.weight.is_floating_point()


def _check_adapters(model: Any, found: Sequence[Layer]) -> None:
    if not found:
        raise PolicyError('sketch.space is "lora", but the policy has no LoRA adapters: use "full"')
    layers = [module for module in model.modules() if hasattr(module, "merged_adapters")]
    if any(module.merged for module in layers):
        raise PolicyError('sketch.space is "lora", but the adapters are merged into the weights: unmerge them first')
    if layers and all(module.disable_adapters for module in layers):
        raise PolicyError('sketch.space is "lora", but the adapters are disabled: enable them, or use "full"')


def matrix_name(layer: Layer, view: Tensor) -> str:
    """The name of a matrix [m, n] that is a view of a layer's weight: the whole, one of a stack, or a slice."""
    weight: Tensor = layer.parameter
    size, first = view.numel(), view.storage_offset() - weight.storage_offset()
    if size == weight.numel():
        return layer.name
    if (view.is_contiguous() or view.mT.is_contiguous()) and first % size == 0:
        return f"{layer.name}.{first // size}"
    return f"{layer.name}[{first}:{tuple(view.shape)}:{view.stride()}]"


def coverage(
    model: Any, layers: Sequence[Layer], space: str = "full", shares: Mapping[str, float] | None = None
) -> Coverage:
    """The share of the space's parameters that `layers` hold. shares: of the squared gradient, by parameter."""
    seen = {id(layer.parameter) for layer in layers}
    named = spaced(model, space)
    missing = [name for name, p in named.items() if id(p) not in seen]
    embedding = model.get_input_embeddings()
    if space == "full" and embedding is not None and id(getattr(embedding, "weight", None)) in seen:
        missing.append(TIED_INPUT)
    packed = _packed(model) if space == "full" else {}
    covered = sum(p.numel() for p in named.values() if id(p) in seen)
    total = sum(p.numel() for p in named.values()) + sum(packed.values())
    known = {name: (shares or {})[name] for name in missing if name in (shares or {})}
    return Coverage(covered, total, (*missing, *packed), known)


def spaced(model: nn.Module, space: str) -> dict[str, nn.Parameter]:
    """The parameters of a space by their names without wrappers."""
    inside = prefix(model)
    found: dict[str, nn.Parameter] = {}
    for name, p in model.named_parameters():
        if is_adapter(name) == (space == "lora") and not is_spare(name):
            plain = plain_name(name, inside)
            found[name.removeprefix(inside) if plain in found else plain] = p
    return found


def _packed(model: nn.Module) -> dict[str, int]:
    """Weights of linear layers that are no parameters (int8 of torch, GPTQ, AWQ, HQQ): names and sizes unpacked."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        shape: list[Any] = [getattr(module, side, None) for side in ("in_features", "out_features")]
        own = any(weight.ndim >= 2 for weight in module.parameters(recurse=False))
        wraps = next(module.children(), None) is not None
        if all(isinstance(size, int) for size in shape) and not own and not wraps:
            found[f"{plain_name(name, prefix(model))}.weight"] = math.prod(shape)
    return found


def keys_of(layers: Sequence[Layer]) -> dict[str, int]:
    """The key of every matrix. Layers that share one parameter share the first one's keys: their gradients add."""
    first: dict[int, Layer] = {}
    alias: dict[str, str] = {}
    for layer in layers:
        owner = first.setdefault(id(layer.parameter), layer)
        alias.update(zip(layer.matrices, owner.matrices, strict=True))
    keys = layer_keys(sorted(set(alias.values())))
    return {name: keys[owner] for name, owner in alias.items()}


def layer_keys(names: Sequence[str]) -> dict[str, int]:
    """A 32-bit key for every matrix, from its name alone, so that it does not depend on the other layers."""
    keys = {name: zlib.crc32(name.encode()) for name in names}
    if len(set(keys.values())) < len(keys):
        raise PolicyError("two layers of the policy have names with the same CRC-32; rename one of them")
    return keys


def prefix(model: Any) -> str:
    """What wrapping in adapters puts before the names of the model inside."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return next((f"{name}." for name, module in model.named_modules() if module is inner and name), "")


def plain_name(name: str, inside: str = "") -> str:
    """A module's or parameter's name without what adapters, their saved copies and compilation add to it."""
    parts = [part for part in name.removeprefix(inside).split(".") if part not in ("base_layer", "_orig_mod")]
    if "modules_to_save" in parts:
        at = parts.index("modules_to_save")
        parts[at : at + 2] = []
    return ".".join(part for part in parts if part != "original_module")


def is_adapter(name: str) -> bool:
    """Whether a module or parameter belongs to an adapter, by PEFT's names."""
    parts = name.split(".")
    return any(part.startswith("lora_") for part in parts) or "prompt_encoder" in parts


def is_spare(name: str) -> bool:
    """Whether a module or parameter is the original that PEFT keeps beside the copy in use (modules_to_save)."""
    return "original_module" in name.split(".")


def head_of(model: Any) -> Any:
    """The vocabulary head; of one that PEFT saves with the adapters, the copy in use."""
    head = model.get_output_embeddings()
    copies = getattr(head, "modules_to_save", None)
    if copies is None:
        return head
    active = next((name for name in getattr(head, "active_adapters", []) if name in copies), None)
    return head.original_module if active is None or head.disable_adapters else copies[active]


def is_linear(module: object) -> bool:
    """Whether a module is a linear layer: torch's own, or the transposed Conv1D of GPT-2."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
