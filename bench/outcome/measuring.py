"""What selecting may ask of a policy, and what it costs in tokens.

A cost is counted in response tokens: those sampled, and those of groups that ran backward. Prompt tokens are left out:
a group shares its prompt, and in the reasoning that this stands for prompts are short. This module picks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

import learnalign
from bench.outcome import grpo
from learnalign.config import SketchConfig
from learnalign.online.pairs import Pairs

Integers = npt.NDArray[np.int64]
DIMENSION = 8192
BATCH_TOKENS = 2000
"""Padded tokens a batch; larger ones were slower on one thread."""
Rewarded = grpo.Group | learnalign.Group


@dataclass
class Cost:
    """Response tokens. Groups without an advantage do not run backward, and none of their tokens are counted there."""

    wrong_length: int = 1
    """How often a token of a wrong response counts, see `regimes`."""
    sampled: int = 0
    back: int = 0
    """Propagated back."""

    def add_sampled(self, groups: Sequence[Rewarded]) -> None:
        """Count groups that were sampled."""
        self.sampled += sum(self._tokens(group) for group in groups)

    def add_back(self, groups: Sequence[Rewarded]) -> None:
        """Count groups that ran backward: those with an advantage."""
        self.back += sum(self._tokens(group) for group in groups if min(group.rewards) < max(group.rewards))

    def add(self, other: Cost) -> None:
        """Count what was counted elsewhere."""
        self.sampled, self.back = self.sampled + other.sampled, self.back + other.back

    def counted(self) -> dict[str, int]:
        """For JSON."""
        return {"sampled": self.sampled, "back": self.back}

    def _tokens(self, group: Rewarded) -> int:
        responses = zip(group.responses, group.rewards, strict=True)
        return sum(len(text) * (1 if reward == 1.0 else self.wrong_length) for text, reward in responses)


class Trained:
    """A `Measurer` of online selection: a policy in training, and what training has sampled of a pool."""

    def __init__(self, model: Any, pool: Sequence[grpo.Encoded], pairs: Pairs, cost: Cost) -> None:
        self.model, self.pool, self.pairs, self.cost = model, pool, pairs, cost

    def sketch(self, prompts: Integers) -> tuple[Integers, npt.NDArray[np.float32]]:
        """See `learnalign.online.Measurer`."""
        found = self.pairs.of(prompts.tolist())
        groups = [pair.group(self.pool[k].prompt) for k, pair in found.items()]
        return np.array(list(found), np.int64), _sketches(self.model, groups, self.cost)


def _sketches(model: Any, groups: Sequence[learnalign.Group], cost: Cost) -> npt.NDArray[np.float32]:
    """[M, d], counted."""
    cost.add_back(groups)
    sketcher = learnalign.Sketcher(model, SketchConfig(dimension=DIMENSION))
    phi = np.zeros((len(groups), DIMENSION), np.float32)
    for batch in sketcher.batches(groups, BATCH_TOKENS):
        phi[batch] = sketcher.sketch([groups[k] for k in batch])
    return phi


class Measured(NamedTuple):
    """A whole pool under one policy."""

    success_rate: npt.NDArray[np.float64]
    """[N] share of right responses of `grpo.RESPONSES`."""
    phi: npt.NDArray[np.float32]
    """[N, d], zero where there is no gradient; [N, 1], all 1, where none was asked for."""
    cost: Cost


def measure(model: Any, pool: Sequence[grpo.Encoded], seed: int, cost: Cost, gradients: bool = True) -> Measured:
    """Responses of every prompt, and, if asked for, the gradients of all that have one; added to `cost`."""
    groups = grpo.rollout(model, pool, grpo.RESPONSES, torch.Generator().manual_seed(seed))
    cost.add_sampled(groups)
    rate = np.array([sum(group.rewards) for group in groups]) / grpo.RESPONSES
    if not gradients:
        return Measured(rate, np.ones((len(pool), 1), np.float32), cost)
    mixed = np.flatnonzero([group.mixed for group in groups])
    phi = np.zeros((len(pool), DIMENSION), np.float32)
    phi[mixed] = _sketches(model, [learnalign.Group(*groups[k]) for k in mixed], cost)
    return Measured(rate, phi, cost)
