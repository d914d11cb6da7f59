"""This process as the only worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from learnalign.cluster.work import Later, Opened, Unit


class LocalWorkers:
    """See `Workers`. One unit after the other, so that order costs nothing.

    A result that is to come later is waited for when the next unit has been begun: a device then goes on working while
    the result is used.
    """

    def __init__(self, opened: Opened) -> None:
        self.opened = opened

    def map(self, units: Iterable[Unit], *, ordered: bool = True) -> Iterator[tuple[Unit, Any]]:
        """See `Workers.map`."""
        source, behind = iter(units), list[tuple[Unit, Later]]()
        while True:
            try:
                unit = next(source, None)
                result = None if unit is None else self.opened(*unit.payload)
            except BaseException:  # it comes after the unit that had been begun before, and not instead of it
                yield from _waited(behind)
                raise
            yield from _waited(behind)
            if unit is None:
                return
            if isinstance(result, Later):
                behind = [(unit, result)]
            else:
                behind = []
                yield unit, result

    def ask(self, name: str, *arguments: Any) -> Any:
        """See `Workers.ask`."""
        return getattr(self.opened, name)(*arguments)

    def facts(self) -> dict[str, Any]:
        """Nothing: the manifest names this process's devices elsewhere."""
        return {}

    def notes(self) -> list[str]:
        """Nothing."""
        return []


def _waited(behind: list[tuple[Unit, Later]]) -> Iterator[tuple[Unit, Any]]:
    for unit, result in behind:
        yield unit, result.wait()
