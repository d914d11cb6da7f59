"""Every matrix against autograd: what the hooks of a model collect from two small groups, and what it should be.

A gradient W [m, n] is known by U^T W V with fixed Gaussian U, V of 8 columns each, so that whole gradients are let go
as soon as autograd has made them. A matrix counts as exact where the two agree in this projection, for every group,
and where the matrices seen of a weight hold all of its squared gradient. This module changes nothing on the model
(see `lent`) and decides nothing (see `probe`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from learnalign.gradient.batching import Batch
from learnalign.gradient.forward import response_logits
from learnalign.gradient.hooks import Hooks, Target
from learnalign.gradient.layers import Layer

WIDTH = 8
"""Columns of U and V."""
AGREE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Relative error up to which two computations in a dtype agree; models take some steps in float32 whatever theirs."""
View = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Offset, shape and strides of a matrix [m, n] within its weight."""


@dataclass
class Record(Target):
    """What the hooks collected, as projections [S, 8, 8] of every matrix of every weight, by the weight's id."""

    seen: dict[int, dict[View, Tensor]] = field(default_factory=dict)
    outputs: list[tuple[Layer, Tensor]] = field(default_factory=list)
    views: dict[str, tuple[int, View]] = field(default_factory=dict)

    def keep(self, hooks: Hooks, layer: Layer, matrix: str, view: Tensor, x: Tensor) -> Tensor:
        """All inputs."""
        where = (view.storage_offset() - layer.parameter.storage_offset(), tuple(view.shape), tuple(view.stride()))
        self.views[matrix] = (id(layer.parameter), where)
        return x

    def take(
        self, hooks: Hooks, matrix: str, delta: Tensor, kept: Tensor, columns: int, offsets: Sequence[int]
    ) -> None:
        """Add the products' projections."""
        weight, where = self.views[matrix]
        left = delta.to(self.phi.dtype) @ _gaussian(delta.shape[1], 0, self.phi)
        right = kept.to(self.phi.dtype) @ _gaussian(columns, 1, self.phi)
        parts = torch.stack([left[a:b].T @ right[a:b] for a, b in pairwise(offsets)])
        own = self.seen.setdefault(weight, {})
        own[where] = own[where] + parts if where in own else parts

    def stray(self, layer: Layer) -> None:
        """Such a layer is not hooked; the others go on."""
        self.strays.add(layer.name)

    def take_gradient(self, hooks: Hooks, layer: Layer, matrix: str, gradient: Tensor) -> None:
        """Autograd's own gradient is taken for granted."""

    def watch(self, layer: Layer, output: Tensor) -> None:
        """Remember the output, to see after the pass whether it was written to."""
        self.outputs.append((layer, output.detach()))

    @property
    def written(self) -> set[str]:
        """Layers whose outputs were written to in place."""
        return {layer.name for layer, output in self.outputs if output._version}


@dataclass
class Truth:
    """What autograd says, summed over the groups: squared gradients, and errors of what the hooks collected."""

    squares: dict[int, float] = field(default_factory=dict)
    """Squared gradient of every weight, by its id."""
    tied: float = 0.0
    """Squared gradient of the embedding table as the input side."""
    errors: dict[int, float] = field(default_factory=dict)
    """Squared error of the projections of every weight."""
    projected: dict[int, float] = field(default_factory=dict)
    """Squares of the projections themselves."""

    def error(self, weight: Tensor) -> float:
        """Relative error of a weight's gradient by the hooks; NaN where it is not finite, 0 where both are 0."""
        error, size = self.errors.get(id(weight), 0.0), self.projected.get(id(weight), 0.0)
        return (error / size) ** 0.5 if size else (float("inf") if error else 0.0)


def collect(model: Any, hooks: Hooks, batch: Batch) -> Record:
    """One forward and one backward pass with every layer hooked. Raises what the model raises."""
    wide = torch.float64 if hooks.head.weight.dtype == torch.float64 else torch.float32
    record = Record(
        torch.zeros(len(batch.token_offsets) - 1, 128, dtype=wide, device=batch.input_ids.device),
        batch.token_offsets,
        batch.target_offsets,
    )
    with torch.enable_grad(), hooks.on(record):
        sum(_losses(response_logits(model, batch), batch)).backward()  # type: ignore[union-attr]
    return record


