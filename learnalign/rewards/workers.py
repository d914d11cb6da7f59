"""A pool of worker processes that can be killed and replaced.

Each worker is a plain subprocess that speaks lines over pipes (`worker`), so that it works from threads,
pytest and notebooks, where forking or multiprocessing's start-up would not. Workers are started when there is
something to compare, one for every `PAIRS_PER_WORKER` pairs (more once one hangs), and live until `close`.

- A comparison that exceeds its wall-clock limit: SIGKILL, a new worker if there is more to do, `timeout`.
- A worker that dies while comparing: the pair is tried once more in a new one, since the cause may have come
  from outside (memory pressure, somebody's kill); if that dies too, the outcome is `crash`.
- Workers that cannot start at all (math-verify missing, memory limit too small): `RewardError`.

Outcomes come in input order and depend on the pair only, not on the number of workers. This module does not
know what is compared, and is not for use from several threads at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from learnalign.errors import RewardError

START_SECONDS = 120.0
"""Time that a worker may take to import math-verify: about 1 s on an idle machine."""
START_ATTEMPTS = 3
PAIRS_PER_WORKER = 64
"""A further worker pays off where it saves more than the second or two of its start."""
TRIES = 2

Pair = tuple[str, str]


class _Worker:
    """One process: its pipes, the pair it is comparing, and when it has to be done."""

    def __init__(self, timeout_seconds: float, memory_mb: int) -> None:
        command = [sys.executable, "-P", "-m", "learnalign.rewards.worker"]
        arguments = [str(os.getpid()), str(timeout_seconds), str(memory_mb)]
        # The worker sees the modules that we see; SymPy's ordering must not depend on random hashes.
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            command + arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "0"},
            process_group=0,  # Ctrl-C in a terminal is for the parent alone
        )
        self.timeout_seconds = timeout_seconds
        self.ready = False
        self.task: int | None = None
        self.deadline = time.monotonic() + START_SECONDS
        self._received = b""

    def send(self, task: int, pair: Pair) -> None:
        """Start comparing; a worker that is already dead is noticed when its pipe is read."""
        assert self.process.stdin is not None
        self.task = task
        self.deadline = time.monotonic() + self.timeout_seconds
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(pair).encode("ascii") + b"\n")
            self.process.stdin.flush()

    def receive(self) -> object | None:
        """The next message if it is complete, None if not yet. Raises `EOFError` if the worker is dead."""
        data = os.read(self.fileno(), 65536)
        if not data:
            raise EOFError
        self._received += data
        line, newline, rest = self._received.partition(b"\n")
        if not newline:
            return None
        self._received = rest
        message: object = json.loads(line)
        return message

    def fileno(self) -> int:
        """Descriptor to wait on, for selectors."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def kill(self) -> None:
        """SIGKILL, and collect the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class WorkerPool:
    """Compare pairs of answers in at most `workers` processes.

    `timeout_seconds`: wall-clock limit of one comparison. `memory_mb`: address space of a process in MiB.
    """

    def __init__(self, *, workers: int, timeout_seconds: float, memory_mb: int) -> None:
        if workers < 1 or not timeout_seconds > 0 or memory_mb < 1:
            raise RewardError(
                "workers, timeout_seconds and memory_mb must be greater than 0, found "
                f"{workers}, {timeout_seconds}, {memory_mb}"
            )
        self._limit = workers
        self._timeout_seconds = timeout_seconds
        self._memory_mb = memory_mb
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        return [worker.process.pid for worker in self._workers if worker.ready]

    def compare(self, pairs: Sequence[Pair]) -> list[str]:
        """`equal`, `different`, `timeout` or `crash` for every pair, in order. Raises `RewardError`."""
        outcomes = [""] * len(pairs)
        todo = deque((task, 1) for task in range(len(pairs)))
        tries: dict[int, int] = {}
        slow = False
        try:
            while todo or any(worker.task is not None for worker in self._workers):
                self._grow(len(todo), slow)
                for worker in self._workers:
                    if todo and worker.ready and worker.task is None:
                        task, tries_now = todo.popleft()
                        tries[task] = tries_now
                        worker.send(task, pairs[task])
                for task, outcome in self._wait():
                    if outcome == "crash" and tries[task] < TRIES:
                        todo.appendleft((task, tries[task] + 1))
                    else:
                        outcomes[task] = outcome
                        slow = slow or outcome == "timeout"
        except BaseException:
            self.close()  # an answer still under way would be taken for one of the next call
            raise
        return outcomes

    def close(self) -> None:
        """End all workers; a later `compare` starts new ones."""
        while self._workers:
            self._workers.pop().kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _grow(self, waiting: int, slow: bool) -> None:
        """Start workers as the open pairs deserve; all that are allowed once a pair was `slow`."""
        busy = sum(worker.task is not None for worker in self._workers)
        share = 1 if slow else PAIRS_PER_WORKER
        wanted = min(-(-(waiting + busy) // share), self._limit)
        while waiting and len(self._workers) < wanted:
            self._workers.append(_Worker(self._timeout_seconds, self._memory_mb))

    def _wait(self) -> list[tuple[int, str]]:
        """Wait for the next messages, deaths or deadlines; return what was decided."""
        decided: list[tuple[int, str]] = []
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

    def _hear(self, worker: _Worker) -> list[tuple[int, str]]:
        try:
            message = worker.receive()
        except EOFError:
            return self._drop(worker, "crash")
        if message is None:
            return []
        if not worker.ready:
            if message != "ready":
                raise RewardError(
                    f"a worker cannot load math-verify within {self._memory_mb} MiB ({message}); install it, "
                    "raise reward.memory_mb, or use the verifier exact"
                )
            worker.ready, self._failed_starts = True, 0
            return []
        task, worker.task = worker.task, None
        return [] if task is None else [(task, "equal" if message is True else "different")]

    def _drop(self, worker: _Worker, outcome: str) -> list[tuple[int, str]]:
        """Kill a worker that hangs or collect one that died. Raises `RewardError` if none ever starts."""
        self._workers.remove(worker)
        worker.kill()
        if worker.task is not None:
            return [(worker.task, outcome)]
        self._failed_starts += 1
        if self._failed_starts >= START_ATTEMPTS:
            raise RewardError(
                f"{START_ATTEMPTS} worker processes in a row died while starting (exit status "
                f"{worker.process.returncode}) with a memory limit of {self._memory_mb} MiB; "
                "raise reward.memory_mb, or use the verifier exact"
            )
        return []
