"""What every verifier returns, and the shape of a verifier.

Here is also what a number says, once for all of the package: from which reward on a response is correct
(`is_correct`), and which numbers are verdicts (`as_verdict`). This module does not judge anything: `exact`, `math`,
`choice`, `code` and `function` do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from learnalign.errors import RewardError

ROUNDING = 1e-6
"""What a reward may be below the threshold, relative to it: rewards that went through float32 are."""


class Verdict(NamedTuple):
    """The judgment of one response.

    `correct` decides the success rate p; `reward` enters the advantages. They are kept apart because a reward
    may hold more than correctness. `how` says what decided:

    - correct: `exact` (equal after normalization), `math-verify` (equal as mathematics), `passed` (every test of
      a program), `passed in one process` (the same, where the tests could not be kept from it), `reward` (a function of
      one's own, see `function`) or `imported`;
    - not correct: `wrong`, `unevaluated` (arithmetic left undone where a number was asked for), `no answer`,
      `empty`, `too long` (the answer, not the response), `error` (a program failed in another way than by its
      answer, or this package in judging), `no reward` (a function gave None), `timeout` or `crash` (of the worker
      process).
    """

    correct: bool
    reward: float
    how: str


class Prompt(NamedTuple):
    """What a reward may see of a response's prompt beside the gold answer. Answers in text need none of it."""

    id: str = ""
    problem: str = ""
    """The problem as text; of chat messages the last one of the user."""
    messages: Sequence[Mapping[str, str]] | None = None
    """The chat messages, None for a plain problem."""
    source: str = ""
    row: Mapping[str, Any] = {}
    """The pool's own row, every column unchanged."""


class Verifier(ABC):
    """A verifier that is ready to judge. Close it, or use it as a context manager."""

    @abstractmethod
    def judge(
        self, responses: Sequence[str], answers: Sequence[str], prompts: Sequence[Prompt] | None = None
    ) -> list[Verdict]:
        """Verifier `responses[i]` against the gold answer `answers[i]`; verdicts come in input order.

        Raises `RewardError` when the lengths differ, a gold answer is unfit, or workers cannot be run.
        """

    def notes(self) -> list[str]:
        """What a person should know of how this judge works here."""
        return []

    def close(self) -> None:  # noqa: B027 (only some have something to release)
        """Release processes, if there are any. Closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_correct(reward: float, threshold: float) -> bool:
    """Whether a response with this reward is correct: from `threshold` on, up to the rounding of float32."""
    return reward >= least_correct(threshold)


def least_correct(threshold: float) -> float:
    """The least reward of a correct response."""
    return threshold - ROUNDING * max(1.0, abs(threshold))


def as_verdict(value: Any) -> bool:
    """What a logged or returned "acc" says: a truth value, 1 or 0, or 1 or -1. Raises `ValueError` for all else."""
    if hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    if not isinstance(value, bool | int | float) or value not in (1, 0, -1):
        raise ValueError(f"must be true or false, 1 or 0, or 1 or -1, found {value!r:.40}")
    return value > 0


def verdict(correct: bool, how: str) -> Verdict:
    """A verdict whose reward is plain correctness: 1.0 or 0.0."""
    return Verdict(correct, float(correct), how)


def check_lengths(responses: Sequence[str], *others: Sequence[object]) -> None:
    """Raise `RewardError` unless there is one gold answer (and one prompt) for every response."""
    for other in others:
        if len(responses) != len(other):
            raise RewardError(
                f"judge expects one answer for each response, found {len(responses)} responses and "
                f"{len(other)} answers or prompts"
            )
