"""Which rows of the dataset a trainer takes next: today's picks, in the order that GRPOTrainer wants.

This module picks nothing and knows no trainer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from learnalign.online.selector import OnlineSelector


class PicksSampler(Sampler[int]):
    """Rows of the dataset: `batch` picks, `copies` times each, all of it `repeats` times.

    A pass goes through the picks in random order; where the selector picks anew, it goes on with the new ones.
    row_of: the row of every id. `position` and `go_on` let a resumed training take the rows of an uninterrupted one.
    """

    def __init__(
        self, selector: OnlineSelector, row_of: dict[str, int], *, copies: int, batch: int, repeats: int, seed: int
    ) -> None:
        self.selector, self.row_of = selector, row_of
        self.copies, self.batch, self.repeats = copies, batch, repeats
        self._rng = np.random.default_rng(seed)
        self._drawn: list[list[str]] = []
        """Batches of this pass so far."""
        self._again: list[list[str]] = []
        """Batches with which the next pass begins."""
        self._left: list[str] = []
        self._update = -1

    def __len__(self) -> int:
        return self.selector.n // self.batch * self.batch * self.copies * self.repeats

    def __iter__(self) -> Iterator[int]:
        again, self._again, self._drawn = self._again, [], []
        if not again:
            self._left, self._update = [], -1
        for number in range(self.selector.n // self.batch):
            batch = again[number] if number < len(again) else self._draw()
            self._drawn.append(batch)
            for _ in range(self.repeats):
                for prompt_id in batch:
                    yield from [self.row_of[prompt_id]] * self.copies

    def position(self) -> dict[str, Any]:
        """Where it is, for JSON."""
        rng = self._rng.bit_generator.state
        return {"drawn": self._drawn, "left": self._left, "update": self._update, "rng": rng}

    def go_on(self, position: dict[str, Any], within: bool) -> None:
        """Go on from a position. within: the pass is to begin as it began then, for a trainer that skips what it had;
        else the next pass is to come.
        """
        self._rng.bit_generator.state = position["rng"]
        self._again = position["drawn"] if within else []
        self._left, self._update = position["left"], position["update"]

    def _draw(self) -> list[str]:
        if self.selector.updates != self._update or len(self._left) < self.batch:
            self._update, picks = self.selector.updates, self.selector.picks
            self._left = [picks[k] for k in self._rng.permutation(len(picks))]
        batch, self._left = self._left[: self.batch], self._left[self.batch :]
        return batch
