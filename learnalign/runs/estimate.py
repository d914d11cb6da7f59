"""What a run will cost, from a sample of its prompts: responses, tokens, learnable prompts, bytes, seconds.

Counts are scaled from the sample to the pool. Of a stage's time the part that grows with its rows is scaled, and the
rest (loading the policy, starting workers) taken as it was. This module measures nothing: see `runs.plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from learnalign.config import Config

Doubles = npt.NDArray[np.float64]
Z = 1.645
"""Of a 90 % interval."""
FINAL = ("score", "select", "report")
"""Stages that take their time for starting, on pools of up to some 100,000 prompts."""
INDEX_BYTES = 120
"""Of the store's index, a row, with an id of some 20 characters."""


@dataclass(frozen=True)
class Sample:
    """What a sample of the pool's prompts has shown. Arrays have an entry a sampled prompt."""

    pool: int
    """Prompts of the pool."""
    skipped: int
    """Of the prompts looked at, those that are not sampled: too long."""
    responses: Doubles
    correct: Doubles
    learnable: npt.NDArray[np.bool_]
    """Which prompts are."""
    response_tokens: Doubles
    """In all of a prompt's responses."""
    prompt_tokens: Doubles

    @property
    def prompts(self) -> float:
        """Prompts of the pool that will be sampled."""
        return self.pool * len(self.responses) / (len(self.responses) + self.skipped)

    @property
    def pairs_differ(self) -> Doubles:
        """Chance that two responses to a prompt are judged differently: 2 s (G - s) / (G (G - 1))."""
        chance: Doubles = 2 * self.correct * (self.responses - self.correct) / (self.responses * (self.responses - 1))
        return chance


@dataclass(frozen=True)
class Estimate:
    """What a run will cost."""

    sampled: int
    """Prompts that it rests on."""
    pool: int
    responses: int
    response_tokens: int
    prompt_tokens: int
    learnable: int
    learnable_interval: tuple[int, int]
    """90 %."""
    bytes: dict[str, int]
    """By what of the run directory takes them; empty where it is not known."""
    seconds: dict[str, float]
    """By stage; those are left out whose time is not known."""
    allocations: dict[str, tuple[int, int]]
    """Responses and learnable prompts found, by every other `rollout.allocation` that takes fewer responses."""

    left_out: tuple[str, ...] = ()
    """What else the run will do."""

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "hours": round(sum(self.seconds.values()) / 3600, 4)}

    def lines(self) -> list[str]:
        """For people."""
        low, high = self.learnable_interval
        lines = [
            f"responses  {self.responses:,} to {self.pool:,} prompts (estimated from {self.sampled:,} of them)",
            f"tokens     {self.response_tokens:,} of responses, {self.prompt_tokens:,} of prompts",
            f"learnable  {self.learnable:,} prompts expected; from {low:,} to {high:,} with 90 %",
        ]
        if self.bytes:
            lines.append(f"disk       {_bytes(sum(self.bytes.values()))}: {_listed(self.bytes, _bytes)}")
        if self.seconds:
            lines.append(f"time       {_time(sum(self.seconds.values()))}: {_listed(self.seconds, _time)}")
        for name, (responses, found) in self.allocations.items():
            lines.append(
                f"{name:<10} would take {responses:,} responses ({1 - responses / self.responses:.0%} less) "
                f"and find about {found:,} learnable prompts"
            )
        return [*lines, *(f"not in it: {name}" for name in self.left_out)]


def estimate(config: Config, sample: Sample, *, bytes_a_response: float = 0.0, pool_bytes: int = 0) -> Estimate:
    """All but the times, from a sample of at least one prompt.

    bytes_a_response: of rollouts and rewards; 0 leaves bytes out.
    """
    count = len(sample.responses)
    allocations = _allocations(config, sample)
    responses, found = allocations[config.rollout.allocation]
    share = found / max(sample.prompts, 1)
    low, high = _interval(share, count, sample.prompts)
    stored = {"float16": 2, "int8": 1, "float32": 4}[config.sketch.dtype] * config.sketch.dimension + INDEX_BYTES
    size = {}
    if bytes_a_response:
        size = {"rollouts": round(responses * bytes_a_response), "sketches": found * stored, "pool": pool_bytes}
    return Estimate(
        sampled=count,
        pool=sample.pool,
        responses=responses,
        response_tokens=round(responses * sample.response_tokens.sum() / sample.responses.sum()),
        prompt_tokens=round(sample.prompts * sample.prompt_tokens.mean()),
        learnable=found,
        learnable_interval=(round(sample.prompts * low), round(sample.prompts * high)),
        bytes=size,
        seconds={},
        allocations={name: both for name, both in allocations.items() if both[0] < responses},
    )


def _allocations(config: Config, sample: Sample) -> dict[str, tuple[int, int]]:
    """What each way of spreading responses would take and find."""
    g, n = config.rollout.responses, sample.prompts
    learnable = n * float(sample.learnable.mean())
    differ = n * float(sample.pairs_differ.mean())
    keep = config.rollout.keep or 2 * config.select.n
    return {
        "fixed": (round(n * g), round(learnable)),
        "screen": (round(min(2, g) * n + max(g - 2, 0) * differ), round(differ)),
        "halving": (round(min(config.rollout.budget, g) * n), round(min(keep, learnable))),
    }


def _interval(share: float, count: int, pool: float) -> tuple[float, float]:
    """Wilson's interval of a share of `count`, narrowed as the sample comes near to the whole pool."""
    center = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z * np.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count)) / (1 + Z * Z / count)
    narrow = np.sqrt(max(pool - count, 0.0) / max(pool - 1, 1.0))
    low, high = share + narrow * (center - half - share), share + narrow * (center + half - share)
    return max(float(low), 0.0), min(float(high), 1.0)


def _listed(values: dict[str, Any], told: Any) -> str:
    return ", ".join(f"{name} {told(value)}" for name, value in values.items())


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
