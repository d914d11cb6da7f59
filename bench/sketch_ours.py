"""How the package sketches a gradient, and how far that is from the float64 gradient, folded by the plain reference."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from learnalign.kernels.fold import fold_matrices
from torch import Tensor

from bench.shapes import SEED, random_groups
from bench.training_step import loss, trainable
from learnalign.config import SketchConfig
from learnalign.gradient import Group, Sketcher, weighted
from learnalign.gradient.batching import Batch, pack

DIMENSION = 8192
RANK = 128
BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
TOLERANCE = 3.0
"""Allowed error over that of the floor's own gradient in the same dtype, both against float64."""


def sketcher_of(model: Any, rank: int = 0, share: bool = True) -> Sketcher:
    return Sketcher(model, SketchConfig(dimension=DIMENSION, seed=SEED, rank=rank, share_prompts=share))


def ours(sketcher: Sketcher, groups: Sequence[Group]) -> None:
    """What the package does: prompts whose responses are all alike have no gradient and are never run."""
    groups = [group for group in groups if len(set(group.rewards)) > 1]
    for chosen in sketcher.batches(groups, BATCH_TOKENS[sketcher.device.type]):
        sketcher.sketch([groups[i] for i in chosen])


def check(model: Any, device: str) -> None:
    """Ours against the float64 gradient of a small group; exits where it is too far off."""
    groups = random_groups(model, 1, (5, 15), prompt=30)
    batch = pack([weighted(groups[0])], 1, device)
    wide = copy.deepcopy(model).double()
    for rank in (0, RANK):
        hooks = sketcher_of(model, rank).hooks
        truth, plain = (fold_gradients(some, batch, hooks) for some in (wide, model))
        yardstick = ((plain - truth).norm() / truth.norm()).item()
        for share in (True, False):
            phi = torch.from_numpy(sketcher_of(model, rank, share).sketch(groups)[0]).to(truth)
            error = ((phi - truth).norm() / truth.norm()).item()
            print(f"rank {rank}, shared {share}: error {error:.1e}; of the floor's own gradient {yardstick:.1e}")
            if not error <= TOLERANCE * yardstick:
                raise SystemExit("bench/sketch.py: ours is too far from the float64 gradient: nothing was timed")
    del wide
    gc.collect()


def fold_gradients(model: Any, batch: Batch, hooks: Any) -> Tensor:
    """The fold, in float64, of the (projected) weight gradients that autograd makes."""
    phi = torch.zeros(1, DIMENSION, dtype=torch.float64, device=batch.input_ids.device)
    layers = dict(model.named_modules())
    with trainable(model), embedding_cut(model):
        torch.autograd.backward(loss(model, batch))
        for name in (layer.name for layer in hooks.layers):
            gradient = layers[name].weight.grad.double()
            if hooks.rank is not None:
                for side, axis in (("out", 0), ("in", 1)):
                    width = gradient.shape[axis]
                    if width > hooks.rank:
                        signs = hooks.projection(name, side, width, gradient[:0]).sign() / hooks.rank**0.5
                        gradient = signs.T @ gradient if axis == 0 else gradient @ signs
            fold_matrices(phi, gradient[None].contiguous(), layer=hooks.keys[name], seed=SEED)
    hooks.projections.clear()
    return phi[0]


@contextmanager
def embedding_cut(model: Any) -> Iterator[None]:
    """A tied head's gradient without the table's: the table's output is a start of its own."""
    handle = model.get_input_embeddings().register_forward_hook(lambda m, i, o: o.detach().requires_grad_(True))
    try:
        yield
    finally:
        handle.remove()
