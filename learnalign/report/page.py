"""The report as one HTML page: no script, no request to anywhere, fit for paper, phones and dark screens.

This module gathers what the page says as plain text; `page.html.j2` lays it out, and escapes every value. The size of
the page is bounded whatever the size of the pool. This module writes no file.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from learnalign.config import to_toml
from learnalign.report.facts import STATES, Findings, Floats, ReportFacts, by_source, find, mean, story, warnings
from learnalign.report.gallery import length_figures, success_figures
from learnalign.report.prompts import left_out_prompts, selected_prompts, suspect_prompts
from learnalign.report.wording import (
    ABSENT,
    UNRECORDED,
    decimals,
    duration,
    number,
    plural,
    rate,
    share,
    shorten,
    visible,
)

MAX_SOURCES = 30
"""Sources that the page lists, the most frequent of the pool."""

STAGES = {
    "pool": "reading the pool",
    "warmup": "training the policy a little",
    "rollout": "sampling responses",
    "reward": "checking answers",
    "sketch": "gradients and their sketches",
    "score": "scoring",
    "select": "selecting",
    "report": "this report",
}
"""What a stage does, for readers who do not know its name."""

SECTIONS = {
    "findings": "Findings",
    "success": "Success and score",
    "length": "Length",
    "comparison": "Selection and pool",
    "sources": "Sources",
    "selected": "Selected prompts",
    "left-out": "Left out",
    "suspects": "Suspects",
    "time": "Time",
    "provenance": "Configuration",
}


def render(facts: ReportFacts) -> str:
    """The page as text, to be written as UTF-8. The same facts give the same bytes."""
    findings = find(facts)
    style = files("learnalign.report").joinpath("page.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("learnalign.report", ""),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2").render(
        title=visible(facts.title),
        style=Markup(style),
        navigation={k: v for k, v in SECTIONS.items() if k != "sources" or by_source(findings)},
        story=" ".join(story(findings)),
        warnings=warnings(findings),
        success=success_figures(findings),
        length=length_figures(findings),
        comparison=_comparison(findings),
        unrecorded=UNRECORDED,
        config=visible(to_toml(facts.config)),
        provenance=_provenance(facts),
        **_counts(findings),
        **_sources(findings),
        **selected_prompts(findings),
        **left_out_prompts(findings),
        **suspect_prompts(findings),
        **_times(findings),
    )


def _counts(findings: Findings) -> dict[str, Any]:
    """How many prompts there are, and how many are in each state, in the pool and among the selected."""
    selected = len(findings.facts.selected)
    tiles = {
        "Prompts in the pool": findings.rows,
        "Sampled": int(np.count_nonzero(findings.sampled)),
        "Learnable": findings.count("learnable"),
        "Asked for": findings.facts.config.select.n,
        "Selected": selected,
    }
    states = [
        {
            "name": state,
            "meaning": meaning,
            "prompts": f"{findings.count(state):,}",
            "share": share(findings.count(state), findings.rows),
            "selected": f"{findings.count(state, findings.picked):,}",
        }
        for state, meaning in STATES.items()
    ]
    return {
        "tiles": {name: f"{value:,}" for name, value in tiles.items()},
        "states": states,
        "all_states": (f"{findings.rows:,}", share(findings.rows, findings.rows), f"{selected:,}"),
    }


def _comparison(findings: Findings) -> list[tuple[str, list[str]]]:
    """Means over the pool, its learnable part and the selection, side by side."""
    groups = (findings.sampled, findings.learnable, findings.picked)
    lines: list[tuple[str, Floats, int | None]] = [
        ("Success rate p, mean", findings.success_rate, 3),
        ("Learnability p(1−p), mean", findings.learnability, 3),
        ("Alignment, mean", findings.alignment, None),
        ("Score, mean", findings.score, None),
        ("Gradient norm, mean", findings.gradient_norm, None),
        ("Response length in tokens, mean", findings.response_tokens, 1),
    ]
    sizes = [int(np.count_nonzero(group)) for group in groups]
    rows = [("Prompts", [f"{size:,}" for size in sizes])]
    for name, values, places in lines:
        means = [mean(values[group]) for group in groups]
        digits = decimals(means) if places is None else places
        rows.append((name, [number(m, digits) for m in means]))
    middle = findings.sampled & (np.abs(findings.success_rate - 0.5) <= 0.25)
    parts = [int(np.count_nonzero(middle & group)) for group in groups]
    cells = [share(part, size) for part, size in zip(parts, sizes, strict=True)]
    rows.insert(2, ("Success rate from 0.25 to 0.75", cells))
    return rows


def _sources(findings: Findings) -> dict[str, Any]:
    """Where the pool and the selection come from; none for a pool of one source."""
    sources, n = by_source(findings), len(findings.facts.selected)
    rows = []
    for name, pool, learnable, ours in sources[:MAX_SOURCES]:
        ratio = (ours / n) / (pool / findings.rows) if n else float("nan")
        cells = (f"{pool:,}", share(pool, findings.rows), f"{learnable:,}", f"{ours:,}", share(ours, n))
        told = f"{number(ratio, 2)} ×" if n else ABSENT
        rows.append({"name": shorten(name, 80), "cells": cells, "ratio": told, "often": ratio >= 2})
    more = len(sources) - MAX_SOURCES
    return {"sources": rows, "more_sources": plural(more, "smaller source") if more > 0 else ""}


def _times(findings: Findings) -> dict[str, Any]:
    facts, stages = findings.facts, findings.facts.recorded("stages")
    if not isinstance(stages, dict) or not stages:
        return {"times": [], "total_time": "", "speed": ""}
    times = {str(name): facts.measured("stages", name, "seconds") for name in stages}
    known = [seconds for seconds in times.values() if seconds is not None]
    return {
        "times": [_stage(facts, name, seconds, known) for name, seconds in times.items()],
        "total_time": duration(sum(known)) if known else UNRECORDED,
        "speed": _sampling_speed(findings),
    }


def _stage(facts: ReportFacts, name: str, seconds: float | None, known: list[float]) -> dict[str, Any]:
    """One stage's row: a bar, its time and share of the `known` times, its rows and their rate, its notes."""
    amount, notes = facts.measured("stages", name, "rows"), facts.recorded("stages", name, "notes")
    row: dict[str, Any] = {
        "name": name,
        "what": STAGES.get(name, ""),
        "notes": [visible(str(line)) for line in notes] if isinstance(notes, list) else [],
        "rows": f"{amount:,.0f}" if amount is not None else UNRECORDED,
    }
    if seconds is None:
        return {**row, "width": "", "time": UNRECORDED, "share": "", "rate": ""}
    width = 100.0 * seconds / max(known) if max(known) > 0 else 0.0
    speed = rate(amount, seconds) if amount is not None else ABSENT
    return {
        **row,
        "width": f"{width:.1f}",
        "time": duration(seconds),
        "share": share(seconds, sum(known)),
        "rate": speed,
    }


