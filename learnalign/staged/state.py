"""All that a staged selection knows between two stages. This module computes nothing and writes nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from learnalign.rows import Integers
from learnalign.staged.history import Doubles, History


class Facts(NamedTuple):
    """What a stage cost and found."""

    screened: int = 0
    """Prompts that answered twice or more often."""
    responses: int = 0
    """Responses sampled."""
    gradients: int = 0
    """Prompts sketched."""
    score_above_zero: int = 0
    """Prompts that the picks were drawn from; where there are fewer than n, others fill up."""


class State(NamedTuple):
    """After `stage` stages; of N prompts."""

    stage: int
    history: History
    score: Doubles
    """[N] of the last stage, 0 for a prompt without a sketch."""
    picked: Integers
    """[n] positions, in the order in which they were drawn; empty before the first stage."""
    facts: Facts
    counted: int = -1
    """The last numbered step of the training whose verdicts were counted."""


def first_state(size: int) -> State:
    """Of N = size prompts of which nothing is known."""
    return State(0, History(size), np.zeros(size), np.zeros(0, np.int64), Facts())
