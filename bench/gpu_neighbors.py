"""How far is the search for neighbors on a GPU from the matrix product in it?

k = 32 of 100,000 candidates, as `greedy` asks for them: 4 k and itself, by tiles of a float16 product and
top-k (`learnalign.selection.neighbors.all_pairs.tiled`), at 1,024 numbers a row (where a selection folds them) and at
4,096. The floor is the product's operations at the rate that the device was seen to multiply at (`bench.ceilings`);
"products" are the same tiles without top-k. Checked on a sample: a neighbor counts when it is as similar as the k-th of
float64.

    python -m bench.gpu_neighbors [--quick]

The last line is one JSON object.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.ceilings import Ceilings, best_device, best_on, ceilings, device_name, rounded
from bench.measure import asked_quick, finish
from bench.memory import extra_bytes
from learnalign.selection.neighbors.all_pairs import on_device, tiled
from learnalign.selection.neighbors.plan import FOLDED, SPARE

SIZES = {"cuda": (100_000, (FOLDED, 4096)), "cpu": (5_000, (256,)), "quick": (300, (32,))}
K = 32
FETCH = SPARE * K + 1
TILE = 8192
SAMPLED = 256
RECALL = 0.99
"""Of the K nearest among the FETCH that were found."""


def main() -> None:
    """Measure, print."""
    quick = asked_quick(__doc__, "a few rows: checks that it runs")
    device = best_device()
    ceiling = ceilings(device, quick)
    rows, dimensions = SIZES["quick" if quick else device]
    print(f"{device_name(device)}; {ceiling.words()}; {rows:,} candidates, k = {K}")
    found = {dimension: measure(rows, dimension, device, ceiling, 1 if quick else 3) for dimension in dimensions}
    summary = ", ".join(f"d = {d}: {figures['of_ceiling']:.2f} of the ceiling" for d, figures in found.items())
    result = {"device": device_name(device), "quick": quick, "rows": rows, "k": K, "ceilings": ceiling.facts()}
    finish("gpu_neighbors", {**result, "dimensions": found, "bars_met": None, "summary": summary}, "torch")


def measure(rows: int, dimension: int, device: str, ceiling: Ceilings, repeats: int) -> dict[str, Any]:
    """One dimension: time, memory, recall."""
    vectors = np.random.default_rng(dimension).standard_normal((rows, dimension), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    base = on_device(vectors, device)
    recall = recall_of(base)

    def products() -> None:
        for queries in torch.split(base, TILE):
            for others in torch.split(base, TILE):
                torch.mm(queries, others.T)

    def search() -> None:
        for _ in tiled(base, FETCH):
            pass

    memory = extra_bytes(search, device)
    best = best_on(device, repeats, products=products, search=search, upload=lambda: on_device(vectors, device))
    operations = 2.0 * rows * rows * dimension
    floor = ceiling.floor(operations, base.nbytes)
    print(f"  d = {dimension:,}: floor {1e3 * floor:.1f} ms, products {1e3 * best['products']:.1f}, search "
          f"{1e3 * best['search']:.1f} ({best['search'] / floor:.2f} x floor), upload {1e3 * best['upload']:.1f} ms, "
          f"{memory / 2**30:.2f} GiB, recall {recall:.4f}", flush=True)  # fmt: skip
    if recall < RECALL:
        raise SystemExit(f"bench/gpu_neighbors.py: recall is {recall:.4f} at d = {dimension}, expected {RECALL}")
    return {
        "floor_ms": round(1e3 * floor, 3),
        "ms": rounded(best),
        "of_ceiling": round(floor / best["search"], 3),
        "extra_bytes": memory,
        "recall": round(recall, 4),
    }


def recall_of(base: torch.Tensor) -> float:
    """The share of the K nearest that are among those found, on the first rows, against float64 of the same vectors."""
    first, found = next(tiled(base, FETCH))
    sample = torch.from_numpy(first[:SAMPLED]).to(base.device)
    exact = base[sample].double() @ base.double().T
    kth = exact.topk(K + 1, dim=1).values[:, -1:]  # the row itself is one of them
    there = exact.gather(1, torch.from_numpy(found[: len(sample)]).to(base.device))
    enough = (there >= kth - 1e-9).sum(1).clamp(max=K + 1)
    return float(enough.double().mean()) / (K + 1)


if __name__ == "__main__":
    main()
