"""Answer verification: the table of verifiers, by name.

A verifier takes responses and gold answers and returns a `Verdict` for each. This module does not judge, and
does not decide what a reward is used for.
"""

from __future__ import annotations

from collections.abc import Callable

from learnalign.errors import RewardError
from learnalign.rewards.exact import ExactJudge
from learnalign.rewards.math import MathJudge
from learnalign.rewards.verdict import Judge, Prompt, Verdict

__all__ = ["VERIFIERS", "Judge", "Prompt", "Verdict", "make_judge"]


def _exact(workers: int, timeout_seconds: float, memory_mb: int) -> Judge:
    return ExactJudge()


def _math(workers: int, timeout_seconds: float, memory_mb: int) -> Judge:
    return MathJudge(workers=workers, timeout_seconds=timeout_seconds, memory_mb=memory_mb)


VERIFIERS: dict[str, Callable[[int, float, int], Judge]] = {"math": _math, "exact": _exact}
"""Name -> maker of a judge from (workers, timeout in seconds, memory limit in MiB)."""


def make_judge(verifier: str, *, workers: int, timeout_seconds: float, memory_mb: int) -> Judge:
    """The judge called `verifier`.

    `workers` bounds its processes, `timeout_seconds` the wall-clock time of one judgment, `memory_mb` the
    address space of one process in MiB. Raises `RewardError` for an unknown name.
    """
    if verifier not in VERIFIERS:
        raise RewardError(f"unknown verifier {verifier!r}; known: {', '.join(VERIFIERS)}")
    return VERIFIERS[verifier](workers, timeout_seconds, memory_mb)
