"""What the works of a run have in common: what must be the same on all nodes, and what kind of device they run on."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import torch

from learnalign.cluster import Needs
from learnalign.config import Config
from learnalign.runs.directory import installed_versions

SAME = ("python", "learnalign", "torch", "transformers", "numpy")
"""Versions that must be the same wherever numbers are made."""


def same_versions(*others: str) -> dict[str, str]:
    """Versions that all nodes must have. others: packages that this work needs beside `SAME`."""
    return installed_versions((*SAME, *others))


def device_kind(device: torch.device) -> str:
    """Its name, such as that of a GPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def say_idle_gpus(config: Config, needs: Needs, say: Callable[[str], None]) -> None:
    """One line where this process alone leaves GPUs idle."""
    there = torch.cuda.device_count()
    if not config.cluster.address and config.policy.device != "cpu" and there > needs.gpus > 0:
        say(f"{there - needs.gpus} of {there} GPUs are left idle: --ray local uses them all")
