"""Units to a crew, results back in the order of the units, whoever died meanwhile.

At most `WINDOW` units a worker are on their way between being cut and being used, so that memory does not grow with the
number of units. A unit whose worker died goes to another one; one that takes worker after worker with it is named.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from learnalign.cluster.crew import Crew, Lost
from learnalign.cluster.work import Unit
from learnalign.errors import EngineError

WINDOW = 4
AGAIN = 3
"""How often a unit is given out again after its worker died over it."""
NAMED = 3
"""Prompts of a unit in a message."""


class RayWorkers:
    """See `Workers`, over a crew."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew

    def map(self, units: Iterable[Unit], *, ordered: bool = True) -> Iterator[tuple[Unit, Any]]:
        """See `Workers.map`."""
        return ordered_map(self.crew, units, ordered=ordered)

    def ask(self, name: str, *arguments: Any) -> Any:
        """See `Workers.ask`."""
        return self.crew.ask(name, *arguments)

    def facts(self) -> dict[str, Any]:
        """See `Workers.facts`."""
        return {"cluster": self.crew.facts()}

    def notes(self) -> list[str]:
        """See `Workers.notes`."""
        found = self.crew.facts()
        restarted = found["restarted"]
        text = f"{_plural(found['workers'], 'worker')} on {_plural(len(found['nodes']), 'node')}"
        if restarted:
            text += f", {len(restarted)} restarted (the last on {restarted[-1]})"
        mixed = f"; of several kinds ({', '.join(found['devices'])}), whose last bits may differ"
        return [text + f", idle {found['idle_share']:.0%} of their time" + (mixed if len(found["devices"]) > 1 else "")]


def ordered_map(crew: Crew, units: Iterable[Unit], *, ordered: bool = True) -> Iterator[tuple[Unit, Any]]:
    """Every unit with its result. See `Workers.map`."""
    source = enumerate(units)
    away: dict[int, Unit] = {}  # taken from the source and not handed back yet
    results: dict[int, Any] = {}
    waiting: list[int] = []  # a heap: the units of the dead, the earliest first
    deaths: Counter[int] = Counter()
    head, more = 0, True
    while more or away:
        while crew.free():
            if not waiting and more and len(away) < WINDOW * len(crew.ready):
                number, unit = next(source, (-1, None))
                if unit is None:
                    more = False
                else:
                    away[number] = unit
                    waiting.append(number)
            member = crew.free()  # asked again: taking from the source may have taken its time
            if not waiting or member is None:
                break
            number = heapq.heappop(waiting)
            crew.give(member, number, away[number])
        if not more and not away:
            return
        for event in crew.wait():
            if isinstance(event, Lost):
                _count_death(event, deaths, away)
                for number in event.numbers:
                    heapq.heappush(waiting, number)
            elif ordered:
                results[event.number] = event.result
            else:
                yield away.pop(event.number), event.result
        while head in results:
            yield away.pop(head), results.pop(head)
            head += 1


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _count_death(lost: Lost, deaths: Counter[int], away: dict[int, Unit]) -> None:
    """Suspect the unit that was being computed. Raises `EngineError` for one that no worker survives."""
    if not lost.numbers:
        return
    suspect = lost.numbers[0]
    deaths[suspect] += 1
    if deaths[suspect] > AGAIN:
        ids = away[suspect].prompt_ids
        some = ", ".join(map(repr, ids[:NAMED])) + (f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else "")
        raise EngineError(
            f"{deaths[suspect]} workers died over the same prompts ({some}), the last on node {lost.host} "
            f"({lost.reason}): leave them out of the pool, or give workers more memory"
        )
