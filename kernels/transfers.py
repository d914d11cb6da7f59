"""Copies between a host and a CUDA device that let the host go on: from and to pinned memory, in the stream's order.

A copy of ordinary memory makes the host wait until the device has done all that it was given before. The memory of a
copy from the host is not used again before the copy is done, although nobody holds it (torch sees to that); what
comes to the host is there once the event that `reached` returns has happened. On a CPU nothing is waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

EIGHT_BYTES = {np.dtype(np.int64): torch.int64, np.dtype(np.float64): torch.float64}


def to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Arrays of int64 or float64, at least one, on a device, all of them by one copy."""
    staged = torch.empty(
        sum(array.size for array in arrays), dtype=torch.int64, device="cpu", pin_memory=_pinned(device)
    )
    np.concatenate([array.reshape(-1).view(np.int64) for array in arrays], out=staged.numpy())
    parts = torch.split(staged.to(device, non_blocking=True), [array.size for array in arrays])
    return [part.view(EIGHT_BYTES[array.dtype]).view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers as int64 in device memory, made once: all layers of a batch share their offsets. Not to be written to."""
    stream = torch.cuda.current_stream(device).stream_id if _pinned(device) else 0
    return _on_stream(numbers, device, stream)


@lru_cache(maxsize=64)
def _on_stream(numbers: tuple[int, ...], device: torch.device, stream: int) -> Tensor:
    """For one stream: another does not know when the copy is done."""
    (made,) = to_device([np.array(numbers, dtype=np.int64)], device)
    return made


def to_host(tensor: Tensor) -> Tensor:
    """The tensor in the host's memory, there once an event of `reached`, called after this, has happened."""
    if not _pinned(tensor.device):
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def reached(device: torch.device) -> torch.cuda.Event | None:
    """What happens when the device has done all that it was given before this call; None where it has already."""
    if not _pinned(device):
        return None
    event: torch.cuda.Event = torch.cuda.current_stream(device).record_event()
    return event


def _pinned(device: torch.device) -> bool:
    return device.type == "cuda"
