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

from bench.measure import kernel_bytes


def extra_bytes(run: Callable[[], object], device: str) -> int:
    """The highest memory of one run beyond what was there before."""
    gc.collect()
    before = reset_peak(device)
    run()
    return peak(device) - before


def reset_peak(device: str) -> int:
    """Let the peak start anew; bytes of now."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier ways have freed
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of resident memory starts anew
    return kernel_bytes("VmRSS")


def peak(device: str) -> int:
    """Bytes, since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else kernel_bytes("VmHWM")
