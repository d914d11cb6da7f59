"""The order in which a selection is written: what a trainer meets first, where it does not shuffle.

    rank          as picked
    file          as in the pool
    easy_to_hard  success rates fall, in every source alike
    gaussian      the same with chance: success rates around a mean that falls

This module picks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learnalign.config import Order
from learnalign.scoring.rows import Integers
from learnalign.selection.prompts import Doubles

SIGMA = 0.15
"""Standard deviation of `gaussian`, in success rates."""


def ordered(order: Order, success_rate: Doubles, rows: Integers, source: Sequence[str], seed: int = 0) -> Integers:
    """[n] positions of n picks in the order in which they are written; ties stay in the order of rank.

    `easy_to_hard` sorts the picks of each source by success rate, the highest first, and mixes the sources so that
    every stretch holds them in the shares that they have in the whole. `gaussian` sorts by p + SIGMA * e in place of
    the success rate p, e standard normal. So where the mean mu has come, a prompt is met with weight
    exp(-(p - mu)^2 / (2 SIGMA^2)), each once, while mu falls: the curriculum of Nemotron 3 Nano (arXiv 2512.20848,
    section 3.2.2), which draws every batch so, with fixed shares of the domains.

    Args:
        order: one of the four above.
        success_rate: [n] p of every pick, in the order of rank.
        rows: [n] its row in the pool.
        source: [n] its source, "" where there is none.
        seed: of `gaussian`.
    """
    if order == "rank":
        return np.arange(len(rows))
    if order == "file":
        return np.argsort(rows, kind="stable")
    ease = success_rate
    if order == "gaussian":
        ease = success_rate + SIGMA * np.random.default_rng(seed).standard_normal(len(rows))
    return _mixed(np.argsort(-ease, kind="stable"), source)


def _mixed(easiest_first: Integers, source: Sequence[str]) -> Integers:
    """The k-th of a source's m at (k + 1/2) / m of the way, so that sources come in even shares."""
    place = np.empty(len(easiest_first))
    _, source_of = np.unique(np.asarray(source, dtype=str), return_inverse=True)
    for number in range(source_of.max(initial=-1) + 1):
        own = easiest_first[source_of[easiest_first] == number]
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return easiest_first[np.argsort(place[easiest_first], kind="stable")]
