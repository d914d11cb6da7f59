"""How far is scoring sketches that lie on a GPU from reading them?

1,000,000 x 4,096 int8 rows. An exact score needs the mean before the first product, and 4 GB stay in no cache, so that
two reads are the least: the floor of each pass is the time of reading the bytes once at the rate of a large copy
(`bench.ceilings`), of both twice that. Baseline: the same passes in chunks of torch, widened to float32. Ours: the
kernels of `learnalign.kernels.score_triton`, one pass and the other, and `score_tensor` as a user calls it, with its
checks and the way of the scores to the host. Asserts that the scores agree with float64. On a CPU plain torch stands
for the kernels.

    python -m bench.gpu_score [--quick]

The last line is one JSON object.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.ceilings import best_device, best_on, ceilings, device_name, rounded
from bench.measure import asked_quick, finish
from bench.memory import extra_bytes
from learnalign.scoring.gpu import score_tensor

SIZES = {"cuda": (1_000_000, 4096), "cpu": (20_000, 1024), "quick": (500, 64)}
CHUNK = 16384
"""Rows that the baseline widens at a time."""
BAR = 1.3
"""Times reading the bytes once, for either pass."""
TOLERANCE = 1e-5
"""Of the largest score; two orders of float32 additions."""
CHECKED = 1000
"""Rows whose scores are computed in float64 as well."""


def main() -> None:
    """Make the rows, check, measure, print."""
    quick = asked_quick(__doc__, "a few rows: checks that it runs")
    device = best_device()
    ceiling = ceilings(device, quick)
    rows = leaning_rows(*SIZES["quick" if quick else device], device)
    success = np.random.default_rng(1).integers(1, 8, len(rows)) / 8
    learnability = success * (1 - success)
    values, mean = torch.from_numpy(learnability).float().to(device), torch.ones(rows.shape[1], device=device)
    check(rows, learnability)
    ways: dict[str, Callable[[], Any]] = {
        **passes(rows, values, mean),
        "both, score_tensor": lambda: score_tensor(rows, learnability),
        "both, torch in chunks": lambda: in_chunks(rows, values),
    }
    memory = {name: extra_bytes(run, device) for name, run in ways.items()}
    best = best_on(device, 2 if quick else 7, **ways)
    floor = ceiling.floor(0.0, rows.nbytes)
    print(f"{device_name(device)}; {ceiling.words()}")
    print(
        f"{len(rows):,} x {rows.shape[1]:,} int8, {rows.nbytes / 1e9:.2f} GB; reading them once: {1e3 * floor:.2f} ms"
    )
    for name, found in best.items():
        print(f"  {name:<24}{1e3 * found:>10.2f} ms{found / floor:>8.2f} x one read{memory[name] / 2**30:>8.2f} GiB")
    ratios = {name: round(found / floor, 3) for name, found in best.items()}
    met = {name: ratios[name] <= BAR for name in ("first pass", "second pass") if name in ratios}
    summary = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()) + " x one read"
    result = {"device": device_name(device), "quick": quick, "rows": len(rows), "dimension": rows.shape[1]}
    result |= {"ceilings": ceiling.facts(), "floor_ms": round(1e3 * floor, 3), "ms": rounded(best)}
    result |= {"over_one_read": ratios, "extra_bytes": memory, "bars_met": met if device == "cuda" else None}
    finish("gpu_score", {**result, "summary": summary}, "torch", "triton")


def passes(rows: Tensor, values: Tensor, mean: Tensor) -> dict[str, Callable[[], Any]]:
    """The kernels, each alone; none on a CPU."""
    if rows.device.type == "cpu" or not find_spec("triton"):
        return {}
    from learnalign.kernels.score_triton import dots, norms_and_sum

    return {"first pass": lambda: norms_and_sum(rows, values), "second pass": lambda: dots(rows, mean)}


def leaning_rows(rows: int, dimension: int, device: str) -> Tensor:
    """Random int8 rows that lean to one side, as gradients do."""
    generator = torch.Generator(device).manual_seed(0)
    lean = 8 * torch.randn(dimension, generator=generator, device=device)
    found = torch.empty(rows, dimension, dtype=torch.int8, device=device)
    for part in torch.split(found, CHUNK):
        noise = 40 * torch.randn(part.shape, generator=generator, device=device)
        part.copy_((noise + lean).round_().clamp_(-127, 127))
    return found


def in_chunks(rows: Tensor, values: Tensor) -> Tensor:
    """The two passes as one would write them in torch."""
    total, norms, dots = torch.zeros(rows.shape[1], device=rows.device), [], []
    for part, some in zip(torch.split(rows, CHUNK), torch.split(values, CHUNK), strict=True):
        wide = part.float()
        norms.append(torch.linalg.vector_norm(wide, dim=1))
        total += (some / norms[-1]) @ wide
    mean = total / len(rows)
    for part in torch.split(rows, CHUNK):
        dots.append(part.float() @ mean)
    return values * torch.cat(dots) / torch.cat(norms)


def check(rows: Tensor, learnability: np.ndarray[Any, Any]) -> None:
    """Ours and the baseline against float64; exits where they differ."""
    values = torch.from_numpy(learnability).to(rows.device)
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for part, some in zip(torch.split(rows, CHUNK), torch.split(values, CHUNK), strict=True):
        wide = part.double()
        total += (some / wide.norm(dim=1)) @ wide
    head = rows[:CHECKED].double()
    truth = (values[:CHECKED] * (head @ total) / head.norm(dim=1) / len(rows)).cpu()
    for name, found in (("ours", torch.from_numpy(score_tensor(rows, learnability))),
                        ("the baseline", in_chunks(rows, values.float()).cpu())):  # fmt: skip
        error = (found[:CHECKED] - truth).abs().max() / truth.abs().max()
        if not error <= TOLERANCE:
            raise SystemExit(
                f"bench/gpu_score.py: {name} differs from float64 by {error:.1e} of the largest: not timed"
            )


if __name__ == "__main__":
    main()
