"""The page's figures in pairs, each with a heading and a caption that says what is drawn and what is not."""

from __future__ import annotations

import numpy as np

from learnalign.report.facts import Findings, Floats, spearman
from learnalign.report.figures import (
    Mask,
    length_cloud,
    score_cloud,
    success_histogram,
    success_steps,
    thin,
)
from learnalign.report.markup import quiet
from learnalign.report.wording import number, plural


def success_pair(found: Findings) -> str:
    """How often the prompts are solved, and how the score depends on it."""
    return f'<div class="pair" id="success">{_success_rates(found)}{_score(found)}</div>'


def length_pair(found: Findings) -> str:
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
    return f'<div class="pair" id="length">{norm}{score}</div>'


def _figure(heading: str, svg: str, caption: str) -> str:
    return f"<section><h2>{heading}</h2><figure>{svg}<figcaption>{caption}</figcaption></figure></section>"


def _missing(heading: str, reason: str) -> str:
    return f"<section><h2>{heading}</h2>{quiet(f'Nothing to draw: {reason}.')}</section>"


def _success_rates(found: Findings) -> str:
    g, rates = found.facts.config.rollout.responses, found.success_rate
    if not found.sampled.any():
        return _missing("Success rates", "no prompt was sampled")
    few = success_steps(rates[found.sampled], g) <= 10
    numbers = "Over each bar: all its prompts, and in orange the selected ones. " if few else ""
    fewest = int(found.responses[found.sampled].min())
    noise = (
        f"A rate near one half, measured by {fewest} responses, is uncertain by about &plusmn;{0.5 / fewest**0.5:.2f} "
    )
    caption = f"{numbers}{noise}(one standard error)."
    return _figure("Success rates", success_histogram(rates, found.picked, g), caption)


def _score(found: Findings) -> str:
    g, rates = found.facts.config.rollout.responses, found.success_rate
    drawn = found.learnable & found.sampled & np.isfinite(found.score)
    if not drawn.any():
        return _missing("Score against success rate", "no prompt is learnable")
    caption = (
        "Score = p(1&minus;p) &times; alignment. The curve takes the best alignment in the pool, so that "
        "nothing lies above it; a prompt below the curve agrees less with the pool's mean gradient. "
    )
    if (drawn & found.picked).any():
        caption += "Dashed: the lowest score selected. "
    if success_steps(rates[drawn], g) == g:
        caption += "Points are spread sideways around their rate. "
    others = int(np.count_nonzero(found.sampled & ~drawn))
    if others:
        caption += f"Not drawn: {plural(others, 'prompt')} without a gradient, with score 0. "
    svg = score_cloud(rates, found.score, found.picked, drawn, g)
    return _figure("Score against success rate", svg, caption + _thinned(found, drawn))


def _length(found: Findings, name: str, values: Floats, remark: str) -> str:
    """A cloud over the learnable prompts; the rank correlation is over all of them, drawn or not."""
    what = {"norm": "gradient norm", "score": "score"}[name]
    heading, tokens = f"Response length and {what}", found.response_tokens
    drawn = found.learnable & np.isfinite(tokens) & np.isfinite(values)
    if not drawn.any():
        return _missing(heading, "no learnable prompt has both values")
    rho, n = spearman(tokens[drawn], values[drawn])
    told = f"<b>Spearman correlation {number(rho, 2)}</b>" if np.isfinite(rho) else "No rank correlation"
    caption = f"{told} over {plural(n, 'learnable prompt')}. {remark} {_thinned(found, drawn)}"
    svg = length_cloud(f"length-{name}", tokens, values, found.picked, drawn, what)
    return _figure(heading, svg, caption)


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
