"""The verifier `code`: a response is correct if its program passes all tests (`programs` says in which shapes).

Programs run in worker processes: in a sandbox on this machine (`sandbox` says what that holds and what not), or on a
Sandbox Fusion server. They get the standard library alone, `timeout_seconds` of CPU time a test and twice that on the
clock, and `memory_mb` MiB of address space. The first failure decides: `wrong` (an answer or an assertion), `error`
(another exception, an exit code, too much output) or `timeout`.

Unit tests that only compare calls with literals are separated: the solution's process gets the arguments and gives back
values, which are compared outside. What it does not protect against: other tests in Python (loops, tolerances, test
cases) run in the same process as the code they test. Code that sets out to cheat can read those, make objects that are
equal to everything, or find the secret that the harness tells at the end; a policy under training may learn that.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def _verdict(outcome: Reply) -> Verdict:
    if outcome.lost:
        return verdict(False, outcome.lost)
    assert isinstance(outcome.reply, dict)
    if "failed" in outcome.reply:
        raise RewardError(outcome.reply["failed"])
    how = str(outcome.reply["how"])
    return verdict(how.startswith("passed"), how)
