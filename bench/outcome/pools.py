"""The pools: generated arithmetic with right answers; with wrong ones that look learnable; or mostly hopeless.

    clean    every reference answer is right
    noisy    `WRONG` of the reference answers are what the wrong habit would answer, and `COINS` of the prompts
             ask for a coin that nobody can know: p is near 1/2, and there is nothing to learn
    hard     right answers; `HOPELESS` of the prompts have p < `HOPELESS_BELOW` under the policy that starts, all of
             the last level

Held-out problems are ordinary ones with right answers, the same for clean and noisy pools. This module knows no policy:
who wants a hard pool says what p is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign.demo.arithmetic import FAMILIES, LEVELS, Problem, distinct, draw

WRONG, COINS = 0.2, 0.1
HOPELESS, HOPELESS_BELOW = 2 / 3, 1e-3
CANDIDATES = 5
"""Problems of the last level among which hopeless ones are looked for, as a multiple of a hard pool's size."""


class Prompt(NamedTuple):
    """A problem as training sees it."""

    text: str
    answer: str
    """The reference answer."""
    family: str
    right: bool
    """Whether the reference answer is right."""


Success = Callable[[Sequence[Prompt]], npt.NDArray[np.floating]]
"""[N] probability that a response of the policy is right."""


def make_pool(
    name: str, size: int, held_out: int, seed: int, success: Success | None = None
) -> tuple[list[Prompt], list[Prompt]]:
    """A pool of `size` prompts, and `held_out` other problems. success: of the start policy, for a hard pool."""
    problems = distinct(size, seed)
    rng = Random(seed)
    pool = [_prompt(problem) for problem in problems]
    avoid = {prompt.text for prompt in pool}
    if name == "noisy":
        _spoil(pool, problems, rng)
    if name == "hard":
        assert success is not None, "a hard pool is hard for some policy"
        pool = _harden(pool, rng, success)
        avoid = {prompt.text for prompt in pool}
    unseen = distinct(held_out, seed + 500_000, avoid=avoid)
    return pool, [_prompt(problem) for problem in unseen]


def _spoil(pool: list[Prompt], problems: Sequence[Problem], rng: Random) -> None:
    """Make some answers wrong, and some prompts coins."""
    size = len(pool)
    misleading = [k for k, problem in enumerate(problems) if problem.misleading]
    for k in rng.sample(misleading, round(WRONG * size)):
        pool[k] = pool[k]._replace(answer=problems[k].habit, right=False)
    sound = [k for k in range(size) if pool[k].right]
    for k in rng.sample(sound, round(COINS * size)):
        pool[k] = coin(rng)


def _harden(pool: Sequence[Prompt], rng: Random, success: Success) -> list[Prompt]:
    """As many prompts, most of them hopeless ones of the last level, the others of the pool."""
    wanted = round(HOPELESS * len(pool))
    last = _last_level(CANDIDATES * len(pool), rng, {prompt.text for prompt in pool})
    hopeless = np.flatnonzero(success(last) < HOPELESS_BELOW)[:wanted]
    others = np.flatnonzero(success(pool) >= HOPELESS_BELOW)[: len(pool) - wanted]
    if len(hopeless) < wanted or len(others) < len(pool) - wanted:
        raise ValueError(f"found {len(hopeless)} hopeless prompts of {wanted}, {len(others)} others")
    found = [last[k] for k in hopeless] + [pool[k] for k in others]
    rng.shuffle(found)
    return found


def _last_level(count: int, rng: Random, avoid: Set[str]) -> list[Prompt]:
    """Different problems of the last level, all families equally often."""
    families, found = list(FAMILIES), dict[str, Prompt]()
    while len(found) < count:
        problem = draw(families[len(found) % len(families)], LEVELS[-1], rng)
        if problem.text not in avoid:
            found[problem.text] = _prompt(problem)
    return list(found.values())


def coin(rng: Random) -> Prompt:
    """A coin that fell one way or the other."""
    return Prompt(f"coin {rng.randint(1000, 9999)}", str(rng.randint(0, 1)), "coin", True)


def _prompt(problem: Problem) -> Prompt:
    return Prompt(problem.text, problem.answer, problem.family, True)
