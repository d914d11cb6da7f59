"""What every worker process does: it starts under limits, reads tasks on stdin and writes replies on stdout.

`python -P -m MODULE PARENT_PID MEMORY_MB ARGUMENTS...`, where MODULE calls `serve`. First of all it writes the JSON
line `"ready"`, or `{"error": sentence}` if it cannot be of use; then for each line `[seconds, cpu_seconds, message]`
one line `[reply]`, or `{"raised": text}` where answering raised an exception. It ends with its parent: at the end of
its stdin, on Linux by the parent-death signal (which also comes when the thread that started it ends; `workers` then
starts another), and everywhere by an alarm that the kernel delivers even while a computation in C holds the
interpreter.

A task that takes more than its `cpu_seconds` of processor time (0: no limit) ends it by SIGPROF, from the kernel as
well. The clock on the wall is the parent's to watch (`workers`).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1

Answer = Callable[[Any], object]
"""Message to reply, both made of what JSON holds."""


class CannotServe(Exception):
    """This worker is of no use; the text is a sentence for the user."""


def serve(prepare: Callable[[list[str], int], Answer]) -> None:
    """Answer tasks until stdin ends. `prepare(arguments, memory_mb)` makes the function that does."""
    parent, memory_mb = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process without Python
    die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    # Keep the pipes to ourselves: what a library prints goes nowhere, and what it reads is empty.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    tasks = os.fdopen(os.dup(0), "r", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    try:
        answer = prepare(sys.argv[3:], memory_mb)
    except CannotServe as error:
        print(json.dumps({"error": str(error)}), file=replies)
        return
    print(json.dumps("ready"), file=replies)
    for line in tasks:
        seconds, cpu_seconds, message = json.loads(line)
        # The default action of SIGALRM ends the process without Python; the parent kills it long before.
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 1)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        line = _reply(answer, message)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(line, file=replies)


def _reply(answer: Answer, message: Any) -> str:
    """The reply as JSON; what is raised costs this message, and not the worker or the stage."""
    try:
        return json.dumps([answer(message)])
    except (Exception, SystemExit) as error:
        return json.dumps({"raised": f"{type(error).__name__}: {error}"[:200]})


def die_with(parent: int) -> None:
    """Ask Linux for SIGKILL at the parent's death, and leave if it died already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)
