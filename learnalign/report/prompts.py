"""The page's lists of prompts: the selected ones, those that were skipped or excluded, and the suspects.

The lists and the texts in them are cut at fixed lengths, so that a page stays small; each cut says where the
rest is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from learnalign.report.facts import Findings, why
from learnalign.report.wording import UNRECORDED, decimals, number, shorten, visible

MAX_SELECTED = 500
"""Selected prompts that the page lists; `selection.jsonl` holds all."""
MAX_LEFT_OUT = 200
"""Skipped and excluded prompts that the page lists; `scores.parquet` holds all."""
MAX_TEXT = 2000
"""Characters of one problem on the page."""
MAX_SUSPECTS = 200
"""Suspects that the page lists; `learnalign suspects` lists all."""
TEASER = 150
"""Characters of a problem that are seen before it is opened."""


def selected_prompts(findings: Findings) -> dict[str, Any]:
    """The selection in order of rank, with what each pick was chosen for."""
    facts, order = findings.facts, findings.facts.selected
    digits, fine = decimals(findings.score[order]), decimals(findings.alignment[order])
    rows = [
        {
            "rank": rank,
            "prompt_id": shorten(facts.text("prompt_id", i), 80),
            "score": number(findings.score[i], digits),
            "success_rate": number(findings.success_rate[i], 3),
            "alignment": number(findings.alignment[i], fine),
            "tokens": number(findings.response_tokens[i], 0),
            "tag": "" if findings.state[i] == "learnable" else str(findings.state[i]),
            "problem": _problem(facts.text("problem", i)),
        }
        for rank, i in enumerate(order[:MAX_SELECTED], start=1)
    ]
    some = f"The first {MAX_SELECTED:,} of {len(order):,}" if len(order) > MAX_SELECTED else "All of them"
    return {"selected": rows, "why": why(findings) if len(order) else "", "which_selected": some}


def left_out_prompts(findings: Findings) -> dict[str, Any]:
    """The prompts that could not be sampled or scored, with the reason of each."""
    facts = findings.facts
    which = np.flatnonzero((findings.state == "skipped") | (findings.state == "excluded"))
    rows = [
        {
            "prompt_id": shorten(facts.text("prompt_id", i), 80),
            "state": str(findings.state[i]),
            "reason": shorten(facts.text("reason", i), 300) or UNRECORDED,
            "problem": shorten(facts.text("problem", i), 80),
        }
        for i in which[:MAX_LEFT_OUT]
    ]
    return {
        "left_out": rows,
        "which_left_out": f"{findings.count('skipped'):,} skipped, {findings.count('excluded'):,} excluded.",
        "left_out_cut": f"{MAX_LEFT_OUT:,}" if len(which) > MAX_LEFT_OUT else "",
    }


def suspect_prompts(findings: Findings) -> dict[str, Any]:
    """The prompts whose reference answer is probably wrong, the selected ones first, with the evidence."""
    facts = findings.facts
    place = {prompt_id: k for k, prompt_id in enumerate(facts.scores.column("prompt_id").to_pylist())}
    order = sorted(facts.suspects, key=lambda one: not findings.picked[place[one.prompt_id]])
    rows = [
        {
            "prompt_id": shorten(one.prompt_id, 80),
            "tag": "selected" if findings.picked[place[one.prompt_id]] else "",
            "signal": one.signal,
            "evidence": shorten(one.evidence, 300),
            "problem": shorten(facts.text("problem", place[one.prompt_id]), 80),
        }
        for one in order[:MAX_SUSPECTS]
    ]
    return {
        "suspects": rows,
        "suspects_cut": f"{MAX_SUSPECTS:,} of {len(order):,}" if len(order) > MAX_SUSPECTS else "",
    }


def _problem(text: str) -> dict[str, str]:
    """A problem: one short line as it is; else its beginning, which opens to show the rest."""
    if len(text) <= TEASER and "\n" not in text.strip():
        return {"teaser": visible(text.strip()), "rest": ""}
    full = visible(text[:MAX_TEXT])
    if len(text) > MAX_TEXT:
        full += f"…\n[{len(text):,} characters in all]"
    return {"teaser": shorten(text, TEASER), "rest": full}
