"""How far the log-probabilities that were recorded when responses were sampled are from the policy's own.

The forward pass of a sketch computes log pi of every sampled token anyway. Where the sampling was right, both are the
same number but for rounding; other weights, a stale adapter, a broken cache or a bent distribution tell them apart.
This module runs no model and judges nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Told(NamedTuple):
    """A response's log-probabilities, float64 [|y|] each, at one temperature."""

    recorded: np.ndarray
    """When it was sampled; NaN where not known."""
    own: np.ndarray
    """The policy's own: NaN until a pass has written them."""


class Gap(NamedTuple):
    """|recorded - own| over the tokens of which both are known, in nats."""

    tokens: int = 0
    mean: float = math.nan
    """NaN without tokens."""
    largest: float = math.nan


def gap(told: Iterable[Told]) -> Gap:
    """The gap over all tokens of some responses."""
    differences = [np.abs(recorded - own) for recorded, own in told]
    found = np.concatenate(differences) if differences else np.zeros(0)
    found = found[np.isfinite(found)]
    return Gap(len(found), float(found.mean()), float(found.max())) if len(found) else Gap()


def write_own(told: Sequence[Told], log_probabilities: np.ndarray) -> None:
    """Put a pass's log-probabilities, [at least the sum of |y|] in the order of the responses, where they belong."""
    first = 0
    for one in told:
        one.own[:] = log_probabilities[first : first + len(one.own)]
        first += len(one.own)
