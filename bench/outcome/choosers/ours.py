"""The package's online selection, with the gradients of pairs of the training's own responses or on verdicts alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.outcome import grpo
from bench.outcome.cells import Cell
from bench.outcome.choosers import Chooser
from bench.outcome.measuring import Cost, Integers, Trained
from learnalign.config import OnlineConfig
from learnalign.online import OnlineSelector
from learnalign.online.pairs import Pairs

SETTINGS = OnlineConfig()
"""The package's defaults."""


class Ours(Chooser):
    """Asks the selector for every batch. gradients: measure the policy every so many steps (see `regimes`)."""

    def __init__(self, gradients: bool, cell: Cell, cost: Cost) -> None:
        self.gradients, self.cell, self.cost = gradients, cell, cost
        self.selector = OnlineSelector([str(k) for k in range(len(cell.pool))], settings=SETTINGS, seed=cell.seed)
        self.pairs = Pairs()

    def prepare(self, model: Any, step: int) -> None:
        """Have the gradients compared of what training has met since the last time."""
        if self.gradients and step and step % self.cell.regime.measured == 0:
            self.selector.measure(Trained(model, self.cell.encoded, self.pairs, self.cost))
            self.pairs.clear()

    def next(self, n: int) -> Integers:
        """See `Chooser`."""
        return np.array([int(k) for k in self.selector.next(n)])

    def observe(self, prompts: Integers, groups: Sequence[grpo.Group]) -> None:
        """Verdicts, and responses for gradients."""
        ids = [str(k) for k, group in zip(prompts.tolist(), groups, strict=True) for _ in group.rewards]
        self.selector.observe(ids, [reward for group in groups for reward in group.rewards])
        if self.gradients:
            for k, group in zip(prompts.tolist(), groups, strict=True):
                self.pairs.observe(k, group.responses, [reward == 1.0 for reward in group.rewards])
