"""Rewards: the table of verifiers by name, and functions of one's own as `file.py:function`.

A verifier takes responses and gold answers and returns a `Verdict` for each. This module does not judge, and
does not decide what a reward is used for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from learnalign.errors import RewardError
from learnalign.rewards.choice import ChoiceJudge
from learnalign.rewards.exact import ExactJudge
from learnalign.rewards.function import FunctionJudge, is_function, source_digest
from learnalign.rewards.math import MathJudge
from learnalign.rewards.verdict import Judge, Prompt, Verdict

__all__ = [
    "VERIFIERS",
    "Judge",
    "Limits",
    "Prompt",
    "Verdict",
    "is_function",
    "make_judge",
    "needs_rows",
    "source_digest",
]


class Limits(NamedTuple):
    """What a judge may use: processes, seconds of one judgment, and MiB of address space of a process."""

    workers: int
    timeout_seconds: float
    memory_mb: int


def _math(limits: Limits) -> Judge:
    return MathJudge(**limits._asdict())


VERIFIERS: dict[str, Callable[[Limits], Judge]] = {
    "math": _math,
    "exact": lambda limits: ExactJudge(),
    "choice": lambda limits: ChoiceJudge(),
}
"""Name -> maker of a judge."""


def make_judge(verifier: str, *, workers: int, timeout_seconds: float, memory_mb: int, threshold: float = 1.0) -> Judge:
    """The judge called `verifier`, or one that calls a function named `file.py:function`.

    `workers` bounds its processes, `timeout_seconds` the time of one judgment, `memory_mb` the address space of
    one process in MiB. A response is correct by a function's reward from `threshold` on.
    Raises `RewardError` for an unknown name.
    """
    limits = Limits(workers, timeout_seconds, memory_mb)
    if is_function(verifier):
        return FunctionJudge(verifier, **limits._asdict(), threshold=threshold)
    if verifier not in VERIFIERS:
        raise RewardError(f"unknown verifier {verifier!r}; known: {', '.join(VERIFIERS)}, and file.py:function")
    return VERIFIERS[verifier](limits)


def needs_rows(verifier: str) -> bool:
    """Whether the verifier looks at the pool's own rows, and not only at a prompt's answer."""
    return is_function(verifier)
