"""Rewards: the table of verifiers by name, and functions of one's own as `file.py:function`.

A verifier takes responses and gold answers and returns a `Verdict` for each. This module does not judge, and
does not decide what a reward is used for.
"""

from __future__ import annotations

from typing import TypedDict

from learnalign.config import VERIFIERS
from learnalign.errors import RewardError
from learnalign.rewards.answers.alternatives import AnyOfVerifier
from learnalign.rewards.answers.choice import ChoiceVerifier
from learnalign.rewards.answers.exact import ExactVerifier
from learnalign.rewards.answers.math import MathVerifier
from learnalign.rewards.code.verifier import CodeVerifier
from learnalign.rewards.function import FunctionVerifier, is_function, source_digest
from learnalign.rewards.verdict import Prompt, Verdict, Verifier

__all__ = [
    "VERIFIERS",
    "Limits",
    "Prompt",
    "Verdict",
    "Verifier",
    "is_function",
    "make_verifier",
    "needs_rows",
    "source_digest",
]


def make_verifier(
    verifier: str,
    *,
    workers: int,
    timeout_seconds: float,
    memory_mb: int,
    threshold: float = 1.0,
    sandbox_url: str = "",
    weak_sandbox: bool = False,
) -> Verifier:
    """The judge called `verifier`, or one that calls a function named `file.py:function`.

    `workers` bounds its processes, `timeout_seconds` the time of one judgment (of the processor for `math` and `code`,
    on the clock for a function, which may wait for something), `memory_mb` the address space of one process in MiB.
    A response is correct by a function's reward from `threshold` on. For the last two see `CodeVerifier`. Raises
    `RewardError` for an unknown name.
    """
    limits: _Limits = {"workers": workers, "timeout_seconds": timeout_seconds, "memory_mb": memory_mb}
    if is_function(verifier):
        return FunctionVerifier(verifier, **limits, threshold=threshold)
    match verifier:
        case "math":
            return AnyOfVerifier(MathVerifier(**limits))
        case "exact":
            return AnyOfVerifier(ExactVerifier())
        case "choice":
            return AnyOfVerifier(ChoiceVerifier())
        case "imported":
            raise RewardError("the verifier imported judges nothing: it stands for rewards read by learnalign import")
        case "code":
            return CodeVerifier(**limits, sandbox_url=sandbox_url, weak_sandbox=weak_sandbox)
    raise RewardError(f"unknown verifier {verifier!r}; known: {', '.join(VERIFIERS)}, and file.py:function")


def needs_rows(verifier: str) -> bool:
    """Whether the verifier looks at the pool's own rows, and not only at a prompt's answer."""
    return verifier == "code" or is_function(verifier)


class _Limits(TypedDict):
    workers: int
    timeout_seconds: float
    memory_mb: int
