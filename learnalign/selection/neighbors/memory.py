"""How much memory a search may take: a share of what is free on the device that it runs on."""

from __future__ import annotations

from pathlib import Path

SHARE = 0.6
"""Of free memory."""
GROUP_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""A container's limit and what it uses, of control groups in version 2 and 1."""


def room(device: str) -> int:
    """Bytes that may be taken on a torch device; on `cpu` within the container's limit."""
    if device != "cpu":
        import torch

        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE * min([_available(), *_left_in_groups()]))


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


def _left_in_groups() -> list[int]:
    left = []
    for limit, used in GROUP_LIMITS:
        if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
            left.append(max(int(most) - int(used.read_text()), 0))
    return left
