"""N prompts of a pool that was measured: by a strategy of the package, once or again every so many steps."""

from __future__ import annotations

from typing import Any

import numpy as np

import learnalign
from bench.outcome.cells import Cell
from bench.outcome.choosers import Chooser
from bench.outcome.choosers.passes import Passes
from bench.outcome.measuring import Cost, Integers, Measured, measure

SAMPLED_ONLY = ("learnable", "band")
"""Strategies that need success rates only."""


class Picks(Chooser):
    """Passes over the picks of a strategy; `random` measures nothing."""

    def __init__(self, strategy: str, again: bool, cell: Cell, cost: Cost) -> None:
        self.strategy, self.again, self.cell, self.cost = strategy, again, cell, cost

    def prepare(self, model: Any, step: int) -> None:
        """Choose, where it is time to; what that costs is counted."""
        if step == 0 or (self.again and step % self.cell.regime.every == 0):
            picks = self._pick(model, step)
            self._passes = Passes(picks, np.random.default_rng([self.cell.seed, step]))

    def next(self, n: int) -> Integers:
        """See `Chooser`."""
        return self._passes.next(n)

    def _pick(self, model: Any, step: int) -> Integers:
        n, seed = self.cell.regime.picks, self.cell.seed + 1000 * step
        if self.strategy == "random":
            return np.random.default_rng(seed).permutation(len(self.cell.pool))[:n]
        gradients = self.strategy not in SAMPLED_ONLY
        if step == 0:
            found = self.cell.first
        else:
            found = measure(model, self.cell.encoded, seed, self.cell.no_cost(), gradients)
        self.cost.sampled += found.cost.sampled
        self.cost.back += found.cost.back if gradients else 0
        return pick(self.strategy, found, n, seed)


def pick(strategy: str, found: Measured, n: int, seed: int) -> Integers:
    """n prompts by a strategy of the package, or `learnable`: random ones of 0 < p < 1."""
    if strategy == "learnable":
        rate = found.success_rate
        order = np.random.default_rng(seed).permutation(len(rate))
        inside = (rate[order] > 0) & (rate[order] < 1)
        return np.concatenate([order[inside], order[~inside]])[:n]
    return learnalign.select(found.phi, found.success_rate, n, strategy=strategy, seed=seed).indices
