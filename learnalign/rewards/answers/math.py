"""The verifier `math`: exact comparison first, math-verify for what that leaves open.

Only the final answers reach math-verify, never whole responses, and only in worker processes that can be
killed (`workers`): its parser can hang in C, and its own alarms work on the main thread alone. Equal
questions of one call are asked once, so that eight responses with the same answer cost one judgment.

Two kinds of answer that math-verify would let pass are refused before: arithmetic left undone ("48 + 24" for
72), which a policy learns by copying the problem, and a set in braces for a tuple or interval. This module
does not start a process unless one is needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from learnalign.errors import RewardError
from learnalign.rewards.answers.exact import first_look
from learnalign.rewards.answers.quantity import quantity
from learnalign.rewards.verdict import Prompt, Verdict, Verifier, check_lengths, verdict
from learnalign.rewards.workers import Question, Reply, WorkerPool

_ARITHMETIC = re.compile(r"(?:[-\d\s.,+*/()]|\\times|\\cdot|\\div)*")
_BINARY = re.compile(r"[\d)]\s*(?:[-+*]|\\times|\\cdot|\\div)|/.*/")
PATIENCE = 20
"""Clock time that a judgment may take, as a multiple of its processor time: that of a machine with as much to do."""
PAIRS_PER_WORKER = 64
"""A further worker pays off where it saves more than the second or two of its start."""


class MathVerifier(Verifier):
    """Verifier numbers and LaTeX. Not for use from several threads at once.

    `workers` processes at most, each with `memory_mb` MiB of address space; a judgment that takes more than
    `timeout_seconds` of processor time, or `PATIENCE` times that on the clock, is `timeout`.
    """

    def __init__(self, *, workers: int, timeout_seconds: float, memory_mb: int) -> None:
        if not timeout_seconds > 0:
            raise RewardError(f"timeout_seconds must be greater than 0, found {timeout_seconds}")
        self._timeout_seconds = timeout_seconds
        self._pool = WorkerPool(
            "learnalign.rewards.answers.math_worker",
            workers=workers,
            memory_mb=memory_mb,
            tasks_per_worker=PAIRS_PER_WORKER,
        )

    def judge(
        self, responses: Sequence[str], answers: Sequence[str], prompts: Sequence[Prompt] | None = None
    ) -> list[Verdict]:
        """See `Verifier.judge`."""
        check_lengths(responses, answers)
        verdicts: list[Verdict | None] = []
        open_rows: list[int] = []
        questions: list[tuple[str, str]] = []
        for index, (response, answer) in enumerate(zip(responses, answers, strict=True)):
            look = first_look(response, answer, index)
            decided = look.verdict or _refused(look.gold, look.candidate)
            verdicts.append(decided)
            if decided is None:
                open_rows.append(index)
                questions.append((look.gold, look.candidate))
        distinct = list(dict.fromkeys(questions))
        patience = PATIENCE * self._timeout_seconds
        outcomes = self._pool.run([Question(question, patience, self._timeout_seconds) for question in distinct])
        known = dict(zip(distinct, map(_verdict, outcomes), strict=True))
        for row, question in zip(open_rows, questions, strict=True):
            verdicts[row] = known[question]
        return [found for found in verdicts if found is not None]

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()


def _verdict(outcome: Reply) -> Verdict:
    if outcome.lost:
        return verdict(False, outcome.lost)
    return verdict(True, "math-verify") if outcome.reply is True else verdict(False, "wrong")


def _refused(gold: str, candidate: str) -> Verdict | None:
    """A verdict for what math-verify would call equal although the answer is not given."""
    if quantity(gold) and _ARITHMETIC.fullmatch(candidate) and _BINARY.search(candidate):
        return verdict(False, "unevaluated")
    if {_bracket(gold), _bracket(candidate)} == {"set", "tuple"}:
        return verdict(False, "wrong")
    return None


def _bracket(text: str) -> str:
    """`set` for an answer all in braces, `tuple` for one in parentheses or square brackets, else ""."""
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "set"
    return "tuple" if text[:1] in ("(", "[") and text[-1:] in (")", "]") else ""
