"""What runs in a worker: it opens its work once, and answers unit after unit. It decides nothing."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import Any, NamedTuple

from learnalign.cluster.work import Later, Opened, Work


class Place(NamedTuple):
    """Where a worker is."""

    node: str
    """Ray's id of the node."""
    host: str


class Answer(NamedTuple):
    """What a worker returns for a unit."""

    result: Any
    seconds: float
    lines: list[str]
    """Said since the last answer."""


class Actor:
    """The class of the actors. Errors of work cross to the driver as they are."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._lines: list[str] = []
        self._opened: Opened

    def place(self) -> Place:
        """Where this actor has been started."""
        import ray

        return Place(ray.get_runtime_context().get_node_id(), socket.gethostname())

    def identity(self, work: Work) -> dict[str, str]:
        """See `Work.identity`."""
        return work.identity()

    def open(self, work: Work) -> tuple[str, dict[str, Any]]:
        """Get ready: `Opened.device` and `Opened.about`."""
        self._opened = self._stack.enter_context(work.open(self._lines.append))
        return self._opened.device, self._opened.about

    def compute(self, *payload: Any) -> Answer:
        """One unit."""
        started = time.perf_counter()
        result = self._opened(*payload)
        if isinstance(result, Later):
            result = result.wait()
        lines = self._lines[:]
        self._lines.clear()
        return Answer(result, time.perf_counter() - started, lines)

    def ask(self, name: str, *arguments: Any) -> Any:
        """A method of `Opened`."""
        return getattr(self._opened, name)(*arguments)

    def close(self) -> None:
        """Free what the work holds, such as processes of its own."""
        self._stack.close()
