"""Takes every layer's inputs and output gradients to the fold while a batch runs forward and backward.

A hook is an identity in the autograd graph behind a layer's output: it saves the layer's input in the forward and
folds input and output gradient together in the backward. Because the input is saved as autograd saves tensors,
activation checkpointing drops and recomputes it like everything else, and each product is folded exactly once. A
few weights are used in ways that no hook sees; autograd itself makes their gradients, which are folded at the end.

With a rank k the hook keeps X P_in [T, k] and folds (Delta P_out)^T (X P_in) instead, where P has entries
+-1/sqrt(k) of fixed signs: E[P P^T] = I, so inner products stay unbiased. A side that is not wider than k stays
as it is. This module does not choose layers (see `layers`) or run the model.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from learnalign.gradient import experts
from learnalign.gradient.layers import Layer, matrix_name
from learnalign.gradient.lent import in_place_of
from learnalign.gradient.products import Products
from learnalign.kernels.fold import fold_matrices, fold_segments
from learnalign.kernels.precision import plain_float32
from learnalign.kernels.signs import signs

Fold = Callable[[Tensor, Tensor], None]
PROJECTION_ROWS = 1 << 14
"""Rows of a projection that are made at once: bounds the 64-bit integers on the way."""


class StrayTokens(Exception):
    """A layer sees tokens that cannot be told apart by prompt: prompts must then run one by one."""


@dataclass
class Hooks:
    """The hooks of one model. keys: of every matrix. rank: None folds whole products."""

    layers: Sequence[Layer]
    head: nn.Module
    keys: dict[str, int]
    seed: int
    rank: int | None = None
    projections: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    @contextmanager
    def on(self, target: Target, *, head: bool = True) -> Iterator[None]:
        """Every layer hooked, its products going to `target`, until the context ends (after the backward pass).

        head: whether the vocabulary head is hooked like the others; False where `fold_head` takes its products.
        """
        in_head = {id(module) for module in self.head.modules()}
        chosen = [layer for layer in self.layers if head or layer.module is not self.head]
        with ExitStack() as stack:
            for (module, kind), layers in groupby(chosen, key=lambda layer: (layer.module, layer.kind)):
                spans = target.target_offsets if id(module) in in_head else target.token_offsets
                self._enter(stack, module, kind, list(layers), _Spans(target, spans))
            yield
            for layer in chosen:
                if layer.kind == "autograd":
                    self._fold_gradient(layer, target)

    def _enter(self, stack: ExitStack, module: Any, kind: str, layers: list[Layer], spans: _Spans) -> None:
        if kind == "linear":
            stack.callback(module.register_forward_hook(partial(self._after, layers[0], spans)).remove)
        elif kind == "experts":
            names = experts.stacked(module)
            assert names is not None  # or they would not be of this kind
            stack.enter_context(in_place_of(module, partial(self._experts, layers, names, spans)))
        elif kind == "products":
            stack.enter_context(in_place_of(module, partial(self._products, layers, module.forward, spans)))
        else:
            for layer in layers:
                stack.callback(layer.parameter.requires_grad_, layer.parameter.requires_grad)
                layer.parameter.requires_grad_(True)

    def _after(self, layer: Layer, spans: _Spans, module: Any, inputs: tuple[Tensor, ...], output: Any) -> Any:
        weight = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
        return self._tap(layer, layer.name, weight, output, inputs[0], spans)

    def _experts(
        self,
        layers: list[Layer],
        names: tuple[str, str],
        spans: _Spans,
        hidden: Tensor,
        chosen: Tensor,
        weights: Tensor,
    ) -> Tensor:
        own = {layer.attribute: layer for layer in layers}

        def hook(name: str, e: int, view: Tensor, output: Tensor, x: Tensor, offsets: list[int]) -> Tensor:
            layer = own.get(name)
            return output if layer is None else self._tap(layer, f"{layer.name}.{e}", view, output, x, spans, offsets)

        flat = hidden.flatten(0, -2)
        offsets = spans.of(layers[0], len(flat)) or [0, len(flat)]  # of a stray: only the outputs count
        result: Tensor = experts.run(layers[0].module, names, flat, chosen, weights, offsets, hook)
        return result.view(hidden.shape)

    def _products(self, layers: list[Layer], original: Any, spans: _Spans, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, with a hook behind every product with one of its weights."""

        def hook(number: int, view: Tensor, output: Tensor, x: Tensor) -> Tensor:
            layer = layers[number]
            if view.ndim == 2:
                hooked: Tensor = self._tap(layer, matrix_name(layer, view), view, output, x, spans)
                return hooked
            if view.ndim > 3 or x.ndim > 3:
                return output
            x = x.expand(len(view), -1, -1)
            parts = zip(view, output, x, strict=True)
            return torch.stack([self._tap(layer, matrix_name(layer, v), v, o, i, spans) for v, o, i in parts])

        with Products([layer.parameter for layer in layers], hook):
            return original(*args, **kwargs)

    def _tap(
        self,
        layer: Layer,
        matrix: str,
        view: Tensor,
        output: Any,
        x: Tensor,
        spans: _Spans,
        offsets: list[int] | None = None,
    ) -> Any:
        """The output [..., m] with a hook behind it. view: the weight [m, n] behind it. x: [..., n]."""
        if not isinstance(output, Tensor):
            return output
        target = spans.target
        x = x.detach().flatten(0, -2)
        offsets = spans.of(layer, len(x)) if offsets is None else offsets
        if offsets is None or layer.name in target.strays:
            return output
        if output.requires_grad:
            target.reached.add(layer.name)
        columns = x.shape[1]

        def fold(delta: Tensor, kept: Tensor) -> None:
            target.take(self, matrix, delta.flatten(0, -2), kept, columns, offsets)

        kept = target.keep(self, layer, matrix, view, x)
        hooked: Tensor = _Tap.apply(output, kept, fold, layer.clone)  # type: ignore[no-untyped-call]
        target.watch(layer, hooked)
        return hooked

    def _fold_gradient(self, layer: Layer, target: Target) -> None:
        """Of a weight whose gradient autograd made, of the one prompt in the batch."""
        gradient = layer.parameter.grad
        layer.parameter.grad = None
        if gradient is None:
            return
        if len(target.phi) != 1:
            raise StrayTokens(layer.name)
        target.reached.add(layer.name)
        for name, matrix in zip(layer.matrices, layer.stack(gradient), strict=True):
            target.take_gradient(self, layer, name, matrix)

    def keep(self, matrix: str, x: Tensor) -> Tensor:
        """What of a layer's inputs [T, n] is kept for the backward pass: all, or their projection [T, k]."""
        narrow = self.rank is not None and self.rank < x.shape[1]
        if not narrow:
            return x
        with plain_float32():
            return x @ self.projection(matrix, "in", x.shape[1], x)

    def key(self, matrix: str) -> int:
        """The matrix's key; of a slice of a weight, which is met as it is used, from its name as well."""
        return self.keys.setdefault(matrix, zlib.crc32(matrix.encode()))

    def fold(
        self,
        phi: Tensor,
        matrix: str,
        delta: Tensor,
        kept: Tensor,
        columns: int,
        offsets: Sequence[int],
        scale: float = 1.0,
    ) -> None:
        """Add the fold of every segment's (projected) gradient of one weight matrix [m, columns] to phi [S, d].

        delta: output gradients [T, m]. kept: what `keep` made of the inputs. scale: multiplies the result.
        """
        rows = delta.shape[1]
        if self.rank is not None:
            if self.rank < rows:
                with plain_float32():
                    delta = delta @ self.projection(matrix, "out", rows, delta)
            scale *= _correction(self.rank) ** sum(width > self.rank for width in (rows, columns))
        fold_segments(phi, delta, kept, offsets, layer=self.key(matrix), seed=self.seed, scale=scale)

    def fold_matrix(self, phi: Tensor, matrix: str, gradient: Tensor, scale: float = 1.0) -> None:
        """Add the fold of one weight's gradient [m, n] to phi [1, d]."""
        wide = gradient.to(phi.dtype) * scale
        if self.rank is not None:
            wide = self.keep(matrix, wide)
            for width in gradient.shape:
                wide = wide * (_correction(self.rank) if width > self.rank else 1.0)
            if self.rank < len(wide):
                wide = self.projection(matrix, "out", len(wide), wide).T @ wide
        fold_matrices(phi, wide[None].contiguous(), layer=self.key(matrix), seed=self.seed)

    def fold_head(self, target: Target, hidden: Tensor, delta: Tensor, first: int) -> None:
        """Fold the head's products of the response tokens first, first + 1, ...; nothing where it is not a layer.

        hidden: [N, D], the head's inputs at all response tokens. delta: [b, V], of b of them. Tokens of one prompt
        may come in several calls.
        """
        layer = next((layer for layer in self.layers if layer.module is self.head), None)
        if layer is None:
            return
        last = first + len(delta)
        rows, offsets = segments_within(target.target_offsets, first, last)
        x = hidden[first:last]
        self.fold(target.phi[rows], layer.name, delta, self.keep(layer.name, x), x.shape[1], offsets)

    def projection(self, matrix: str, side: str, width: int, like: Tensor) -> Tensor:
        """Signs times a power of two near 1/sqrt(k), exact in every dtype: [width, k]; made once. side: in or out."""
        key = self.keys[matrix]
        known = self.projections.get((key, side))
        if known is None or known.dtype != like.dtype or known.device != like.device:
            assert self.rank is not None
            own = zlib.crc32(f"{key:08x}/{side}".encode())
            rows = torch.split(torch.arange(width, device=like.device), PROJECTION_ROWS)
            parts = [signs(self.seed, own, some, self.rank)[:, : self.rank].to(like.dtype) for some in rows]
            known = torch.cat(parts) * _power(self.rank)
            self.projections[key, side] = known
        return known


