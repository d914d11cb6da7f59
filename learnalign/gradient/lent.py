"""A caller's model for the length of a call: in evaluation mode, frozen, eager, and afterwards as it was.

Also temporary replacements of a module's `forward` that put back what was there, be it the class's own or one that
somebody else had put on the instance. This module runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from learnalign.errors import PolicyError

ABSENT = object()


@contextmanager
def lent(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no weight with a gradient, experts and compiled modules eager, autocast off; then as before."""
    modes = [(module, module.training) for module in model.modules()]
    weights = [(weight, weight.requires_grad, weight.grad) for weight in model.parameters()]
    device = next(model.parameters()).device.type
    with ExitStack() as stack:
        stack.callback(_give_back, modes, weights)
        stack.enter_context(_eager_experts(model))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.autocast(device, enabled=False))
        for module, _ in modes:
            module.training = False
        for weight, wanted, _ in weights:
            weight.grad = None
            if wanted:
                weight.requires_grad_(False)
        yield


def _give_back(modes: list[tuple[nn.Module, bool]], weights: list[tuple[Any, bool, Any]]) -> None:
    for module, training in modes:
        module.training = training
    for weight, wanted, gradient in weights:
        weight.requires_grad_(wanted)
        weight.grad = gradient


@contextmanager
def _eager_experts(model: nn.Module) -> Iterator[None]:
    """Experts one by one, in the model's own plain code: whose products can be seen, and in every dtype."""
    name = "_experts_implementation"
    configs = {id(c): c for m in model.modules() if hasattr(c := getattr(m, "config", None), name)}
    before = [(config, getattr(config, name)) for config in configs.values()]
    try:
        for config, _ in before:
            setattr(config, name, "eager")
        yield
    finally:
        for config, value in before:
            setattr(config, name, value)


@contextmanager
def in_place_of(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """The module runs `forward` in place of its own until the context ends."""
    before = vars(module).get("forward", ABSENT)
    module.forward = forward
    try:
        yield
    finally:
        if before is ABSENT:
            del module.forward
        else:
            module.forward = before


def unwrapped(model: Any) -> Any:
    """The model itself inside `torch.compile` or a data-parallel wrapper.

    Raises `PolicyError` where its weights are not in this process's memory, or are spread over several.
    """
    while True:
        if type(model).__name__ == "OptimizedModule":
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            break
    for name, weight in model.named_parameters():
        if weight.device.type == "meta":
            raise PolicyError(f"weight {name} is offloaded (device meta): load the policy without offloading")
        if type(weight).__name__ == "DTensor" or (hasattr(weight, "ds_id") and not weight.numel()):  # ZeRO-3
            raise _sharded(f"weight {name}")
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise _sharded(f"module {name or type(module).__name__}")
    if next(model.parameters(), None) is None:
        raise PolicyError(f"{type(model).__name__} has no parameters")
    return model


def _sharded(what: str) -> PolicyError:
    return PolicyError(f"{what} is sharded over processes: gather the policy's weights in one process")
