"""What every verifier returns, and the shape of a verifier.

This module does not judge anything: `exact` and `math` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from learnalign.errors import RewardError


class Verdict(NamedTuple):
    """The judgment of one response.

    `correct` decides the success rate p; `reward` enters the advantages. They are kept apart because a reward
    may hold more than correctness. `how` says what decided:

    - correct: `exact` (equal after normalization) or `math-verify` (equal as mathematics);
    - not correct: `wrong`, `unevaluated` (arithmetic left undone where a number was asked for), `no answer`,
      `empty`, `too long` (the answer, not the response), `timeout` or `crash` (of the worker process).
    """

    correct: bool
    reward: float
    how: str


class Judge(Protocol):
    """A verifier that is ready to judge. Close it, or use it as a context manager."""

    def judge(self, responses: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """Judge `responses[i]` against the gold answer `answers[i]`; verdicts come in input order.

        Raises `RewardError` when the lengths differ, a gold answer is empty, or workers cannot be run.
        """
        ...

    def close(self) -> None:
        """Release processes, if there are any. Closing twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def verdict(correct: bool, how: str) -> Verdict:
    """A verdict whose reward is plain correctness: 1.0 or 0.0."""
    return Verdict(correct, float(correct), how)


def check_lengths(responses: Sequence[str], answers: Sequence[str]) -> None:
    """Raise `RewardError` unless there is one gold answer for every response."""
    if len(responses) != len(answers):
        raise RewardError(
            f"judge expects one answer for each response, found {len(responses)} responses and {len(answers)} answers"
        )
