"""The verifier `code`: a response is correct if its program passes all tests (`programs` says in which shapes).

Programs run in worker processes: in a sandbox on this machine (`sandbox` says what that holds and what not), or on a
Sandbox Fusion server. They get the standard library alone, `timeout_seconds` of CPU time a test and twice that on the
clock, and `memory_mb` MiB of address space. The first failure decides: `wrong` (an answer or an assertion), `error`
(another exception, an exit code, too much output) or `timeout`.

The program has a process of its own: arguments go in, values come out, and comparing happens elsewhere (`apart`), so
that neither the tests nor what they expect is there to be found. Tests that patch or inspect the program, derive from
its classes, or hand it objects of classes of their own cannot be kept from it: what passes them is `passed in one
process`, and code that sets out to cheat may have. And no judge is better than its tests: where they compare two
objects that the program made, the program's own `__eq__` decides.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from learnalign.errors import RewardError
from learnalign.rewards.code.programs import programs
from learnalign.rewards.code.sandbox_fusion import http_client
from learnalign.rewards.verdict import Prompt, Verdict, Verifier, check_lengths, verdict
from learnalign.rewards.workers import START_SECONDS, Question, Reply, WorkerPool

OVERHEAD_SECONDS = 60.0
"""For starting a program on a busy machine, or for a server's queue: only a lost worker takes that long."""


class CodeVerifier(Verifier):
    """Verifier Python code. Not for use from several threads at once.

    `sandbox_url`: address of a Sandbox Fusion server, "" to run programs here. `weak_sandbox`: run them here even
    where the system allows no namespaces.
    """

    def __init__(
        self, *, workers: int, timeout_seconds: float, memory_mb: int, sandbox_url: str, weak_sandbox: bool
    ) -> None:
        if not timeout_seconds > 0:
            raise RewardError(f"timeout_seconds must be greater than 0, found {timeout_seconds}")
        if sandbox_url:
            http_client()  # at once, and not from a worker
        self._timeout_seconds = timeout_seconds
        self._pool = WorkerPool(
            "learnalign.rewards.code.worker",
            [str(timeout_seconds), sandbox_url, "weak" if weak_sandbox else "strong"],
            workers=workers,
            memory_mb=memory_mb,
        )

    def judge(
        self, responses: Sequence[str], answers: Sequence[str], prompts: Sequence[Prompt] | None = None
    ) -> list[Verdict]:
        """See `Verifier.judge`. Raises `RewardError` where programs cannot be contained or a server is silent."""
        if prompts is None:
            prompts = [Prompt(id=f"at position {position}") for position in range(len(responses))]
        check_lengths(responses, answers, prompts)
        with _long_numbers():
            cases = [programs(*case) for case in zip(responses, answers, prompts, strict=True)]
        limit = 2 * self._timeout_seconds + OVERHEAD_SECONDS
        outcomes = iter(self._pool.run([Question(case, limit * len(case)) for case in cases if case]))
        return [
            _verdict(next(outcomes)) if case else verdict(False, "no answer" if response.strip() else "empty")
            for case, response in zip(cases, responses, strict=True)
        ]

    def notes(self) -> list[str]:
        """Whether programs run with less protection than they should."""
        (outcome,) = self._pool.run([Question("where", START_SECONDS)])
        return [str(outcome.reply)] if outcome.reply else []

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()


@contextmanager
def _long_numbers() -> Iterator[None]:
    """Numbers of any length are read: tests may have more than 4,300 digits."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def _verdict(outcome: Reply) -> Verdict:
    if outcome.lost:
        return verdict(False, outcome.lost)
    assert isinstance(outcome.reply, dict)
    if "failed" in outcome.reply:
        raise RewardError(outcome.reply["failed"])
    how = str(outcome.reply["how"])
    return verdict(how.startswith("passed"), how)