def _sampling_speed(findings: Findings) -> str:
    """Responses and tokens per second of the rollout stage, where its time is known."""
    seconds, responses = findings.facts.measured("stages", "rollout", "seconds"), int(findings.responses.sum())
    if not seconds or not responses:
        return ""
    told = np.isfinite(findings.response_tokens)
    tokens = float((findings.response_tokens * findings.responses)[told].sum())
    return (
        f"{plural(responses, 'response')} sampled: {rate(responses, seconds)} responses "
        f"and {rate(tokens, seconds)} tokens per second."
    )


def _provenance(facts: ReportFacts) -> list[tuple[str, str | None]]:
    """Versions, policy and pool as recorded; None for what is not."""

    def told(*keys: str) -> str | None:
        value = facts.recorded(*keys)
        if value is None or value == "":
            return None
        return visible(f"{value:,}" if isinstance(value, int) else str(value))

    versions = facts.recorded("versions")
    libraries = list(versions) if isinstance(versions, dict) else []
    lines = [("learnalign", told("learnalign"))]
    lines += [(str(name), told("versions", name)) for name in libraries]
    lines += [(f"policy: {k}", told("policy", k)) for k in ("name", "digest", "parameters", "device", "dtype")]
    lines += [(f"pool: {k}", told("pool", k)) for k in ("path", "sha256", "rows")]
    return lines
