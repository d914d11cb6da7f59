"""What does the fold cost on top of the weight-gradient product it hides in?

Ways to the same sketches of some prompts' tokens, for the layer shapes of SmolLM2-135M (CPU) or of Qwen2.5-1.5B and
7B (CUDA, 1 and 8 segments of 500, 2,500 and 8,000 tokens): the product delta^T x alone, which any training step pays;
torch makes the whole weight gradients and folds them; ours is `fold_segments`, as a sketch uses it, and on a GPU also
with its blocks read by pointers, where ours takes tensor descriptors. The floor is computed, from operations and bytes
over what the device was seen to do (`bench.ceilings`). Ours is checked against float64 before it is timed. Times are
the best of several rounds, in which all take turns; memory is the peak beyond the inputs.

A model's figure counts its layers as often as a block has them (two of the shape of keys, two of queries, two that go
up).

    python -m bench.fold [--quick]

The last line is one JSON object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from learnalign.kernels.fold import backend, fold_matrices, fold_reference, fold_segments
from torch import Tensor

from bench.ceilings import Ceilings, best_device, best_on, ceilings, device_name, rounded
from bench.measure import asked_quick, finish
from bench.memory import extra_bytes

DIMENSION = 8192
KEYS = {"layer": 7, "seed": 11}
TOLERANCE, FLOOR = 4.0, 2e-5
"""Allowed error, over that of the reference in float32 and of the sketch's norm, both against float64: matrix units
truncate where they add, which grows with the tokens (by simulation 7 times float32's error at 2,500)."""
BAR = {"qwen2.5-1.5b": 0.6, "qwen2.5-7b": 0.6}
"""Of the measured rate of a large product."""
SHAPES: dict[str, dict[str, dict[str, tuple[int, int]]]] = {
    "cpu": {"smollm2-135m": {"down": (576, 1536), "up": (1536, 576), "query": (576, 576), "key": (192, 576)}},
    "cuda": {
        "qwen2.5-1.5b": {"down": (1536, 8960), "up": (8960, 1536), "query": (1536, 1536), "key": (256, 1536)},
        "qwen2.5-7b": {"down": (3584, 18944), "up": (18944, 3584), "query": (3584, 3584), "key": (512, 3584)},
    },
}
SEGMENTS = {"cpu": [(1, 1000)], "quick": [(1, 100), (2, 50)],
            "cuda": [(s, t) for t in (2500, 500, 8000) for s in (8, 1)]}  # fmt: skip
"""Number and tokens of segments; bars are those of the first."""
COUNT = {"down": 1, "up": 2, "query": 2, "key": 2}
"""Layers of a shape in one block; the output projection has the shape of the queries'."""


def main() -> None:
    """Check, time, print a table and its numbers."""
    quick = asked_quick(__doc__, "few rounds, one shape, few tokens")
    device = best_device()
    ceiling = ceilings(device, quick)
    print(f"{device_name(device)}; {ceiling.words()}; d = {DIMENSION}")
    rows: list[dict[str, Any]] = []
    models: dict[str, dict[str, Any]] = {}
    for segments, tokens in SEGMENTS["quick" if quick else device]:
        offsets = [tokens * k for k in range(segments + 1)]
        print(f"\n{segments} x {tokens:,} tokens\n{'model':<14}{'layer':<7}{'m x n':>14}{'floor ms':>10}"
              f"{'product':>9}{'torch':>9}{'ours':>9}{'pointers':>10}{'of product':>12}{'of ceiling':>12}"
              f"{'GiB ours':>10}{'torch':>8}")  # fmt: skip
        for model, layers in SHAPES[device].items():
            some = [
                measure(model, name, shape, offsets, device, ceiling, 2 if quick else 5)
                for name, shape in list(layers.items())[: 1 if quick else None]
            ]
            rows += some
            models[f"{model}, {segments} x {tokens}"] = figures = of_model(some)
            print(f"{model}: {figures}", flush=True)
    first = "{}, {} x {}".format
    segments, tokens = SEGMENTS["quick" if quick else device][0]
    met = {m: models[first(m, segments, tokens)]["of_ceiling"] >= bar for m, bar in BAR.items() if m in SHAPES[device]}
    summary = ", ".join(f"{name} {figures['of_ceiling']:.2f}" for name, figures in models.items())
    result = {
        "device": device_name(device),
        "quick": quick,
        "ceilings": ceiling.facts(),
        "models": models,
        "layers": rows,
    }
    finish(
        "fold",
        {**result, "bars_met": None if quick else met, "summary": f"of the ceiling: {summary}"},
        "torch",
        "triton",
    )


def measure(
    model: str, name: str, shape: tuple[int, int], offsets: list[int], device: str, ceiling: Ceilings, rounds: int
) -> dict[str, Any]:
    """One layer shape: agreement first, then times in milliseconds."""
    m, n = shape
    segments, tokens = len(offsets) - 1, offsets[-1]
    generator = torch.Generator(device).manual_seed(m + n)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    delta, x = (torch.randn(tokens, k, generator=generator, device=device).to(dtype) for k in (m, n))
    phi = torch.zeros(segments, DIMENSION, device=device)
    ways: dict[str, Callable[[], Any]] = {
        "product": lambda: products(delta, x, segments),
        "torch": lambda: materialized(phi, delta, x, offsets),
        "ours": lambda: fold_segments(phi, delta, x, offsets, **KEYS),
    }
    check(phi, delta, x, offsets)
    if backend(phi) == "triton":
        ways["pointers"] = lambda: by_pointers(phi, delta, x, offsets)
        check(phi, delta, x, offsets, by_pointers)
    memory = {way: extra_bytes(run, device) for way, run in ways.items()}
    best = best_on(device, rounds, **ways)
    operations = 2.0 * tokens * m * n
    floor = ceiling.floor(operations, delta.nbytes + x.nbytes + phi.nbytes)
    row = {
        "model": model,
        "layer": name,
        "segments": segments,
        "tokens": offsets[1],
        "m": m,
        "n": n,
        "backend": backend(phi),
        "operations": operations,
        "floor_ms": round(1e3 * floor, 3),
        "ms": rounded(best),
        "of_product": round(best["product"] / best["ours"], 3),
        "of_ceiling": round(operations / best["ours"] / ceiling.flops, 3),
        "gib": {way: round(value / 2**30, 3) for way, value in memory.items()},
    }
    print(f"{model:<14}{name:<7}{f'{m} x {n}':>14}{row['floor_ms']:>10.3f}"
          + "".join(f"{1e3 * best[way]:>9.3f}" for way in ("product", "torch", "ours"))
          + (f"{1e3 * best['pointers']:>10.3f}" if "pointers" in best else f"{'-':>10}")
          + f"{row['of_product']:>12.3f}{row['of_ceiling']:>12.3f}"
          f"{row['gib']['ours']:>10.2f}{row['gib']['torch']:>8.2f}", flush=True)  # fmt: skip
    return row


def of_model(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """One block: its layers' operations over their time, as a share of what the ceiling and the bare products allow."""
    times = [(COUNT[row["layer"]] * row["ms"]["ours"], row) for row in rows]
    ours = sum(time for time, _ in times)
    product = sum(COUNT[row["layer"]] * row["ms"]["product"] for _, row in times)
    at_ceiling = sum(time * row["of_ceiling"] for time, row in times)
    return {"of_ceiling": round(at_ceiling / ours, 3), "of_product": round(product / ours, 3)}


def products(delta: Tensor, x: Tensor, segments: int) -> Tensor:
    """Weight gradients [S, m, n] of segments of one length, in the inputs' type and one call."""
    return torch.bmm(delta.view(segments, -1, delta.shape[1]).transpose(1, 2), x.view(segments, -1, x.shape[1]))


def materialized(phi: Tensor, delta: Tensor, x: Tensor, offsets: Sequence[int]) -> None:
    """Every segment's whole gradient in the inputs' type, then its fold."""
    for segment, (a, b) in enumerate(pairwise(offsets)):
        gradient = (delta[a:b].T @ x[a:b]).to(phi.dtype)
        fold_matrices(phi[segment : segment + 1], gradient[None], **KEYS)


def by_pointers(phi: Tensor, delta: Tensor, x: Tensor, offsets: Sequence[int], **keys: int) -> None:
    """The GPU's kernel as it is where descriptors are not to be had."""
    from learnalign.kernels import fold_triton

    describable = fold_triton.describable
    fold_triton.describable = lambda matrix: False
    try:
        fold_triton.fold_triton(phi, delta, x, offsets, **(keys or KEYS))
    finally:
        fold_triton.describable = describable


def check(phi: Tensor, delta: Tensor, x: Tensor, offsets: list[int], fold: Callable[..., None] = fold_segments) -> None:
    """Ours against float64; the yardstick is the reference's own error in float32."""
    truth, eager, ours = phi.double(), phi.clone(), phi.clone()
    fold_reference(truth, delta, x, offsets, **KEYS)
    fold_reference(eager, delta, x, offsets, **KEYS)
    fold(ours, delta, x, offsets, **KEYS)
    error, yardstick = ((y.double() - truth).norm().item() for y in (ours, eager))
    if not error <= max(TOLERANCE * yardstick, FLOOR * truth.norm().item()):
        raise SystemExit(f"ours is off by {error:.3g} (norm), plain float32 by {yardstick:.3g}: not timed")


if __name__ == "__main__":
    main()
