"""How many responses each prompt gets: all the same number, or in rounds that follow the verdicts so far.

    fixed    G responses for every prompt (the paper), in one round
    screen   two first, the rest of G only where the two differ: a prompt with p near 0 or 1 costs two
    halving  four rounds with an equal share of the budget each; every round keeps fewer prompts, those with the
             largest posterior mean of p (1 - p), and asks more of each (sequential halving: Karnin, Koren and
             Somekh, ICML 2013, with a geometric schedule that ends at `keep` prompts)

Everything here is a pure function of the counts, so that a resumed run makes the rounds of an uninterrupted one.
This module samples nothing and judges nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign.config import RolloutConfig
from learnalign.scoring.learnability import expected_learnability, prior_mean

Counts = npt.NDArray[np.int64]

SCREEN_FIRST = 2
"""With two first and G = 8 a prompt costs 2 + 12 p (1 - p) responses on average, with three 3 + 15 p (1 - p)."""
HALVING_ROUNDS = 4


class Round(NamedTuple):
    """What a round asks for."""

    kept: npt.NDArray[np.bool_]
    """[N] prompts that are still in the running."""
    wanted: Counts
    """[N] further responses of every prompt; 0 of those that are not kept, or have `responses` already."""


def rounds(config: RolloutConfig) -> int:
    """How many rounds a pool is sampled in."""
    return {"fixed": 1, "screen": 2, "halving": HALVING_ROUNDS}[config.allocation]


def next_round(config: RolloutConfig, keep: int, number: int, sampled: Counts, correct: Counts) -> Round:
    """Round `number` (from 0) of a pool, given its verdicts so far.

    keep: prompts that the last round of `halving` keeps at least. sampled, correct: [N] responses judged so far,
    and correct ones among them; all zero in round 0.
    """
    everyone = np.ones(len(sampled), np.bool_)
    if config.allocation == "halving":
        return _halve(config, keep, number, sampled, correct)
    if config.allocation == "fixed":
        return Round(everyone, np.full(len(sampled), config.responses, np.int64))
    if number == 0:
        return Round(everyone, np.full(len(sampled), min(SCREEN_FIRST, config.responses), np.int64))
    differ = (correct > 0) & (correct < sampled)
    return Round(differ, np.where(differ, config.responses - sampled, 0))


def _halve(config: RolloutConfig, keep: int, number: int, sampled: Counts, correct: Counts) -> Round:
    """The budget that is left, in equal shares a round, for fewer and fewer prompts."""
    size, left = len(sampled), int(config.budget * len(sampled)) - int(sampled.sum())
    share = left // (HALVING_ROUNDS - number)
    if number == 0:
        each = max(2, share // size)  # one response alone says nothing about p (1 - p)
        return Round(np.ones(size, np.bool_), np.full(size, each, np.int64))
    keep = min(keep, size)
    count = max(keep, round(size * (keep / size) ** (number / (HALVING_ROUNDS - 1))))
    each = max(1, share // count)
    order = np.argsort(
        -expected_learnability(sampled, correct, prior_mean(sampled, correct)), kind="stable"
    )  # of equals the lower row
    kept = np.zeros(size, np.bool_)
    kept[order[: min(count, left // each)]] = True
    return Round(kept, np.where(kept, np.clip(config.responses - sampled, 0, each), 0))
