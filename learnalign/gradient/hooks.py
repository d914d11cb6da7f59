"""Takes every layer's inputs and output gradients to the fold while a batch runs forward and backward.

A hook is an identity in the autograd graph behind a layer's output: it saves the layer's input in the forward and
folds input and output gradient together in the backward. Because the input is saved as autograd saves tensors,
activation checkpointing drops and recomputes it like everything else, and each product is folded exactly once.

With a rank k the hook keeps X P_in [T, k] and folds (Delta P_out)^T (X P_in) instead, where P has entries
+-1/sqrt(k) of fixed signs: E[P P^T] = I, so inner products stay unbiased. A side that is not wider than k stays
as it is. This module does not choose layers (see `layers`) or run the model.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from learnalign.errors import PolicyError
from learnalign.gradient.layers import Layer
from learnalign.kernels.fold import fold_segments
from learnalign.kernels.signs import signs

Fold = Callable[[Tensor, Tensor], None]
PROJECTION_ROWS = 1 << 14
"""Rows of a projection that are made at once: bounds the 64-bit integers on the way."""


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
        undo: list[Callable[[], None]] = []
        try:
            for layer in self.layers:
                if layer.module is self.head and not head:
                    continue
                offsets = target.target_offsets if id(layer.module) in in_head else target.token_offsets
                undo.append(self._tap_layer(layer, _Segments(target, layer.name, offsets)))
            yield
        finally:
            for remove in undo:
                remove()

    def _tap_layer(self, layer: Layer, segments: _Segments) -> Callable[[], None]:
        if layer.kind == "linear":

            def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
                return self._tap(layer.name, output, inputs[0], segments, segments.offsets)

            handle = layer.module.register_forward_hook(after)
            return lambda: handle.remove()
        run = self._experts if layer.kind == "experts" else self._router
        original = layer.module.forward
        layer.module.forward = partial(run, layer, original, segments)
        return lambda: delattr(layer.module, "forward")

    def _router(self, layer: Layer, original: Any, segments: _Segments, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, with a hook behind the one linear map that it applies its weight with."""

        def hook(output: Tensor, x: Tensor) -> Tensor:
            return self._tap(layer.name, output, x, segments, segments.offsets)

        with _LinearOf(layer.module.weight, hook):
            return original(*args, **kwargs)

    def _experts(
        self,
        layer: Layer,
        original: Any,
        segments: _Segments,
        hidden_states: Tensor,
        top_k_index: Tensor,
        top_k_weights: Tensor,
    ) -> Tensor:
        """Expert by expert, each on its own tokens in their order, so that segments stay together."""
        module = layer.module
        segments.check(hidden_states)
        bounds = torch.tensor(segments.offsets, device=hidden_states.device)
        result = torch.zeros_like(hidden_states)
        for e in range(module.gate_up_proj.shape[0]):
            tokens, slots = torch.where(top_k_index == e)  # by rising token
            if not len(tokens):
                continue
            offsets = torch.searchsorted(tokens, bounds).tolist()
            x = hidden_states[tokens]
            up = nn.functional.linear(x, module.gate_up_proj[e])
            up = self._tap(f"{layer.name}.gate_up_proj.{e}", up, x, segments, offsets)
            inner = _gated(module, up)
            down = nn.functional.linear(inner, module.down_proj[e])
            down = self._tap(f"{layer.name}.down_proj.{e}", down, inner, segments, offsets)
            result = result.index_add(0, tokens, (down * top_k_weights[tokens, slots, None]).to(result.dtype))
        return result

    def _tap(self, matrix: str, output: Tensor, x: Tensor, segments: _Segments, offsets: list[int]) -> Tensor:
        x = x.detach().flatten(0, -2)
        if offsets is segments.offsets:
            segments.check(x)
        if output.requires_grad:
            segments.target.reached.add(segments.layer)
        columns = x.shape[1]

        def fold(delta: Tensor, kept: Tensor) -> None:
            self.fold(segments.target.phi, matrix, delta.flatten(0, -2), kept, columns, offsets)

        hooked: Tensor = _Tap.apply(output, self.keep(matrix, x), fold)  # type: ignore[no-untyped-call]
        return hooked

    def keep(self, matrix: str, x: Tensor) -> Tensor:
        """What of a layer's inputs [T, n] is kept for the backward pass: all, or their projection [T, k]."""
        narrow = self.rank is not None and self.rank < x.shape[1]
        return x @ self.projection(matrix, "in", x.shape[1], x) if narrow else x

    def fold(self, phi: Tensor, matrix: str, delta: Tensor, kept: Tensor, columns: int, offsets: Sequence[int]) -> None:
        """Add the fold of every segment's (projected) gradient of one weight matrix [m, columns] to phi [S, d].

        delta: output gradients [T, m]. kept: what `keep` made of the inputs.
        """
        rows, scale = delta.shape[1], 1.0
        if self.rank is not None:
            if self.rank < rows:
                delta = delta @ self.projection(matrix, "out", rows, delta)
            scale = _correction(self.rank) ** sum(width > self.rank for width in (rows, columns))
        if scale != 1.0:
            delta = delta.to(phi.dtype) * scale
        fold_segments(phi, delta, kept, offsets, layer=self.keys[matrix], seed=self.seed)

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


@dataclass(frozen=True)
class Target:
    """Where the products of one batch go. reached: layers through whose outputs gradients can flow."""

    phi: Tensor  # [S, d]
    token_offsets: list[int]
    target_offsets: list[int]
    reached: set[str] = field(default_factory=set)


def segments_within(offsets: Sequence[int], first: int, last: int) -> tuple[slice, list[int]]:
    """The segments that have tokens from first to last, and where they begin and end counted from first.

    offsets: S + 1 rising token numbers; first < last <= offsets[-1].
    """
    begin = bisect_right(offsets, first) - 1
    end = bisect_left(offsets, last)
    return slice(begin, end), [min(max(o, first), last) - first for o in offsets[begin : end + 1]]


@dataclass(frozen=True)
class _Segments:
    target: Target
    layer: str
    offsets: list[int]

    def check(self, x: Tensor) -> None:
        if x.shape[0] != self.offsets[-1]:
            raise PolicyError(
                f"layer {self.layer} saw {x.shape[0]} tokens where {self.offsets[-1]} were given: "
                "layers that route or drop tokens in ways of their own are not supported"
            )


class _Tap(torch.autograd.Function):
    """The identity on a layer's output; its backward hands (output gradient, kept input) to `fold`."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, fold: Fold) -> Tensor:
        ctx.save_for_backward(x)
        ctx.fold = fold
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, None, None]:
        ctx.fold(delta, *ctx.saved_tensors)
        return delta, None, None


class _LinearOf(TorchFunctionMode):
    """Hooks calls of torch.nn.functional.linear with one certain weight."""

    def __init__(self, weight: Tensor, hook: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.hook = weight, hook

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is nn.functional.linear and len(args) > 1 and args[1] is self.weight:
            return self.hook(result, args[0])
        return result


def _gated(module: Any, up: Tensor) -> Tensor:
    if hasattr(module, "_apply_gate"):
        gated: Tensor = module._apply_gate(up)
        return gated
    gate, value = up.chunk(2, dim=-1)
    product: Tensor = module.act_fn(gate) * value
    return product


def _power(rank: int) -> float:
    return 2.0 ** -round(math.log2(rank) / 2)


def _correction(rank: int) -> float:
    """What a side's power of two lacks to 1/sqrt(k)."""
    return float(rank**-0.5 / _power(rank))
