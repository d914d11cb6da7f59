"""What does the fold cost on top of the weight-gradient product it hides in?

Three ways to the same sketch of one prompt's tokens, for the layer shapes of SmolLM2-135M (CPU) or Qwen2.5-1.5B
(CUDA): the floor is the plain product delta^T x, which any training step pays; the reference makes the whole weight
gradient in torch and then folds it; ours is `fold_segments`. Ours is checked against float64 before it is timed.
Times are the best of several rounds, in which the three take turns.

    python -m bench.fold [--quick]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from learnalign.kernels.fold import backend, fold_reference, fold_segments

DIMENSION = 8192
KEYS = {"layer": 7, "seed": 11}
TOLERANCE = 4.0
"""Allowed error over that of the reference in the inputs' own type, both against float64."""
SHAPES = {
    "cpu": {"mlp down": (576, 1536), "mlp up": (1536, 576), "attention": (576, 576), "key": (192, 576)},
    "cuda": {"mlp down": (1536, 8960), "mlp up": (8960, 1536), "attention": (1536, 1536), "key": (256, 1536)},
}


def main() -> None:
    """Check, time, print a table and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, one shape")
    quick = parser.parse_args().quick
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    offsets = [0, 1000] if device == "cpu" else [2500 * k for k in range(9)]
    shapes = list(SHAPES[device].items())[: 1 if quick else None]
    print(f"{machine(device)}; {dtype}, {len(offsets) - 1} segments of {offsets[1]} tokens, d = {DIMENSION}")
    print(f"{'layer':<12}{'m x n':>14}{'floor ms':>10}{'reference':>11}{'ours':>9}{'ours/floor':>12}{'TFLOP/s':>9}")
    rows = [measure(name, *shape, offsets, dtype, device, 3 if quick else 15) for name, shape in shapes]
    print(json.dumps({"bench": "fold", "machine": machine(device), "torch": torch.__version__, "layers": rows}))


def measure(
    name: str, m: int, n: int, offsets: list[int], dtype: torch.dtype, device: str, rounds: int
) -> dict[str, object]:
    """One layer shape: agreement first, then times in milliseconds."""
    generator = torch.Generator().manual_seed(m + n)
    delta = torch.randn(offsets[-1], m, generator=generator).to(device, dtype)
    x = torch.randn(offsets[-1], n, generator=generator).to(device, dtype)
    phi = torch.zeros(len(offsets) - 1, DIMENSION, device=device)
    check(phi, delta, x, offsets)

    def floor() -> None:
        for a, b in pairwise(offsets):
            torch.mm(delta[a:b].T, x[a:b])

    ways: dict[str, Callable[[], None]] = {
        "floor": floor,
        "reference": lambda: fold_reference(phi, delta, x, offsets, **KEYS),
        "ours": lambda: fold_segments(phi, delta, x, offsets, **KEYS),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, run in ways.items():
            best[way] = min(best[way], seconds(run, device))
    milliseconds = {way: round(1e3 * best[way], 3) for way in ways}
    ratio, speed = best["ours"] / best["floor"], 2e-12 * offsets[-1] * m * n / best["ours"]
    print(
        f"{name:<12}{f'{m} x {n}':>14}{milliseconds['floor']:>10.2f}{milliseconds['reference']:>11.2f}"
        f"{milliseconds['ours']:>9.2f}{ratio:>12.3f}{speed:>9.3f}"
    )
    return {"layer": name, "m": m, "n": n, "backend": backend(phi), "ms": milliseconds, "ratio": round(ratio, 4)}


def check(phi: torch.Tensor, delta: torch.Tensor, x: torch.Tensor, offsets: list[int]) -> None:
    """Ours against float64; the yardstick is the reference's own error in float32."""
    truth, eager, ours = phi.double(), phi.clone(), phi.clone()
    fold_reference(truth, delta, x, offsets, **KEYS)
    fold_reference(eager, delta, x, offsets, **KEYS)
    fold_segments(ours, delta, x, offsets, **KEYS)
    error, yardstick = ((y.double() - truth).norm().item() for y in (ours, eager))
    if not error <= TOLERANCE * yardstick:
        raise SystemExit(f"ours is off by {error:.3g} (norm), plain float32 by {yardstick:.3g}: not timed")


def seconds(run: Callable[[], None], device: str) -> float:
    """One run on an idle device."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def machine(device: str) -> str:
    """What the figures hold for."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