def truth(model: Any, weights: Sequence[Tensor], batch: Batch, record: Record) -> Truth:
    """Autograd's gradients of the same loss by the model's own code, compared with the record one group after another.

    A gradient is compared and let go as soon as it is made: memory holds one or two of them.
    """
    found, embedded = Truth(), []  # type: ignore[var-annotated]
    wanted = [weight for weight in weights if weight.is_floating_point()]
    with _wanted(wanted):
        with torch.enable_grad():
            losses = _losses(response_logits(model, batch, embedded), batch)
        for segment, loss in enumerate(losses):
            met: set[int] = set()
            with ExitStack() as stack:
                for weight in wanted:
                    compare = partial(_compare_and_drop, found, weight, record, segment, met)
                    stack.callback(weight.register_hook(compare).remove)  # type: ignore[no-untyped-call]
                inputs = [*wanted, *embedded[:1]]
                gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
            for weight in wanted:
                if id(weight) not in met:
                    _compare(found, weight, None, record, segment)
            found.tied += _input_side(gradients[-1], batch.input_ids)
    return found


@contextmanager
def _wanted(weights: Sequence[Tensor]) -> Iterator[None]:
    """Weights with gradients, then as before."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, wish in zip(weights, before, strict=True):
            weight.requires_grad_(wish)


def _compare_and_drop(
    found: Truth, weight: Tensor, record: Record, segment: int, met: set[int], gradient: Tensor
) -> Tensor:
    """A hook: in place of the gradient go zeros that take no memory."""
    met.add(id(weight))
    _compare(found, weight, gradient, record, segment)
    return gradient.new_zeros(()).expand_as(gradient)


def _losses(logits: Tensor, batch: Batch) -> list[Tensor]:
    """One loss a group: log-probabilities of its response tokens times their coefficients."""
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logits = logits.to(wide)
    log_p = logits.gather(1, batch.targets[:, None]).squeeze(1) - logits.logsumexp(1)
    weighted = log_p * batch.coefficients.to(wide)
    return [weighted[a:b].sum() for a, b in pairwise(batch.target_offsets)]


def _compare(found: Truth, weight: Tensor, gradient: Tensor | None, record: Record, segment: int) -> None:
    views = record.seen.get(id(weight), {})
    whole = 0.0 if gradient is None else _square(gradient)
    found.squares[id(weight)] = found.squares.get(id(weight), 0.0) + whole
    if not views:
        return
    if gradient is None:
        gradient = torch.zeros_like(weight)
    if gradient.stride() != weight.stride():
        gradient = torch.empty_like(weight).copy_(gradient)
    error, size, seen = 0.0, 0.0, 0.0
    for (offset, shape, stride), parts in views.items():
        matrix = gradient.as_strided(shape, stride, offset)
        seen += whole if matrix.numel() == gradient.numel() else _square(matrix)
        left, right = _gaussian(shape[0], 0, matrix), _gaussian(shape[1], 1, matrix)
        projected = (left.T @ (matrix @ right)).to(parts.dtype)
        error += _square(projected - parts[segment])
        size += _square(projected)
    if abs(seen - whole) > 1e-3 * whole:  # parts of the gradient that no view holds, or that two hold
        error += abs(seen - whole) / max(whole, 1e-300) * size + abs(seen - whole)
    found.errors[id(weight)] = found.errors.get(id(weight), 0.0) + error
    found.projected[id(weight)] = found.projected.get(id(weight), 0.0) + size


def _square(tensor: Tensor) -> float:
    return float(tensor.double().square().sum() if tensor.numel() < 1 << 16 else tensor.float().norm().double() ** 2)


def _input_side(gradient: Tensor | None, ids: Tensor) -> float:
    """Squared gradient of the embedding table through the lookups of `ids`, from that of the embedded tokens."""
    if gradient is None or gradient.ndim != 3 or gradient.shape[:2] != ids.shape:
        return 0.0
    _, number = torch.unique(ids, return_inverse=True)
    number = number.flatten()
    rows = gradient.new_zeros(int(number.max()) + 1, gradient.shape[2], dtype=torch.float64)
    return _square(rows.index_add(0, number, gradient.flatten(0, 1).double()))


def _gaussian(size: int, side: int, like: Tensor) -> Tensor:
    """U or V [size, 8], the same at every call."""
    return _made(size, side).to(like)


@lru_cache(maxsize=16)
def _made(size: int, side: int) -> Tensor:
    return torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(side), dtype=torch.float64)