@dataclass
class Target:
    """Where the products of one batch go. reached: layers through whose outputs gradients can flow."""

    phi: Tensor  # [S, d]
    token_offsets: list[int]
    target_offsets: list[int]
    scale: float = 1.0
    """Of everything that comes back through the model: one over what the gradient was multiplied by there."""
    reached: set[str] = field(default_factory=set)
    strays: set[str] = field(default_factory=set)

    def stray(self, layer: Layer) -> None:
        """A layer saw rows that cannot be told apart by prompt. Raises `StrayTokens`."""
        raise StrayTokens(layer.name)

    def keep(self, hooks: Hooks, layer: Layer, matrix: str, view: Tensor, x: Tensor) -> Tensor:
        """What is kept of inputs [T, n] for `take`."""
        return hooks.keep(matrix, x)

    def take(
        self, hooks: Hooks, matrix: str, delta: Tensor, kept: Tensor, columns: int, offsets: Sequence[int]
    ) -> None:
        """Output gradients [T, m] of one product, and what `keep` kept."""
        hooks.fold(self.phi, matrix, delta, kept, columns, offsets, self.scale)

    def take_gradient(self, hooks: Hooks, layer: Layer, matrix: str, gradient: Tensor) -> None:
        """The gradient [m, n] of one matrix, by autograd."""
        hooks.fold_matrix(self.phi, matrix, gradient, self.scale)

    def watch(self, layer: Layer, output: Tensor) -> None:
        """Called with every hooked output."""


