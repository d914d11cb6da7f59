"""The strategies: one function each, and the one table that lists them.

Every function takes (prompts, n, constraints) and returns `Picks`; ties go to the lower row, and chance comes from the
prompts' seed alone. This module neither scores nor reads files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from learnalign.errors import ArrayError
from learnalign.scoring.rows import Integers
from learnalign.selection import core
from learnalign.selection.constraints import Admission, Constraints
from learnalign.selection.greedy import greedy
from learnalign.selection.history import impact, spread
from learnalign.selection.prompts import Doubles, Picks, Prompts


def top(prompts: Prompts, n: int, constraints: Constraints) -> Picks:
    """The highest scores, learnable prompts first (LearnAlign)."""
    return _first(prompts, n, constraints, core.top(prompts.score, prompts.learnability, len(prompts)), prompts.score)


def random_positive(prompts: Prompts, n: int, constraints: Constraints) -> Picks:
    """Random prompts of score > 0; where there are fewer than n, then the rest in the order of `top`."""
    best = core.top(prompts.score, prompts.learnability, len(prompts))
    positive = np.flatnonzero(prompts.score > 0)
    order = np.concatenate([_generator(prompts).permutation(positive), best[~(prompts.score[best] > 0)]])
    picks = _first(prompts, n, constraints, order, np.zeros(len(prompts)))
    others = int(np.count_nonzero(prompts.score[picks.indices] <= 0))
    if others:
        picks.notes.append(f"only {len(positive):,} prompts have a score > 0: the other {others:,} are the best left")
    return picks


def random(prompts: Prompts, n: int, constraints: Constraints) -> Picks:
    """Any prompts, learnable or not."""
    return _first(prompts, n, constraints, _generator(prompts).permutation(len(prompts)), np.zeros(len(prompts)))


def band(prompts: Prompts, n: int, constraints: Constraints) -> Picks:
    """Success rates nearest 1/2, which is the order of p (1 - p)."""
    return _first(prompts, n, constraints, _descending(prompts.learnability), prompts.learnability)


def alignment(prompts: Prompts, n: int, constraints: Constraints) -> Picks:
    """The score with V = 1 for every learnable prompt: direction only."""
    value = prompts.score_of((prompts.learnability > 0).astype(np.float64))
    return _first(prompts, n, constraints, core.top(value, prompts.learnability, len(prompts)), value)


def length(prompts: Prompts, n: int, constraints: Constraints) -> Picks:
    """The longest responses."""
    if prompts.response_length is None:
        raise ArrayError("the strategy length needs response_length, the mean tokens of a response of every prompt")
    return _first(prompts, n, constraints, _descending(prompts.response_length), prompts.response_length)


def history(prompts: Prompts, n: int, constraints: Constraints) -> Picks:
    """The success rates that varied most over an earlier training run (1-shot RLVR)."""
    return _by_history(prompts, n, constraints, spread)


def limr(prompts: Prompts, n: int, constraints: Constraints) -> Picks:
    """The success rates that followed the mean curve of an earlier training run most closely (LIMR)."""
    return _by_history(prompts, n, constraints, impact)


class Strategy(NamedTuple):
    """A row of the table."""

    pick: Callable[[Prompts, int, Constraints], Picks]
    what: str
    """What it picks, as the end of a sentence: "prompts were selected: ..."."""
    when: str
    """When to use it, as a sentence."""


STRATEGIES: dict[str, Strategy] = {
    "top": Strategy(top, "highest score first", "The paper's; select again every few dozen steps."),
    "greedy": Strategy(
        greedy,
        "those that together cover the prompts of score > 0 best",
        "Where top would take near-copies of one kind.",
    ),
    "random_positive": Strategy(
        random_positive, "random ones of score > 0", "Cheap and diverse; strong when selecting only once."
    ),
    "band": Strategy(band, "success rates nearest 1/2 first", "The baseline that needs no gradients."),
    "alignment": Strategy(alignment, "best aligned first, at any learnability", "To see what direction alone does."),
    "random": Strategy(random, "at random, learnable or not", "The baseline of every comparison."),
    "length": Strategy(length, "longest responses first", "To see how much of a result is length."),
    "history": Strategy(
        history,
        "most varied success rates of an earlier run first",
        "1-shot RLVR's ranking; needs select.history.",
    ),
    "limr": Strategy(
        limr,
        "closest to the mean learning curve of an earlier run first",
        "LIMR's ranking; needs select.history.",
    ),
}


def _by_history(prompts: Prompts, n: int, constraints: Constraints, value_of: Callable[..., Doubles]) -> Picks:
    """Highest value first, prompts without a history last."""
    if prompts.history is None:
        raise ArrayError("the strategies history and limr need the success rates of an earlier run: select.history")
    value = value_of(prompts.history)
    missing = int(np.count_nonzero(np.isnan(value)))
    if missing == len(value):
        raise ArrayError("no prompt of the pool has a history: are its ids those of the file select.history?")
    picks = _first(prompts, n, constraints, _descending(value), value)
    if missing:
        picks.notes.append(f"{missing:,} prompts have no history and rank last")
    return picks


def _descending(value: Doubles) -> Integers:
    """All rows, the highest value first, NaN last, of equals the lower row."""
    return np.argsort(-value, kind="stable")


def _first(prompts: Prompts, n: int, constraints: Constraints, order: Integers, value: Doubles) -> Picks:
    """The first n of an order that the constraints let in."""
    chosen = Admission(prompts, constraints, n).take(order)
    return Picks(chosen, value[chosen], [], {})


def _generator(prompts: Prompts) -> np.random.Generator:
    return np.random.default_rng(prompts.seed)
