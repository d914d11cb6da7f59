"""Muon, an optimizer for the weight matrices of hidden layers: momentum, orthogonalized, then applied.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). It works in the weights' own
precision (torch.optim.Muon rounds to bfloat16, which most CPUs are slow at). It is not for embeddings, norms or
the output layer, and not distributed.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


def orthogonalize(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Push the singular values of each matrix [..., rows, columns], rows <= columns, towards 1 (Newton-Schulz).

    The quintic of the reference implementation: values end between about 0.7 and 1.2, which is enough here.
    """
    x: torch.Tensor = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum 0.95, orthogonalized, scaled to the size of an AdamW step, so that rates compare.

    Parameters must be matrices; those of one shape (up to transposition) are handled in one batch.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. No closure is supported."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = {}
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(average, group["momentum"])
                wide = update if update.shape[0] <= update.shape[1] else update.T
                by_shape.setdefault(tuple(wide.shape), []).append((weight, wide))
            for shape, pairs in by_shape.items():
                updates = orthogonalize(torch.stack([update for _, update in pairs]))
                size = 0.2 * max(shape) ** 0.5  # root mean square of an orthogonal matrix against AdamW's 0.2
                for (weight, _), update in zip(pairs, updates, strict=True):
                    turned = update if weight.shape[0] <= weight.shape[1] else update.T
                    weight.add_(turned, alpha=-group["lr"] * size)
