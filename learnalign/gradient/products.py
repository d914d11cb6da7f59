"""Sees every matrix product that a piece of a model makes with one of certain weights, whatever form the call takes.

A weight is known by its storage, so that views of it (one expert, a transpose, a slice) are known as well, and casts
of it are followed. Recognized are `linear`, `matmul`, `mm`, `bmm`, `addmm` and `baddbmm`. What a weight does in any
other way is not seen: the probe finds that out (see `verify`). This module folds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Hook = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(number of the weight, view of it [..., out, in], output [..., T, out], inputs [..., T, in]) to the output."""

CASTS = {
    getattr(torch.Tensor, name)
    for name in ("to", "type", "type_as", "float", "double", "half", "bfloat16", "contiguous")
}
LINEAR = {functional.linear}
TIMES = {torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm}
ADDED = {torch.addmm, torch.baddbmm, Tensor.addmm, Tensor.baddbmm}


class Products(TorchFunctionMode):
    """Active as a context; hands every product with one of `weights` to `hook`, which returns the output to use."""

    def __init__(self, weights: Sequence[Tensor], hook: Hook) -> None:
        super().__init__()
        self.weights, self.hook = weights, hook
        self.where: dict[int, tuple[int, int]] = {}  # storage of a weight or of its cast: weight, shift in elements
        self.alive: list[Tensor] = []  # casts, so that no other tensor comes to lie where they are
        for number, weight in enumerate(weights):
            self.where[_storage(weight)] = (number, 0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in CASTS and args and isinstance(result, Tensor):
            self._follow(args[0], result)
            return result
        operands = _operands(func, args, kwargs)
        if operands is None or not isinstance(result, Tensor):
            return result
        x, weight = operands
        found = self._weight(weight)
        if found is None or weight.ndim < 2 or x.ndim < 2:
            return result
        number, view = found
        return self.hook(number, view, result, x)

    def _weight(self, operand: Any) -> tuple[int, Tensor] | None:
        """The weight that [out, in] `operand` is a view of, and the same view of the weight itself."""
        if not isinstance(operand, Tensor) or operand.layout != torch.strided:
            return None
        known = self.where.get(_storage(operand))
        if known is None:
            return None
        number, shift = known
        own = self.weights[number].detach()
        return number, own.as_strided(operand.shape, operand.stride(), operand.storage_offset() + shift)

    def _follow(self, source: Any, cast: Tensor) -> None:
        known = self.where.get(_storage(source)) if isinstance(source, Tensor) else None
        if known is None or _storage(cast) == _storage(source) or not cast.is_floating_point():
            return
        if cast.shape == source.shape and cast.stride() == source.stride():
            number, shift = known
            self.where[_storage(cast)] = (number, shift + source.storage_offset() - cast.storage_offset())
            self.alive.append(cast)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _operands(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor] | None:
    """(x, weight as [..., out, in]) where `func` is a matrix product, or None."""
    if func in LINEAR:
        given = [*args, *(kwargs[name] for name in ("input", "weight") if name in kwargs)]
        return given[0], given[1]
    inputs: tuple[Any, ...] = tuple(args) if func in TIMES else tuple(args[1:]) if func in ADDED else ()
    if len(inputs) < 2 or not isinstance(inputs[1], Tensor) or inputs[1].ndim < 2:
        return None
    return inputs[0], inputs[1].mT
