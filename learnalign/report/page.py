"""The report as one HTML page: no script, no request to anywhere, fit for paper, phones and dark screens.

Every text that comes from the pool, the model or the file system is escaped where it enters the page, and the
size of the page is bounded whatever the size of the pool. This module writes no file.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files

import numpy as np

from learnalign.config import to_toml
from learnalign.report.facts import (
    STATES,
    Findings,
    Floats,
    ReportFacts,
    by_source,
    find,
    mean,
    story,
    warnings,
)
from learnalign.report.gallery import length_pair, success_pair
from learnalign.report.markup import quiet, row, section, table
from learnalign.report.prompts import left_out_prompts, selected_prompts
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


def render(facts: ReportFacts) -> str:
    """The page as text, to be written as UTF-8. The same facts give the same bytes."""
    found = find(facts)
    style = files("learnalign.report").joinpath("page.css").read_text(encoding="utf-8")
    title = escape(visible(facts.title))
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title} · learnalign</title>",
        f"<style>\n{style}</style></head><body><main>",
        f"<header><p>learnalign report</p><h1>{title}</h1>{_navigation(found)}</header>",
        _asked_and_found(found),
        success_pair(found),
        length_pair(found),
        _comparison(found),
        _sources(found),
        selected_prompts(found),
        left_out_prompts(found),
        _times(found),
        _provenance(facts),
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _navigation(found: Findings) -> str:
    links = {
        "findings": "Findings",
        "success": "Success and score",
        "length": "Length",
        "comparison": "Selection and pool",
        "sources": "Sources",
        "selected": "Selected prompts",
        "left-out": "Left out",
        "time": "Time",
        "provenance": "Configuration",
    }
    if not by_source(found):
        del links["sources"]
    return "<nav>" + "".join(f'<a href="#{anchor}">{text}</a>' for anchor, text in links.items()) + "</nav>"


def _asked_and_found(found: Findings) -> str:
    asked, n = found.facts.config.select.n, len(found.facts.selected)
    tiles = {
        "Prompts in the pool": found.rows,
        "Sampled": int(np.count_nonzero(found.sampled)),
        "Learnable": found.count("learnable"),
        "Asked for": asked,
        "Selected": n,
    }
    grid = "".join(f"<div><dt>{name}</dt><dd>{value:,}</dd></div>" for name, value in tiles.items())
    notes = "".join(f'<p class="note">{escape(line)}</p>' for line in warnings(found))
    lead = f'<p class="lead">{escape(" ".join(story(found)))}</p>{notes}<dl class="tiles">{grid}</dl>'
    return section("findings", "What was asked and what was found", lead + _states(found))


def _states(found: Findings) -> str:
    """How many prompts are in each state, in the pool and among the selected."""
    rows = []
    for state, meaning in STATES.items():
        n, ours = found.count(state), found.count(state, found.picked)
        rows.append(
            f'<tr><th scope="row" data-meaning="{escape(meaning)}">{state}</th>'
            f'<td class="n">{n:,}</td><td class="n">{share(n, found.rows)}</td><td class="n">{ours:,}</td>'
            f'<td class="quiet meaning">{escape(meaning)}</td></tr>'
        )
    foot = (
        f'<tr><th scope="row">all</th><td class="n">{found.rows:,}</td>'
        f'<td class="n">{share(found.rows, found.rows)}</td>'
        f'<td class="n">{len(found.facts.selected):,}</td><td class="meaning"></td></tr>'
    )
    head = ("State", ">Prompts", ">Share", ">Selected", '<span class="meaning">Meaning</span>')
    return table(head, rows, foot=foot)


def _comparison(found: Findings) -> str:
    """Means over the pool, its learnable part and the selection, side by side."""
    groups = (found.sampled, found.learnable, found.picked)
    lines: list[tuple[str, Floats, int | None]] = [
        ("Success rate p, mean", found.success_rate, 3),
        ("Learnability p(1&minus;p), mean", found.learnability, 3),
        ("Alignment, mean", found.alignment, None),
        ("Score, mean", found.score, None),
        ("Gradient norm, mean", found.gradient_norm, None),
        ("Response length in tokens, mean", found.response_tokens, 1),
    ]
    sizes = [int(np.count_nonzero(group)) for group in groups]
    rows = [row("Prompts", *(f"{size:,}" for size in sizes))]
    for name, values, places in lines:
        means = [mean(values[group]) for group in groups]
        digits = decimals(means) if places is None else places
        rows.append(row(name, *(number(m, digits) for m in means)))
    middle = found.sampled & (np.abs(found.success_rate - 0.5) <= 0.25)
    parts = [int(np.count_nonzero(middle & group)) for group in groups]
    cells = [share(part, size) for part, size in zip(parts, sizes, strict=True)]
    rows.insert(2, row("Success rate from 0.25 to 0.75", *cells))
    remark = "A mean is over the prompts that have the value: without a gradient, no alignment and no norm."
    body = table(("", ">Sampled pool", ">Learnable", ">Selected"), rows) + quiet(remark)
    return section("comparison", "The selection beside the pool", body)


def _sources(found: Findings) -> str:
    """Where the pool and the selection come from; empty for a pool of one source."""
    sources, n = by_source(found), len(found.facts.selected)
    if not sources:
        return ""
    rows = []
    for name, pool, learnable, ours in sources[:MAX_SOURCES]:
        ratio = (ours / n) / (pool / found.rows) if n else float("nan")
        told = f"{number(ratio, 2)} &times;" if n else ABSENT
        marked = f'<span class="up">{told}</span>' if ratio >= 2 else told
        shares = (share(pool, found.rows), share(ours, n))
        rows.append(
            row(
                escape(shorten(name, 80)),
                f"{pool:,}",
                shares[0],
                f"{learnable:,}",
                f"{ours:,}",
                shares[1],
                marked,
            )
        )
    more = len(sources) - MAX_SOURCES
    rest = quiet(f"{plural(more, 'smaller source')} not shown.") if more > 0 else ""
    head = ("Source", ">In the pool", ">Share", ">Learnable", ">Selected", ">Share", ">Selected / pool")
    return section("sources", "Sources", table(head, rows) + rest)


def _times(found: Findings) -> str:
    facts, stages = found.facts, found.facts.recorded("stages")
    if not isinstance(stages, dict) or not stages:
        return section("time", "Where the time went", f"<p>{UNRECORDED.capitalize()}.</p>")
    times = {str(name): facts.measured("stages", name, "seconds") for name in stages}
    known = [seconds for seconds in times.values() if seconds is not None]
    rows = [_stage(facts, name, seconds, known) for name, seconds in times.items()]
    head = ("Stage", "", ">Time", ">Share", ">Rows", ">Rows per second")
    total = duration(sum(known)) if known else UNRECORDED
    foot = f'<tr><th scope="row">all</th><td></td><td class="n">{total}</td>{"<td></td>" * 3}</tr>'
    body = table(head, rows, foot=foot) + _sampling_speed(found)
    return section("time", "Where the time went", body)


def _stage(facts: ReportFacts, name: str, seconds: float | None, known: list[float]) -> str:
    """One stage's row: a bar, its time and share of the `known` times, its rows and their rate, its notes."""
    amount, notes = facts.measured("stages", name, "rows"), facts.recorded("stages", name, "notes")
    lines = notes if isinstance(notes, list) else []
    remarks = "".join(f'<div class="quiet">{escape(visible(str(line)))}</div>' for line in lines)
    what = f' <span class="quiet">{STAGES[name]}</span>' if name in STAGES else ""
    done = f"{amount:,.0f}" if amount is not None else UNRECORDED
    cells = f'<th scope="row">{escape(name)}{what}{remarks}</th>'
    if seconds is None:
        time = f'<td></td><td class="n">{UNRECORDED}</td><td></td>'
        return f'<tr>{cells}{time}<td class="n">{done}</td><td></td></tr>'
    width = 100.0 * seconds / max(known) if max(known) > 0 else 0.0
    speed = rate(amount, seconds) if amount is not None else ABSENT
    return (
        f'<tr>{cells}<td class="bar"><span style="width:{width:.1f}%"></span></td>'
        f'<td class="n">{duration(seconds)}</td><td class="n">{share(seconds, sum(known))}</td>'
        f'<td class="n">{done}</td><td class="n">{speed}</td></tr>'
    )


