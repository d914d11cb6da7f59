"""A pool of worker processes that can be killed and replaced.

Each worker is a plain subprocess that speaks lines over pipes (`worker`), so that it works from threads,
pytest and notebooks, where forking or multiprocessing's start-up would not. Workers are started when there is
something to do, one for every `tasks_per_worker` tasks (more once one hangs), and live until `close`.

- A task that exceeds its limit of wall-clock time, or of processor time: the worker is killed, a new one started if
  there is more to do, `timeout`.
- A worker that dies over a task: it is tried once more in a new one, since the cause may have come from
  outside (memory pressure, somebody's kill); if that dies too, the outcome is `crash`.
- A worker that raises an exception over a task: the outcome is `error`, and it goes on.
- Workers that cannot start at all (math-verify missing, memory limit too small): `RewardError`.

Outcomes come in input order and depend on the task only, not on the number of workers. This module does not
know what is asked, and is not for use from several threads at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from learnalign.errors import RewardError

START_SECONDS = 120.0
"""Time that a worker may take to start; importing math-verify takes about 1 s on an idle machine."""
START_ATTEMPTS = 3
TRIES = 2
_INCOMPLETE = object()


class Question(NamedTuple):
    """What a worker is asked, as JSON (what that lacks goes as text), and the time that it may take."""

    message: object
    seconds: float
    """On the clock."""
    cpu_seconds: float = 0.0
    """Of processor time, which a busy machine does not stretch; 0 sets no limit."""


class Reply(NamedTuple):
    """A worker's reply; or None, and `timeout` or `crash` for a worker that was lost, `error` for what it raised."""

    reply: object
    lost: str


class _Worker:
    """One process: its pipes, the task it is at, and when it has to be done."""

    def __init__(self, module: str, arguments: Sequence[str], memory_mb: int) -> None:
        command = [sys.executable, "-P", "-m", module, str(os.getpid()), str(memory_mb), *arguments]
        # The worker sees the modules that we see; SymPy's ordering must not depend on random hashes.
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "0"},
            process_group=0,  # Ctrl-C in a terminal is for the parent alone
        )
        self.ready = False
        self.task: int | None = None
        self.deadline = time.monotonic() + START_SECONDS
        self._received = b""

    def send(self, number: int, task: Question) -> None:
        """Hand over a task; a worker that is already dead is noticed when its pipe is read."""
        assert self.process.stdin is not None
        self.task = number
        self.deadline = time.monotonic() + task.seconds
        with contextlib.suppress(BrokenPipeError):
            line = json.dumps([task.seconds, task.cpu_seconds, task.message], default=str)
            self.process.stdin.write(line.encode("ascii") + b"\n")
            self.process.stdin.flush()

    def receive(self) -> object:
        """The next message, `_INCOMPLETE` if there is none yet. Raises `EOFError` if the worker is dead."""
        data = os.read(self.fileno(), 65536)
        if not data:
            raise EOFError
        self._received += data
        line, newline, rest = self._received.partition(b"\n")
        if not newline:
            return _INCOMPLETE
        self._received = rest
        message: object = json.loads(line)
        return message

    def fileno(self) -> int:
        """Descriptor to wait on, for selectors."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def kill(self) -> None:
        """SIGKILL for the process and what it started in its group, and collect it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class WorkerPool:
    """Have tasks done in at most `workers` processes that run `module` (one that calls `worker.serve`).

    `arguments` are the module's own; `memory_mb` is the address space of a process in MiB. A further worker is
    started for every `tasks_per_worker` tasks: it pays off where it saves more than its start takes.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        workers: int,
        memory_mb: int,
        tasks_per_worker: int = 1,
    ) -> None:
        if workers < 1 or memory_mb < 1:
            raise RewardError(f"workers and memory_mb must be greater than 0, found {workers}, {memory_mb}")
        self._module = module
        self._arguments = tuple(arguments)
        self._limit = workers
        self._memory_mb = memory_mb
        self._tasks_per_worker = tasks_per_worker
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        return [worker.process.pid for worker in self._workers if worker.ready]

    def run(self, tasks: Sequence[Question]) -> list[Reply]:
        """The outcome of every task, in order. Raises `RewardError` if workers cannot be run."""
        outcomes = [Reply(None, "")] * len(tasks)
        todo = deque((number, 1) for number in range(len(tasks)))
        tries: dict[int, int] = {}
        slow = False
        try:
            while todo or any(worker.task is not None for worker in self._workers):
                self._grow(len(todo), slow)
                for worker in self._workers:
                    if todo and worker.ready and worker.task is None:
                        number, tries[number] = todo.popleft()
                        worker.send(number, tasks[number])
                for number, outcome in self._wait():
                    if outcome.lost == "crash" and tries[number] < TRIES:
                        todo.appendleft((number, tries[number] + 1))
                    else:
                        outcomes[number] = outcome
                        slow = slow or outcome.lost == "timeout"
        except BaseException:
            self.close()  # a reply still under way would be taken for one of the next call
            raise
        return outcomes

    def close(self) -> None:
        """End all workers; a later `run` starts new ones."""
        while self._workers:
            self._workers.pop().kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _grow(self, waiting: int, slow: bool) -> None:
        """Start workers as the open tasks deserve; all that are allowed once one was `slow`."""
        busy = sum(worker.task is not None for worker in self._workers)
        share = 1 if slow else self._tasks_per_worker
        wanted = min(-(-(waiting + busy) // share), self._limit)
        while waiting and len(self._workers) < wanted:
            self._workers.append(_Worker(self._module, self._arguments, self._memory_mb))

    def _wait(self) -> list[tuple[int, Reply]]:
        """Wait for the next messages, deaths or deadlines; return what was decided."""
        decided: list[tuple[int, Reply]] = []
        awaited = [worker for worker in self._workers if worker.task is not None or not worker.ready]
        with selectors.DefaultSelector() as selector:
            for worker in awaited:
                selector.register(worker, selectors.EVENT_READ)
            pause = min(worker.deadline for worker in awaited) - time.monotonic()
            heard = {id(key.fileobj) for key, _ in selector.select(max(pause, 0.0))}
        for worker in awaited:
            if id(worker) in heard:
                decided += self._hear(worker)
            elif time.monotonic() >= worker.deadline:
                decided += self._drop(worker, "timeout")
        return decided

    def _hear(self, worker: _Worker) -> list[tuple[int, Reply]]:
        try:
            message = worker.receive()
        except EOFError:
            return self._drop(worker, "crash")
        if message is _INCOMPLETE:
            return []
        if not worker.ready:
            if isinstance(message, dict):
                raise RewardError(message["error"])
            worker.ready, self._failed_starts = True, 0
            return []
        number, worker.task = worker.task, None
        if number is None:
            return []
        return [(number, Reply(message[0], "") if isinstance(message, list) else Reply(None, "error"))]

    def _drop(self, worker: _Worker, lost: str) -> list[tuple[int, Reply]]:
        """Kill a worker that hangs or collect one that died. Raises `RewardError` if none ever starts."""
        self._workers.remove(worker)
        worker.kill()
        if worker.task is not None:
            spent = worker.process.returncode == -signal.SIGPROF  # its processor time
            return [(worker.task, Reply(None, "timeout" if spent else lost))]
        self._failed_starts += 1
        if self._failed_starts >= START_ATTEMPTS:
            raise RewardError(
                f"{START_ATTEMPTS} worker processes in a row died while starting (exit status "
                f"{worker.process.returncode}) with a memory limit of {self._memory_mb} MiB; "
                "raise reward.memory_mb"
            )
        return []
