"""All that an online selection knows between two updates. This module writes nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from learnalign.online.agreement import Shared
from learnalign.online.history import Doubles, History
from learnalign.scoring.rows import Integers


class Facts(NamedTuple):
    """What an update cost and found."""

    gradients: int = 0
    """Prompts sketched."""
    agreeing: int = 0
    """Of the picks those that are there because their gradients agree with the others'."""
    unseen: int = 0
    """Of the picks those that training has never met."""


class State(NamedTuple):
    """After `update` updates; of N prompts."""

    updates: int
    history: History
    agreement: Doubles
    """[N] how much a prompt's gradient agreed with the others' when it was sketched; NaN before."""
    shared: Shared
    picked: Integers
    """[n] positions, in the order in which they were drawn; empty before the first update."""
    facts: Facts
    counted: int = -1
    """The last numbered step of the training whose verdicts were counted."""

    def score(self) -> Doubles:
        """[N] the posterior mean of p (1 - p) times the agreement, 0 where that is not known."""
        return self.history.expected_learnability() * np.nan_to_num(self.agreement)


def first_state(size: int) -> State:
    """Of N = size prompts of which nothing is known."""
    nothing = Shared(np.zeros(0))
    return State(0, History(size), np.full(size, np.nan), nothing, np.zeros(0, np.int64), Facts())
