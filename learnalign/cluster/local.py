"""This process as the only worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from learnalign.cluster.work import Opened, Unit


class LocalWorkers:
    """See `Workers`. One unit after the other, so that order costs nothing."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened

    def map(self, units: Iterable[Unit], *, ordered: bool = True) -> Iterator[tuple[Unit, Any]]:
        """See `Workers.map`."""
        for unit in units:
            yield unit, self.opened(*unit.payload)

    def ask(self, name: str, *arguments: Any) -> Any:
        """See `Workers.ask`."""
        return getattr(self.opened, name)(*arguments)

    def facts(self) -> dict[str, Any]:
        """Nothing: the manifest names this process's devices elsewhere."""
        return {}

    def notes(self) -> list[str]:
        """Nothing."""
        return []
