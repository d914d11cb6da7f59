"""The page's lists of prompts: the selected ones, and those that were skipped or excluded.

The lists and the texts in them are cut at fixed lengths, so that a page stays small; each cut says where the
rest is.
"""

from __future__ import annotations

from html import escape

import numpy as np

from learnalign.report.facts import Findings, why
from learnalign.report.markup import quiet, section, table
from learnalign.report.wording import UNRECORDED, decimals, number, shorten, visible

MAX_SELECTED = 500
"""Selected prompts that the page lists; `selection.jsonl` holds all."""
MAX_LEFT_OUT = 200
"""Skipped and set-aside prompts that the page lists; `scores.parquet` holds all."""
MAX_TEXT = 2000
"""Characters of one problem on the page."""
TEASER = 150
"""Characters of a problem that are seen before it is opened."""


def selected_prompts(found: Findings) -> str:
    """The selection in order of rank, with what each pick was chosen for."""
    facts, order = found.facts, found.facts.selected
    if not len(order):
        return section("selected", "Selected prompts", "<p>Nothing was selected.</p>")
    digits, fine = decimals(found.score[order]), decimals(found.alignment[order])
    rows = []
    for rank, i in enumerate(order[:MAX_SELECTED], start=1):
        state = str(found.state[i])
        tag = f'<span class="tag">{escape(state)}</span>' if state != "learnable" else ""
        rows.append(
            f'<tr><td class="n rank">{rank}</td>'
            f'<td class="id">{_line(facts.text("prompt_id", i), 80)}</td>'
            f'<td class="n" data-label="score">{number(found.score[i], digits)}</td>'
            f'<td class="n" data-label="p">{number(found.success_rate[i], 3)}</td>'
            f'<td class="n" data-label="alignment">{number(found.alignment[i], fine)}</td>'
            f'<td class="n" data-label="tokens">{number(found.response_tokens[i], 0)}</td>'
            f'<td class="problem" dir="auto">{tag}{_problem(facts.text("problem", i))}</td></tr>'
        )
    some = f"The first {MAX_SELECTED:,} of {len(order):,}" if len(order) > MAX_SELECTED else "All of them"
    where = f"{some}, in order of rank. The file to train on is <code>selection.jsonl</code> beside this page."
    head = (">Rank", "Id", ">Score", ">p", ">Alignment", ">Tokens", "Problem")
    body = f"<p>{escape(why(found))}</p>{quiet(where)}{table(head, rows, kind='picks')}"
    return section("selected", "Selected prompts", body)


def left_out_prompts(found: Findings) -> str:
    """The prompts that could not be sampled or scored, with the reason of each."""
    facts, heading = found.facts, "Skipped and excluded"
    which = np.flatnonzero((found.state == "skipped") | (found.state == "excluded"))
    if not len(which):
        return section("left-out", heading, "<p>None: every prompt of the pool was sampled and scored.</p>")
    rows = [
        f'<tr><td class="id">{_line(facts.text("prompt_id", i), 80)}</td>'
        f'<td class="state">{escape(str(found.state[i]))}</td>'
        f'<td class="reason">{_line(facts.text("reason", i), 300) or UNRECORDED}</td>'
        f'<td class="problem" dir="auto">{_line(facts.text("problem", i), 80)}</td></tr>'
        for i in which[:MAX_LEFT_OUT]
    ]
    told = f"{found.count('skipped'):,} skipped, {found.count('excluded'):,} excluded."
    if len(which) > MAX_LEFT_OUT:
        told += f" The first {MAX_LEFT_OUT:,} are listed; <code>scores.parquet</code> beside this page has all."
    return section("left-out", heading, f"<p>{told}</p>{table(('Id', 'State', 'Reason', 'Problem'), rows)}")


def _line(text: str, width: int) -> str:
    return escape(shorten(text, width))


def _problem(text: str) -> str:
    """A problem as HTML: one short line as it is; else its beginning, which opens to show the rest."""
    if len(text) <= TEASER and "\n" not in text.strip():
        return escape(visible(text.strip()))
    full = escape(visible(text[:MAX_TEXT]))
    if len(text) > MAX_TEXT:
        full += f"…\n[{len(text):,} characters in all]"
    return f"<details><summary>{_line(text, TEASER)}</summary><pre>{full}</pre></details>"
