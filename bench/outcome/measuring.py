"""What selecting may ask of a policy, and what it costs in tokens. `Live` is a `Measurer` of staged selection.

A cost is counted in response tokens: those sampled, and those of groups that ran backward. Prompt tokens are left out:
a group shares its prompt, and in the reasoning that this stands for prompts are short. This module picks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

import learnalign
from bench.outcome import grpo

Integers = npt.NDArray[np.int64]
DIMENSION = 8192
BATCH_TOKENS = 2000
"""Padded tokens a batch; larger ones were slower on one thread."""


@dataclass
class Cost:
    """Response tokens."""

    sampled: int = 0
    back: int = 0
    """Propagated back."""

    def add(self, groups: Sequence[grpo.Group], back: bool) -> None:
        """Count sampled groups, or those of them that ran backward."""
        if back:
            self.back += sum(group.tokens for group in groups if group.mixed)
        else:
            self.sampled += sum(group.tokens for group in groups)


class Live:
    """A policy as it is now, over a pool: responses, and sketches of the gradients of what was sampled here."""

    def __init__(self, model: Any, pool: Sequence[grpo.Encoded], generator: torch.Generator, cost: Cost) -> None:
        self.model, self.pool, self.generator, self.cost = model, pool, generator, cost
        self.groups: dict[int, grpo.Group] = {}

    def respond(self, prompts: Integers, responses: int) -> Integers:
        """Sample so many further responses of every prompt; how many of these are right."""
        if not len(prompts):
            return np.zeros(0, np.int64)
        made = grpo.rollout(self.model, [self.pool[k] for k in prompts], responses, self.generator)
        self.cost.add(made, back=False)
        for k, group in zip(prompts.tolist(), made, strict=True):
            before = self.groups.get(k, grpo.Group(group.prompt, [], []))
            self.groups[k] = grpo.Group(
                group.prompt, before.responses + group.responses, before.rewards + group.rewards
            )
        return np.array([sum(group.rewards) for group in made], np.int64)

    def sketch(self, prompts: Integers) -> tuple[Integers, npt.NDArray[np.float32]]:
        """Those of the prompts whose rewards differ, and the sketches of their gradients [M, d]."""
        mixed = [k for k in prompts.tolist() if self.groups[k].mixed]
        self.cost.add([self.groups[k] for k in mixed], back=True)
        sketcher = learnalign.Sketcher(deepcopy(self.model), dimension=DIMENSION)  # a copy: it freezes the weights
        groups = [learnalign.Group(*self.groups[k]) for k in mixed]
        phi = np.zeros((len(mixed), DIMENSION), np.float32)
        for batch in sketcher.batches(groups, BATCH_TOKENS):
            phi[batch] = sketcher.sketch([groups[k] for k in batch])
        return np.array(mixed, np.int64), phi


class Measured(NamedTuple):
    """A whole pool under one policy."""

    success_rate: npt.NDArray[np.float64]
    """[N] share of right responses of `grpo.RESPONSES`."""
    phi: npt.NDArray[np.float32]
    """[N, d], zero where there is no gradient; [N, 1], all 1, where none was asked for."""
    cost: Cost


def measure(model: Any, pool: Sequence[grpo.Encoded], seed: int, gradients: bool = True) -> Measured:
    """Responses of every prompt, and, if asked for, the gradients of all that have one."""
    live = Live(model, pool, torch.Generator().manual_seed(seed), Cost())
    rate = live.respond(np.arange(len(pool)), grpo.RESPONSES) / grpo.RESPONSES
    phi = np.zeros((len(pool), DIMENSION), np.float32) if gradients else np.ones((len(pool), 1), np.float32)
    if gradients:
        rows, found = live.sketch(np.arange(len(pool)))
        phi[rows] = found
    return Measured(rate, phi, live.cost)
