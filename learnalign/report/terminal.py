"""The short table that ends a run in the terminal: what was asked and found, and the first of the selection.

Texts of the pool are shown as they are: no markup and no control character in them takes effect. This module
prints nothing itself, and loads rich only when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from learnalign.report.facts import STATES, Findings, ReportFacts, find, story, warnings, why
from learnalign.report.wording import decimals, number, share, shorten

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

FIRST = 10
"""Selected prompts that are shown."""
WIDTH = 100
"""Characters of a problem; rich cuts further where the terminal is narrower."""


def summary(facts: ReportFacts) -> RenderableType:
    """What rich prints at the end of a run: the story, the states, the reasons, the first picks, warnings."""
    from rich.console import Group
    from rich.text import Text

    findings = find(facts)
    parts: list[RenderableType] = [Text(" ".join(story(findings))), Text(), _states(findings)]
    if len(facts.selected):
        parts += [Text(), Text(why(findings)), Text(), _first(findings)]
        if len(facts.selected) > FIRST:
            parts.append(Text(f"… and {len(facts.selected) - FIRST:,} more.", style="dim"))
    parts += [Text(f"Note: {line}", style="yellow") for line in warnings(findings)]
    return Group(*parts)


def _states(findings: Findings) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("state", "prompts", "share", "selected"):
        table.add_column(name, justify="left" if name == "state" else "right")
    for state in STATES:
        n = findings.count(state)
        if n:
            table.add_row(state, f"{n:,}", share(n, findings.rows), f"{findings.count(state, findings.picked):,}")
    return table


def _first(findings: Findings) -> Table:
    """The first picks, one line each."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    order = findings.facts.selected[:FIRST]
    digits, fine = decimals(findings.score[order]), decimals(findings.alignment[order])
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=True)
    for name in ("rank", "score", "p", "alignment"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("problem", no_wrap=True, overflow="ellipsis", ratio=1)
    for rank, i in enumerate(order, start=1):
        table.add_row(
            str(rank),
            number(findings.score[i], digits),
            number(findings.success_rate[i], 3),
            number(findings.alignment[i], fine),
            Text(shorten(findings.facts.text("problem", i), WIDTH)),
        )
    return table
