"""How others sketch a gradient: LESS's layout and bergson's, written here, and bergson itself where it is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.shapes import SEED
from bench.training_step import loss, trainable
from learnalign.gradient import Group, weighted
from learnalign.gradient.batching import Batch, pack

SIDE = 16


def less_style(model: Any, groups: Sequence[Group], dimension: int) -> Tensor:
    """LESS (Xia et al., arXiv 2402.04333): batch size 1, and a Rademacher projection of the whole gradient."""
    rows = []
    for group in groups:
        part = weighted(group)
        with trainable(model):
            for k in range(len(part.responses)):
                torch.autograd.backward(loss(model, pack([part.part(slice(k, k + 1))], 1, model.device)))
            rows.append(dense_projection([p.grad for p in model.parameters()], dimension))
    return torch.stack(rows)


def dense_projection(gradients: Sequence[Tensor], dimension: int, chunk: int = 1 << 20) -> Tensor:
    """The sum over all entries of entry times a row of random signs, made again for every prompt as LESS does."""
    device = gradients[0].device
    generator = torch.Generator(device).manual_seed(SEED)
    total = torch.zeros(dimension, device=device)
    for gradient in gradients:
        for some in torch.split(gradient.flatten(), chunk):
            bits = torch.randint(0, 2, (len(some), dimension), dtype=torch.int8, device=device, generator=generator)
            total += (some @ bits.to(some.dtype).mul_(2).sub_(1)).float()
    return total


def per_module(model: Any, batch: Batch) -> Tensor:
    """Every layer but the head, [responses, layers * 16 * 16]; logits of all positions, as bergson makes them."""
    rows: list[Tensor] = []
    handles = []
    for k, layer in enumerate(m for n, m in model.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in n):

        def hook(module: Any, inputs: Any, output: Tensor, k: int = k) -> None:
            left, right = factors(module, k)
            kept = inputs[0].detach() @ right

            def fold(delta: Tensor) -> None:
                rows.append(torch.einsum("rta,rtb->rab", delta @ left, kept).flatten(1))

            output.register_hook(fold)  # type: ignore[no-untyped-call]

        handles.append(layer.register_forward_hook(hook))
    handles.append(model.get_input_embeddings().register_forward_hook(lambda m, i, o: o.requires_grad_(True)))
    try:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        log_p = logits.flatten(0, 1).log_softmax(-1)[batch.predictors, batch.targets]
        torch.autograd.backward((log_p * batch.coefficients.to(log_p.dtype)).sum())
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(rows, 1)


FACTORS: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}


def factors(module: Any, k: int) -> tuple[Tensor, Tensor]:
    """Projections of one layer's outputs and inputs to 16 numbers, made once."""
    key = (id(module), k)
    if key not in FACTORS:
        generator = torch.Generator().manual_seed(k)
        sides = [torch.randn(width, SIDE, generator=generator) / SIDE**0.5 for width in module.weight.shape]
        FACTORS[key] = (sides[0].to(module.weight), sides[1].to(module.weight))
    return FACTORS[key]


def bergson(model: Any, batch: Batch) -> None:
    """bergson's own collector around its kind of pass: all logits, one row a response."""
    from bergson import GradientCollector, GradientProcessor, IndexConfig
    from datasets import Dataset

    model.get_input_embeddings().requires_grad_(True)  # as bergson does, so that gradients reach every layer
    with tempfile.TemporaryDirectory() as folder:
        collector = GradientCollector(
            model=model.base_model,
            cfg=IndexConfig(run_path=str(Path(folder) / "index"), projection_dim=SIDE),
            data=Dataset.from_dict({"input_ids": batch.input_ids.tolist()}),
            processor=GradientProcessor(projection_dim=SIDE),
            skip_index=True,
        )
        collector.save_index = False
        collector.teardown = lambda: None  # which would save the data set
        with collector:
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
            log_p = logits.flatten(0, 1).log_softmax(-1)[batch.predictors, batch.targets]
            torch.autograd.backward((log_p * batch.coefficients.to(log_p.dtype)).sum())
        if len(collector.mod_grads) != len(collector.target_info):
            raise SystemExit("bench/sketch.py: bergson did not see every layer")
    model.requires_grad_(False)
    model.zero_grad(set_to_none=True)