def _sampling_speed(found: Findings) -> str:
    """Responses and tokens per second of the rollout stage, where its time is known."""
    seconds, responses = found.facts.measured("stages", "rollout", "seconds"), int(found.responses.sum())
    if not seconds or not responses:
        return ""
    told = np.isfinite(found.response_tokens)
    tokens = float((found.response_tokens * found.responses)[told].sum())
    return quiet(
        f"{plural(responses, 'response')} sampled: {rate(responses, seconds)} responses "
        f"and {rate(tokens, seconds)} tokens per second."
    )


def _provenance(facts: ReportFacts) -> str:
    """Versions, policy and pool as recorded, and the configuration with every default."""

    def told(*keys: str) -> str:
        value = facts.recorded(*keys)
        if value is None or value == "":
            return f'<span class="quiet">{UNRECORDED}</span>'
        return escape(visible(f"{value:,}" if isinstance(value, int) else str(value)))

    versions = facts.recorded("versions")
    libraries = list(versions) if isinstance(versions, dict) else []
    lines = [("learnalign", told("learnalign"))]
    lines += [(escape(str(name)), told("versions", name)) for name in libraries]
    lines += [(f"policy: {k}", told("policy", k)) for k in ("name", "digest", "parameters", "device", "dtype")]
    lines += [(f"pool: {k}", told("pool", k)) for k in ("path", "sha256", "rows")]
    rows = [f'<tr><th scope="row">{name}</th><td class="reason">{value}</td></tr>' for name, value in lines]
    config = escape(visible(to_toml(facts.config)))
    body = (
        f"<details><summary>Versions, policy and pool</summary>{table(('', ''), rows)}</details>"
        f"<details><summary>Configuration (config.toml)</summary><pre>{config}</pre></details>"
    )
    return section("provenance", "Configuration and versions", body)
