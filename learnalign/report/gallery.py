"""The page's figures in pairs, each with a heading and a caption that says what is drawn and what is not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from learnalign.report.facts import Findings, Floats, spearman
from learnalign.report.figures import (
    Mask,
    length_cloud,
    score_cloud,
    success_histogram,
    success_steps,
    thin,
)
from learnalign.report.wording import number, plural


class Figure(NamedTuple):
    """A figure and what is said of it; without a drawing the caption says why there is none."""

    heading: str
    svg: Markup | None
    caption: str
    lead: str = ""
    """Of the caption: what stands first, in bold."""


def success_figures(findings: Findings) -> list[Figure]:
    """How often the prompts are solved, and how the score depends on it."""
    return [_success_rates(findings), _score(findings)]


def length_figures(findings: Findings) -> list[Figure]:
    """What the length of responses does to gradient norms and to scores."""
    norm = _length(
        findings,
        "norm",
        findings.gradient_norm,
        "Each response is averaged over its tokens, so long responses tend to have small gradients. "
        "The score uses directions only: norms do not enter it.",
    )
    score = _length(
        findings,
        "score",
        findings.score,
        "A correlation far from 0 means that the score favors long, or short, responses.",
    )
    return [norm, score]


def _success_rates(findings: Findings) -> Figure:
    g, rates = findings.facts.config.rollout.responses, findings.success_rate
    if not findings.sampled.any():
        return Figure("Success rates", None, "no prompt was sampled")
    few = success_steps(rates[findings.sampled], g) <= 10
    numbers = "Over each bar: all its prompts, and in orange the selected ones. " if few else ""
    fewest = int(findings.responses[findings.sampled].min())
    noise = f"A rate near one half, measured by {fewest} responses, is uncertain by about ±{0.5 / fewest**0.5:.2f} "
    caption = f"{numbers}{noise}(one standard error)."
    return Figure("Success rates", Markup(success_histogram(rates, findings.picked, g)), caption)


def _score(findings: Findings) -> Figure:
    g, rates = findings.facts.config.rollout.responses, findings.success_rate
    drawn = findings.learnable & findings.sampled & np.isfinite(findings.score)
    if not drawn.any():
        return Figure("Score against success rate", None, "no prompt is learnable")
    caption = (
        "Score = p(1−p) × alignment. The curve takes the best alignment in the pool, so that "
        "nothing lies above it; a prompt below the curve agrees less with the pool's mean gradient. "
    )
    if (drawn & findings.picked).any():
        caption += "Dashed: the lowest score selected. "
    if success_steps(rates[drawn], g) == g:
        caption += "Points are spread sideways around their rate. "
    others = int(np.count_nonzero(findings.sampled & ~drawn))
    if others:
        caption += f"Not drawn: {plural(others, 'prompt')} without a gradient, with score 0. "
    svg = Markup(score_cloud(rates, findings.score, findings.picked, drawn, g))
    return Figure("Score against success rate", svg, caption + _thinned(findings, drawn))


def _length(findings: Findings, name: str, values: Floats, remark: str) -> Figure:
    """A cloud over the learnable prompts; the rank correlation is over all of them, drawn or not."""
    what = {"norm": "gradient norm", "score": "score"}[name]
    heading, tokens = f"Response length and {what}", findings.response_tokens
    drawn = findings.learnable & np.isfinite(tokens) & np.isfinite(values)
    if not drawn.any():
        return Figure(heading, None, "no learnable prompt has both values")
    rho, n = spearman(tokens[drawn], values[drawn])
    lead = f"Spearman correlation {number(rho, 2)}" if np.isfinite(rho) else "No rank correlation"
    caption = f"over {plural(n, 'learnable prompt')}. {remark} {_thinned(findings, drawn)}"
    svg = Markup(length_cloud(f"length-{name}", tokens, values, findings.picked, drawn, what))
    return Figure(heading, svg, caption, lead)


def _thinned(findings: Findings, drawn: Mask) -> str:
    """The sentence of a caption that says how many points of a cloud are left out; empty where none is."""
    shown = thin(drawn, findings.picked)
    if np.array_equal(shown, drawn):
        return ""
    told = []
    for name, side in (("selected", findings.picked), ("other", ~findings.picked)):
        part, whole = int(np.count_nonzero(shown & side)), int(np.count_nonzero(drawn & side))
        told.append(f"all {whole:,} {name}" if part == whole else f"{part:,} of the {whole:,} {name}")
    return f"Drawn: {' and '.join(told)} prompts, chosen at random."
