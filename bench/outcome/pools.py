"""The pools: generated arithmetic with right answers, or with wrong ones that look learnable and coins to guess.

    clean    every reference answer is right
    noisy    `WRONG` of the reference answers are what the wrong habit would answer, and `COINS` of the prompts
             ask for a coin that nobody can know: p is near 1/2, and there is nothing to learn

This module knows no policy.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from learnalign.demo.arithmetic import Problem, distinct

POOLS = ("clean", "noisy")
WRONG, COINS = 0.2, 0.1


class Prompt(NamedTuple):
    """A problem as training sees it."""

    text: str
    answer: str
    """The reference answer."""
    family: str
    right: bool
    """Whether the reference answer is right."""


def make_pool(name: str, size: int, held_out: int, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """A pool of `size` prompts, and `held_out` other problems with right answers; both pools of a seed share them."""
    problems = distinct(size, seed)
    unseen = distinct(held_out, seed + 500_000, avoid={problem.text for problem in problems})
    rng = Random(seed)
    pool = [_prompt(problem) for problem in problems]
    if name == "noisy":
        misleading = [k for k, problem in enumerate(problems) if problem.misleading]
        for k in rng.sample(misleading, round(WRONG * size)):
            pool[k] = pool[k]._replace(answer=problems[k].habit, right=False)
        sound = [k for k in range(size) if pool[k].right]
        for k in rng.sample(sound, round(COINS * size)):
            pool[k] = coin(rng)
    return pool, [_prompt(problem) for problem in unseen]


def coin(rng: Random) -> Prompt:
    """A coin that fell one way or the other."""
    return Prompt(f"coin {rng.randint(1000, 9999)}", str(rng.randint(0, 1)), "coin", True)


def _prompt(problem: Problem) -> Prompt:
    return Prompt(problem.text, problem.answer, problem.family, True)
