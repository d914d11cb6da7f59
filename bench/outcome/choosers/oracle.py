"""A bound that nobody reaches: exact probabilities, right answers, and no cost of knowing either."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.outcome import grpo
from bench.outcome.cells import Cell
from bench.outcome.choosers import Chooser
from bench.outcome.measuring import Integers

ASKED_EVERY = 20
"""Steps."""


class Oracle(Chooser):
    """Every batch is drawn anew among prompts with right answers, by their probability to give both verdicts."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self._rng = cell, np.random.default_rng([cell.seed, 3])
        self._usable = np.array([prompt.right and prompt.family != "coin" for prompt in cell.pool])

    def prepare(self, model: Any, step: int) -> None:
        """Ask for the exact probabilities, now and then."""
        if step % ASKED_EVERY == 0:
            self._weight = both_verdicts(grpo.success(model, self.cell.encoded)[0].double().numpy()) * self._usable

    def next(self, n: int) -> Integers:
        """See `Chooser`."""
        return self._rng.choice(len(self._weight), n, replace=False, p=self._weight / self._weight.sum())


def both_verdicts(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[N] probability that a group of training's size has a right and a wrong response."""
    found: npt.NDArray[np.float64] = 1 - p**grpo.RESPONSES - (1 - p) ** grpo.RESPONSES
    return found
