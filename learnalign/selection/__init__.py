"""Which prompts to train on: strategies that pick n rows given their scores, sketches and success rates.

    strategies   one function each, and the table `STRATEGIES`
    greedy       facility location over a graph of neighbors
    constraints  quotas a group, and near-duplicates
    neighbors    the most similar rows of every row
    history      success rates of an earlier training run
    order        in which the picks are written
    core         the two rankings in C++: `top`, `facility_location`
    prompts      what a strategy is given and returns

This package does not read run directories and does not write the selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign.errors import ArrayError
from learnalign.scoring import learnability_of, mean_direction, score, score_against, score_shards, sketch_array
from learnalign.scoring.arrays import column, target_array
from learnalign.scoring.floats import ieee_floats
from learnalign.scoring.rows import Rows
from learnalign.selection.constraints import Constraints, constraints_of, quota_of
from learnalign.selection.core import count_of, facility_location, top
from learnalign.selection.prompts import Doubles, Picks, Prompts, Search
from learnalign.selection.strategies import STRATEGIES

__all__ = [
    "STRATEGIES",
    "Constraints",
    "Picks",
    "Prompts",
    "Search",
    "Selection",
    "constraints_of",
    "facility_location",
    "pick",
    "quota_of",
    "select",
    "top",
]


class Selection(NamedTuple):
    """The rows picked, best first, and the scores of all rows."""

    indices: npt.NDArray[np.int64]
    """[n] row numbers in the order of picking; fewer where the constraints leave no more."""
    gains: npt.NDArray[np.float64]
    """[n] the value that the strategy ranks by (`top`: the score); of `greedy` what each pick added to its
    objective; of random picks 0."""
    scores: npt.NDArray[np.float64]
    """[N] score of every row."""
    notes: tuple[str, ...]
    """Sentences to read before training: too few learnable rows, constraints that left too few."""
    facts: dict[str, Any]
    """How it was done: the neighbor search and its measured recall, the objective reached."""


@ieee_floats()
def select(
    phi: Any,
    success_rate: Any,
    n: int,
    *,
    strategy: str = "top",
    target: Any = None,
    response_length: Any = None,
    history: Sequence[Sequence[float]] | None = None,
    group: Sequence[Any] | None = None,
    quota: int | None = None,
    duplicate_cosine: float | None = None,
    seed: int = 0,
    search: Search | None = None,
) -> Selection:
    """Score all rows of `phi` and pick `n` of them.

    Args:
        phi: [N, d] gradient sketches (see `learnalign.scoring.score`); also int8, as a store keeps them. A memory
            map is never copied whole.
        success_rate: [N] p in [0, 1].
        n: how many rows, 1 to N. With fewer learnable rows than n, the learnable ones come first.
        strategy: a key of `STRATEGIES`; `top` is the paper's.
        target: [T, d] sketches of a target set's prompts, made like `phi`: scores are against their mean direction
            instead of the pool's mean.
        response_length: [N] mean tokens of a response, for `length`.
        history: [N] success rates over an earlier run, for `history` and `limr`; an empty list for none.
        group: [N] source or category of every row, and
        quota: the most picks of each.
        duplicate_cosine: no two picks with gradients of this cosine or a larger one.
        seed: of `random`, `random_positive` and the neighbor search.
        search: what the neighbors of `greedy` may cost.

    Raises:
        ArrayError: arrays that cannot be scored, an n outside 1..N, an unknown strategy, or one that lacks its input.
        MissingPackageError: `greedy` on a CPU without FAISS.
    """
    array = sketch_array(phi)
    count = count_of(n, len(array))
    learnability = learnability_of(success_rate, len(array))
    rows = Rows([array])
    if target is not None:
        mean = mean_direction([target_array(target, rows.dimension)])

    def score_of(values: Doubles) -> Doubles:
        if target is not None:
            return score_against([array], values, mean).score
        return score_shards([array], values, pool_size=len(array)).score

    prompts = Prompts(
        score=score(array, success_rate, target=target),
        success_rate=column(success_rate, "success_rate", len(array)),
        learnability=learnability,
        rows=rows,
        row_of=np.arange(len(array)),
        score_of=score_of,
        response_length=None if response_length is None else _lengths(response_length, len(array)),
        history=_one_each(history, len(array)),
        seed=seed,
        search=search or Search(),
    )
    picks = pick(prompts, count, strategy, constraints_of(group, quota, duplicate_cosine, len(array)))
    return Selection(picks.indices, picks.gains, prompts.score, tuple(picks.notes), picks.facts)


@ieee_floats()
def pick(prompts: Prompts, n: int, strategy: str, constraints: Constraints) -> Picks:
    """The picks of a strategy, with notes on what fell short. Raises `ArrayError` for an unknown strategy."""
    if strategy not in STRATEGIES:
        raise ArrayError(f"unknown strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}")
    picks = STRATEGIES[strategy].pick(prompts, n, constraints)
    learnable = int(np.count_nonzero(prompts.learnability > 0))
    if learnable < n:
        picks.notes.append(
            f"only {learnable:,} prompts are learnable (0 < p < 1) and {n:,} are asked for: "
            "the rest of the selection teaches this policy nothing"
        )
    if len(picks.indices) < n:
        picks.notes.append(
            f"the constraints leave {len(picks.indices):,} of {n:,}: raise the quota or duplicate_cosine"
        )
    return picks


def _one_each(history: Sequence[Sequence[float]] | None, rows: int) -> Sequence[Sequence[float]] | None:
    if history is not None and len(history) != rows:
        raise ArrayError(f"history must hold one list a row: {rows}, found {len(history)}")
    return history


def _lengths(response_length: Any, rows: int) -> Doubles:
    return column(response_length, "response_length", rows)
