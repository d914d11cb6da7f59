"""How fast does this device multiply and copy? The denominators of every figure that says how near a floor is.

A large product of random bfloat16 matrices on a GPU (float32 on a CPU) and a large copy, counting bytes read and
written; the best of several runs each. Other benches measure them again in their own process, so that a figure and its
ceiling come from the same card in the same minute. This module knows nothing of what is compared with them.

    python -m bench.ceilings [--quick]

The last line is one JSON object.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bench.measure import asked_quick, finish

SIDE = {"cuda": 8192, "cpu": 1024, "quick": 128}
"""Of the square matrices."""
COPIED = {"cuda": 1 << 32, "cpu": 1 << 28, "quick": 1 << 20}
"""Bytes read."""
REPEATS = 10


@dataclass(frozen=True)
class Ceilings:
    """What the device was seen to do."""

    flops: float
    """Operations a second of the product, two for every multiplication and addition."""
    bytes_per_second: float
    """Read and written by the copy."""

    def floor(self, operations: float, moved: float) -> float:
        """Seconds that nothing with so many operations and bytes can beat by much."""
        return max(operations / self.flops, moved / self.bytes_per_second)

    def words(self) -> str:
        """For a line above a table."""
        return f"ceilings: {self.flops / 1e12:.3g} TFLOP/s, {self.bytes_per_second / 1e9:.3g} GB/s"

    def facts(self) -> dict[str, float]:
        """For JSON."""
        return {"tflops": round(self.flops / 1e12, 3), "gb_per_second": round(self.bytes_per_second / 1e9, 2)}


def main() -> None:
    """Measure and print."""
    quick = asked_quick(__doc__, "small matrices: checks that it runs")
    device = best_device()
    found = ceilings(device, quick)
    print(f"{device_name(device)}: {found.words()}")
    finish(
        "ceilings", {"device": device_name(device), "quick": quick, **found.facts(), "summary": found.words()}, "torch"
    )


def ceilings(device: str, quick: bool) -> Ceilings:
    """Both, in under two seconds on a GPU."""
    size = "quick" if quick else device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    side = SIDE[size]
    generator = torch.Generator(device).manual_seed(side)  # random: a product of zeros would run faster
    left, right = (torch.randn(side, side, generator=generator, device=device, dtype=dtype) for _ in range(2))
    source = torch.randint(0, 255, (COPIED[size],), generator=generator, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    best = best_on(device, REPEATS, product=lambda: left @ right, copy=lambda: target.copy_(source))
    return Ceilings(2 * side**3 / best["product"], 2 * COPIED[size] / best["copy"])


def best_on(device: str, repeats: int, **runs: Callable[[], Any]) -> dict[str, float]:
    """Seconds of the fastest of `repeats` runs of each on an idle device, in turns, after one that is not timed."""
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run, device))
    return best


def seconds(run: Callable[[], Any], device: str) -> float:
    """One run: between two events of the GPU, or by the clock on a CPU."""
    if device == "cpu":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def best_device() -> str:
    """A GPU where torch sees one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """What the figures hold for."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds of seconds, for JSON."""
    return {name: round(1e3 * value, 3) for name, value in figures.items()}


if __name__ == "__main__":
    main()
