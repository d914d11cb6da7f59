"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere, silence on request.

Everything goes to standard error, so that standard output holds results only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f} {task.fields['unit']}/s" if task.speed else "", style="dim")


class Progress:
    """Shows how far a stage is. quiet: say nothing at all."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.tick: Callable[[], None] = lambda: None
        """Called at every advance of a bar; the pipeline keeps the time spent with it."""

    def say(self, line: str) -> None:
        """One line for the person who watches."""
        self.console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def track(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
        """A bar for `total` units of which `done` were there before; yields the function that advances it."""
        bar = RichProgress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        with bar:
            task = bar.add_task(label, total=total, completed=done, unit=unit)

            def advance(count: int) -> None:
                bar.advance(task, count)
                self.tick()

            yield advance
