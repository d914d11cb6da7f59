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


def success_figures(found: Findings) -> list[Figure]:
    """How often the prompts are solved, and how the score depends on it."""
    return [_success_rates(found), _score(found)]


def length_figures(found: Findings) -> list[Figure]:
    """What the length of responses does to gradient norms and to scores."""
    norm = _length(
        found,
        "norm",
        found.gradient_norm,
        "Each response is averaged over its tokens, so long responses tend to have small gradients. "
        "The score uses directions only: norms do not enter it.",
    )
    score = _length(
        found,
        "score",
        found.score,
        "A correlation far from 0 means that the score favors long, or short, responses.",
    )
    return [norm, score]


def _success_rates(found: Findings) -> Figure:
    g, rates = found.facts.config.rollout.responses, found.success_rate
    if not found.sampled.any():
        return Figure("Success rates", None, "no prompt was sampled")
    few = success_steps(rates[found.sampled], g) <= 10
    numbers = "Over each bar: all its prompts, and in orange the selected ones. " if few else ""
    fewest = int(found.responses[found.sampled].min())
    noise = f"A rate near one half, measured by {fewest} responses, is uncertain by about ±{0.5 / fewest**0.5:.2f} "
    caption = f"{numbers}{noise}(one standard error)."
    return Figure("Success rates", Markup(success_histogram(rates, found.picked, g)), caption)


def _score(found: Findings) -> Figure:
    g, rates = found.facts.config.rollout.responses, found.success_rate
    drawn = found.learnable & found.sampled & np.isfinite(found.score)
    if not drawn.any():
        return Figure("Score against success rate", None, "no prompt is learnable")
    caption = (
        "Score = p(1−p) × alignment. The curve takes the best alignment in the pool, so that "
        "nothing lies above it; a prompt below the curve agrees less with the pool's mean gradient. "
    )
    if (drawn & found.picked).any():
        caption += "Dashed: the lowest score selected. "
    if success_steps(rates[drawn], g) == g:
        caption += "Points are spread sideways around their rate. "
    others = int(np.count_nonzero(found.sampled & ~drawn))
    if others:
        caption += f"Not drawn: {plural(others, 'prompt')} without a gradient, with score 0. "
    svg = Markup(score_cloud(rates, found.score, found.picked, drawn, g))
    return Figure("Score against success rate", svg, caption + _thinned(found, drawn))


def _length(found: Findings, name: str, values: Floats, remark: str) -> Figure:
    """A cloud over the learnable prompts; the rank correlation is over all of them, drawn or not."""
    what = {"norm": "gradient norm", "score": "score"}[name]
    heading, tokens = f"Response length and {what}", found.response_tokens
    drawn = found.learnable & np.isfinite(tokens) & np.isfinite(values)
    if not drawn.any():
        return Figure(heading, None, "no learnable prompt has both values")
    rho, n = spearman(tokens[drawn], values[drawn])
    lead = f"Spearman correlation {number(rho, 2)}" if np.isfinite(rho) else "No rank correlation"
    caption = f"over {plural(n, 'learnable prompt')}. {remark} {_thinned(found, drawn)}"
    svg = Markup(length_cloud(f"length-{name}", tokens, values, found.picked, drawn, what))
    return Figure(heading, svg, caption, lead)


def _thinned(found: Findings, drawn: Mask) -> str:
    """The sentence of a caption that says how many points of a cloud are left out; empty where none is."""
    shown = thin(drawn, found.picked)
    if np.array_equal(shown, drawn):
        return ""
    told = []
    for name, side in (("selected", found.picked), ("other", ~found.picked)):
        part, whole = int(np.count_nonzero(shown & side)), int(np.count_nonzero(drawn & side))
        told.append(f"all {whole:,} {name}" if part == whole else f"{part:,} of the {whole:,} {name}")
    return f"Drawn: {' and '.join(told)} prompts, chosen at random."
