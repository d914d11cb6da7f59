"""Looks at the rewards of many responses: which of them count as correct, and whether that can be meant.

Arrays have one entry a response: `prompts` any value that tells prompts apart, `rewards` float64, `correct` bool.
This module decides nothing (see `verdict.is_correct`), and raises nothing: its callers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

SHOWN = 8
"""Distinct rewards that are listed; of more, the smallest and the largest."""

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def distinct_rewards(rewards: Doubles, correct: Flags) -> str:
    """Every value with how many responses have it and how many of these are correct, from the largest on."""
    values, of = np.unique(np.asarray(rewards, np.float64).round(9), return_inverse=True)
    counts, right = np.bincount(of), np.bincount(of, weights=correct).astype(np.int64)
    listed = [_value(*one) for one in zip(values[::-1].tolist(), counts[::-1], right[::-1], strict=True)]
    if len(listed) > SHOWN:
        half = SHOWN // 2
        listed = [*listed[:half], f"{len(listed) - SHOWN:,} values between", *listed[-half:]]
    return f"{int(right.sum()):,} of {len(rewards):,} responses count as correct; rewards: {', '.join(listed)}"


def all_or_nothing(prompts: Sequence[Any], rewards: Doubles, correct: Flags) -> str:
    """What is wrong where rewards differ within a prompt, yet all responses are correct or none is; "" if nothing."""
    if not len(correct) or correct.any() != correct.all():
        return ""
    _, of = np.unique(np.asarray(prompts), return_inverse=True)
    low, high = np.full(of.max() + 1, np.inf), np.full(of.max() + 1, -np.inf)
    np.minimum.at(low, of, rewards)
    np.maximum.at(high, of, rewards)
    differing = np.flatnonzero(high > low)
    if not len(differing):
        return ""
    one = differing[0]
    which = "every response counts" if correct.all() else "no response counts"
    return f"{which} as correct, though rewards differ within a prompt, such as {low[one]:g} and {high[one]:g}"


def contradiction(prompts: Sequence[Any], rewards: Doubles, correct: Flags) -> tuple[int, int] | None:
    """(i, j): a correct response i and an incorrect one j of the same prompt that has the larger reward."""
    if not len(correct):
        return None
    _, of = np.unique(np.asarray(prompts), return_inverse=True)
    best = np.full(of.max() + 1, -np.inf)
    np.maximum.at(best, of[~correct], rewards[~correct])
    inverted = np.flatnonzero(correct & (rewards < best[of]))
    if not len(inverted):
        return None
    i = int(inverted[0])
    j = np.flatnonzero((of == of[i]) & ~correct & (rewards == best[of[i]]))[0]
    return i, int(j)


def _value(value: float, count: int, right: int) -> str:
    verdict = "correct" if right == count else "not correct" if right == 0 else f"{right:,} correct"
    return f"{value:g} ({count:,}, {verdict})"
