"""Which rows of the dataset a trainer takes next, in the order that GRPOTrainer wants.

This module picks nothing and knows no trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import Sampler

from learnalign.online.selector import OnlineSelector


class PicksSampler(Sampler[int]):
    """Rows of the dataset: the selector's next `batch` prompts, `copies` times each, all of it `repeats` times.

    An epoch has as many batches as fit into the pool. row_of: the row of every id. `position` and `go_on` let a
    resumed training take the rows of an uninterrupted one.
    """

    def __init__(
        self, selector: OnlineSelector, row_of: Mapping[str, int], *, copies: int, batch: int, repeats: int
    ) -> None:
        self.selector, self.row_of = selector, row_of
        self.copies, self.batch, self.repeats = copies, batch, repeats
        self._drawn: list[list[str]] = []
        """Batches of this epoch so far."""
        self._again: list[list[str]] = []
        """Batches with which the next epoch begins."""

    def __len__(self) -> int:
        return self._batches * self.batch * self.copies * self.repeats

    def __iter__(self) -> Iterator[int]:
        again, self._again, self._drawn = self._again, [], []
        for number in range(self._batches):
            batch = again[number] if number < len(again) else self.selector.next(self.batch)
            self._drawn.append(batch)
            for _ in range(self.repeats):
                for prompt_id in batch:
                    yield from [self.row_of[prompt_id]] * self.copies

    def position(self) -> dict[str, Any]:
        """Where it is, for JSON."""
        return {"drawn": self._drawn}

    def go_on(self, position: dict[str, Any], within: bool) -> None:
        """Go on from a position. within: the epoch is to begin as it began then, for a trainer that skips what it had;
        else the next epoch is to come.
        """
        self._again = position["drawn"] if within else []

    @property
    def _batches(self) -> int:
        return len(self.selector.ids) // self.batch
