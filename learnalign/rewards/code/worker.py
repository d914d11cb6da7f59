"""The worker process of `code`: runs programs one after the other (`worker` says how it is spoken to).

`... SECONDS SERVER weak|strong`. A message is a list of `programs.Program`; the reply `{"how": ...}` of the first that
fails, or `passed`; `{"failed": sentence}` where programs cannot be run at all. The message "where" is answered with a
sentence if programs are contained less than they should be, else "". This module does not know responses.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from learnalign.errors import RewardError
from learnalign.rewards.code import sandbox, sandbox_fusion
from learnalign.rewards.code.programs import Program, same_output, same_values
from learnalign.rewards.code.sandbox import Ran
from learnalign.rewards.worker import Answer, CannotServe, serve

WEAK = (
    "programs ran without namespaces, which this system does not allow: they could read files and write where this "
    "user can"
)
TOGETHER = "passed in one process"
"""Tests that cannot be kept from the program: see `verifier`."""
UNFILTERED = "programs ran without a filter of system calls, which this system or machine does not have"
Run = Callable[[str, str], Ran]
"""Program and standard input to what became of it."""


def prepare(arguments: list[str], memory_mb: int) -> Answer:
    """The function that answers messages. Raises `CannotServe` where programs cannot be contained."""
    seconds, server, weak = float(arguments[0]), arguments[1], arguments[2] == "weak"
    note = ""
    if server:
        run: Run = partial(sandbox_fusion.run, server, seconds=seconds, memory_mb=memory_mb)
    elif sys.platform != "linux":
        raise CannotServe("the sandbox needs Linux; name a Sandbox Fusion server (reward.sandbox_url)")
    else:
        run, note = _local(seconds, memory_mb, weak)

    def answer(message: Any) -> object:
        if message == "where":
            return note
        try:
            return {"how": _test(run, [Program(*program) for program in message])}
        except RewardError as error:
            return {"failed": str(error)}

    return answer


def _local(seconds: float, memory_mb: int, weak: bool) -> tuple[Run, str]:
    """How programs run on this machine, and what there is to say of it; tried with an empty one."""
    strong = partial(sandbox.run, seconds=seconds, memory_mb=memory_mb)
    try:
        tried = sandbox.run("", "", seconds=60, memory_mb=memory_mb)
        return strong, "" if tried.filtered else UNFILTERED
    except RewardError as error:
        if not weak:
            raise CannotServe(str(error)) from error
    sandbox.adopt_orphans()

    def run(source: str, stdin: str) -> Ran:
        try:
            return strong(source, stdin, namespaces=False)
        finally:
            sandbox.kill_descendants()

    try:
        tried = run("", "")
    except RewardError as error:
        raise CannotServe(str(error)) from error
    return run, WEAK if tried.filtered else f"{WEAK}; {UNFILTERED}"


def _test(run: Run, programs: list[Program]) -> str:
    """Run programs until one fails; else `passed`, or `passed in one process`."""
    together = False
    for program in programs:
        how = _result(run, program)
        if how == "inseparable":
            program = Program("together", program.together, "", program.expected)
            how = _result(run, program)
        together = together or program.kind == "together"
        if how != "passed":
            return how
    return TOGETHER if together else "passed"


def _result(run: Run, program: Program) -> str:
    """What became of one program: see `Program.kind`."""
    ran = run(program.source, program.stdin)
    if ran.ended == "timeout":
        return "timeout"
    stdout = ran.stdout.decode(errors="replace")
    if program.kind == "apart":
        secret, _, how = (stdout.splitlines() or [""])[-1].partition(" ")
        return how if ran.ended == "exit" and secret == program.expected else "error"
    if program.kind == "together" and ran.ended == "exit" and program.expected in stdout.splitlines():
        return "passed"
    if ran.ended != "exit" or ran.code:
        return _failed(ran)
    if program.kind == "values":
        right = same_values(stdout, program.expected, program.tolerant)
    else:
        right = program.kind == "output" and same_output(stdout, program.expected)
    return "passed" if right else "wrong"


def _failed(ran: Ran) -> str:
    """An assertion, or another end."""
    lines = ran.stderr.decode(errors="replace").strip().splitlines()
    return "wrong" if lines and lines[-1].startswith("AssertionError") else "error"


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)  # a program may give a number of any length
    serve(prepare)
