"""What a strategy is given, and what it returns. This module picks nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign.scoring.rows import Integers, Rows

Doubles = npt.NDArray[np.float64]
Advance = Callable[[int], None]


@contextmanager
def unseen(total: int) -> Iterator[Advance]:
    """Progress that nobody watches."""
    yield lambda count: None


@dataclass(frozen=True)
class Search:
    """What looking for neighbors may cost."""

    candidates_per_pick: int = 20
    seconds: float = 120.0
    device: str = "auto"
    track: Callable[[int], AbstractContextManager[Advance]] = unseen
    """Opens a bar for so many rows and yields what advances it."""
    method: str = "auto"
    """One of `learnalign.selection.neighbors.METHODS`."""


@dataclass(frozen=True)
class Prompts:
    """N prompts, with all that a strategy may ask of them."""

    score: Doubles
    """[N] score_i, against the pool's mean or a target's."""
    success_rate: Doubles
    """[N] p_i."""
    learnability: Doubles
    """[N] V_i = p_i (1 - p_i); 0 also for a prompt without a usable gradient."""
    rows: Rows
    """The sketches."""
    row_of: Integers
    """[N] the row of a prompt's sketch, -1 for a prompt that has none."""
    score_of: Callable[[Doubles], Doubles]
    """The scores [N] under other learnabilities [N]."""
    response_length: Doubles | None = None
    """[N] mean tokens of a response."""
    history: Sequence[Sequence[float]] | None = None
    """[N] success rates over a training run, one a visit; empty for a prompt that was never visited."""
    seed: int = 0
    search: Search = field(default_factory=Search)

    def __len__(self) -> int:
        return len(self.score)


class Picks(NamedTuple):
    """The prompts that a strategy picks."""

    indices: Integers
    """[<= n] in the order of picking; fewer than n where the constraints leave no more."""
    gains: Doubles
    """As many: the value that the strategy ranks by; of `greedy` what each added to F; of random picks 0."""
    notes: list[str]
    """Sentences that the user should read."""
    facts: dict[str, Any]
    """How it was done, for a manifest."""
