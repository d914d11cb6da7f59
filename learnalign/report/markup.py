"""The few pieces of HTML that the sections of the page share. They escape nothing: their callers do."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[str], kind: str = "", foot: str = "") -> str:
    """A table that scrolls sideways where it is too wide; a head that starts with `>` is right-aligned."""
    cells = "".join(f'<th class="n">{h[1:]}</th>' if h.startswith(">") else f"<th>{h}</th>" for h in head)
    tail = f"<tfoot>{foot}</tfoot>" if foot else ""
    body = "\n".join(rows)
    attribute = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll"><table{attribute}><thead><tr>{cells}</tr></thead>'
        f"<tbody>\n{body}\n</tbody>{tail}</table></div>"
    )


def row(name: str, *cells: str) -> str:
    """A row with a heading and right-aligned cells, all of them HTML already."""
    right = "".join(f'<td class="n">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{name}</th>{right}</tr>'


def section(anchor: str, heading: str, body: str) -> str:
    """A card with a heading that the navigation can point at."""
    return f'<section id="{anchor}"><h2>{heading}</h2>{body}</section>'


def quiet(text: str) -> str:
    """A remark in small gray letters."""
    return f'<p class="quiet">{text}</p>'