def segments_within(offsets: Sequence[int], first: int, last: int) -> tuple[slice, list[int]]:
    """The segments that have tokens from first to last, and where they begin and end counted from first.

    offsets: S + 1 rising token numbers; first < last <= offsets[-1].
    """
    begin = bisect_right(offsets, first) - 1
    end = bisect_left(offsets, last)
    return slice(begin, end), [min(max(o, first), last) - first for o in offsets[begin : end + 1]]


@dataclass(frozen=True)
class _Spans:
    target: Target
    offsets: list[int]

    def of(self, layer: Layer, rows: int) -> list[int] | None:
        """Where every prompt's rows begin and end among as many rows as a layer sees; None where the target bears it.

        Raises `StrayTokens` where that is unknown.
        """
        if rows == self.offsets[-1]:
            return self.offsets
        if len(self.target.phi) == 1:
            return [0, rows]
        self.target.stray(layer)
        return None


class _Tap(torch.autograd.Function):
    """The identity on a layer's output; its backward hands (output gradient, kept input) to `fold`.

    A clone may be written to in place by what comes behind; it costs a copy.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, fold: Fold, clone: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.fold = fold
        return output.clone() if clone else output.view_as(output)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.fold(delta, *ctx.saved_tensors)
        return delta, None, None, None


def _power(rank: int) -> float:
    return 2.0 ** -round(math.log2(rank) / 2)


def _correction(rank: int) -> float:
    """What a side's power of two lacks to 1/sqrt(k)."""
    return float(rank**-0.5 / _power(rank))
