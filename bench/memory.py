"""The highest memory of one run beyond what was there before it, on a GPU or (Linux) of this process.

`bench.measure.Peak` counts anonymous memory alone, by looking now and then; this counts all that is resident, by the
system's own mark.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch


def extra_bytes(run: Callable[[], object], device: str) -> int:
    """The highest memory of one run beyond what was there before."""
    gc.collect()
    before = reset_peak(device)
    run()
    return peak(device) - before


def reset_peak(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier ways have freed
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of resident memory starts anew
    return status_bytes("VmRSS")


def peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else status_bytes("VmHWM")


def status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
