"""From the runs' results to figures: equal steps, equal compute, means over pairs with standard errors.

Seeds are averaged within a pair; a pair is one observation. Differences to `full` are paired. This module runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

Result = Mapping[str, Any]
Results = Mapping[tuple[str, str], Mapping[int, Sequence[Result]]]
"""(pool, arm) to pair to the results of its seeds, in the order of seeds."""


class Estimate(NamedTuple):
    """A mean over pairs and its standard error."""

    mean: float
    error: float

    def text(self, sign: str = "") -> str:
        """As it stands in a table."""
        return f"{self.mean:{sign}.3f} ± {self.error:.3f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Of one value a pair."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return Estimate(float(np.mean(values)), error)


def tokens(point: Result, *parts: str) -> int:
    """Sampled and back-propagated tokens of training, selecting, or both."""
    return sum(point[part][kind] for part in parts or ("training", "selecting") for kind in ("sampled", "back"))


def at_compute(result: Result, budget: float) -> float:
    """Pass probability when so many tokens are spent, between evaluations linearly; the last where a run ends before.

    Selecting comes before the steps that it serves: while its tokens are spent nothing is learned.
    """
    spent, passed = curve_over_tokens(result)
    return float(np.interp(budget, spent, passed))


def curve_over_tokens(result: Result) -> tuple[list[float], list[float]]:
    """Tokens spent and pass probability, with a flat piece wherever something was selected."""
    points = result["curve"]
    spent, passed = [0.0], [points[0]["passed"]]
    for before, after in pairwise(points):
        selecting = tokens(after, "selecting") - tokens(before, "selecting")
        if selecting:
            spent.append(spent[-1] + selecting)
            passed.append(passed[-1])
        spent.append(float(tokens(after)))
        passed.append(after["passed"])
    return spent, passed


class Row(NamedTuple):
    """One arm on one pool."""

    passed: Estimate
    """Held-out pass probability after all steps."""
    over_full: Estimate
    """Difference to the full pool, paired."""
    equal_compute: Estimate
    """Pass probability when as many tokens are spent as the full pool took for all steps, selecting included."""
    over_full_compute: Estimate
    greedy: Estimate
    early: Estimate
    """Pass probability after a quarter of the steps."""
    mixed: Estimate
    """Share of groups with an advantage while training."""
    wrong: Estimate | None
    """Share of picks with a wrong reference answer."""
    coins: Estimate | None
    concentration: Estimate | None
    overlap: Estimate | None
    training: float
    """Tokens, mean."""
    selecting: float


def row(results: Results, pool: str, arm: str) -> Row:
    """Figures of an arm."""
    mine, full = results[pool, arm], results[pool, "full"]

    def over_pairs(value: Callable[[Result, Result], float | None]) -> list[float]:
        pairs = []
        for pair in sorted(mine):
            found = [value(own, reference) for own, reference in zip(mine[pair], full[pair], strict=True)]
            known = [x for x in found if x is not None]
            if known:
                pairs.append(float(np.mean(known)))
        return pairs

    def choice(key: str) -> Estimate | None:
        values = over_pairs(lambda own, _: np.mean([c[key] for c in own["choices"]]) if own["choices"] else None)
        return estimate(values) if values else None

    def spent(result: Result) -> int:
        return tokens(result["curve"][-1])

    last = [points["step"] for points in next(iter(full.values()))[0]["curve"]]
    quarter = last.index(min(last, key=lambda step: abs(step - last[-1] / 4)))
    overlaps = over_pairs(lambda own, _: own["overlap"])
    return Row(
        passed=estimate(over_pairs(lambda own, _: own["curve"][-1]["passed"])),
        over_full=estimate(over_pairs(lambda own, ref: own["curve"][-1]["passed"] - ref["curve"][-1]["passed"])),
        equal_compute=estimate(over_pairs(lambda own, ref: at_compute(own, spent(ref)))),
        over_full_compute=estimate(
            over_pairs(lambda own, ref: at_compute(own, spent(ref)) - ref["curve"][-1]["passed"])
        ),
        greedy=estimate(over_pairs(lambda own, _: own["curve"][-1]["greedy"])),
        early=estimate(over_pairs(lambda own, _: own["curve"][quarter]["passed"])),
        mixed=estimate(over_pairs(lambda own, _: own["mixed"])),
        wrong=choice("wrong"),
        coins=choice("coins"),
        concentration=choice("concentration"),
        overlap=estimate(overlaps) if overlaps else None,
        training=float(np.mean(over_pairs(lambda own, _: tokens(own["curve"][-1], "training")))),
        selecting=float(np.mean(over_pairs(lambda own, _: tokens(own["curve"][-1], "selecting")))),
    )


def differences(results: Results, pool: str, arm: str, other: str) -> list[list[float]]:
    """Pass probability after all steps, less that of another arm: of every pair the runs, paired by seed."""
    return [
        [
            a["curve"][-1]["passed"] - b["curve"][-1]["passed"]
            for a, b in zip(runs, results[pool, other][pair], strict=True)
        ]
        for pair, runs in sorted(results[pool, arm].items())
    ]


def online_over_others(results: Results, pool: str, others: Sequence[str]) -> str:
    """One line: online selection over other arms, and how far single runs of it end from the full pool."""
    means = {other: [float(np.mean(runs)) for runs in differences(results, pool, "online", other)] for other in others}
    over = "; ".join(f"{other} {estimate(pairs).text('+')}" for other, pairs in means.items())
    single = [value for runs in differences(results, pool, "online", "full") for value in runs]
    return f"online over {over}; single runs over full {min(single):+.3f} to {max(single):+.3f}"


HEADER = (
    "| arm | passed | - full | at full's tokens | - full | greedy | after 1/4 | groups with a signal "
    "| wrong | coins | most of a family | overlap | tokens: training + selecting (thousands) |"
)


def markdown(rows: Mapping[str, Row]) -> str:
    """A pool's table, one line an arm."""
    lines = [HEADER, "| --- " * (HEADER.count("|") - 1) + "|"]
    for arm, r in rows.items():
        cells = [
            arm,
            r.passed.text(),
            r.over_full.text("+"),
            r.equal_compute.text(),
            r.over_full_compute.text("+"),
            r.greedy.text(),
            r.early.text(),
            f"{r.mixed.mean:.0%}",
            *("" if part is None else f"{part.mean:.0%}" for part in (r.wrong, r.coins)),
            "" if r.concentration is None else f"{r.concentration.mean:.1f} x",
            "" if r.overlap is None else f"{r.overlap.mean:.2f}",
            f"{r.training / 1000:.0f} + {r.selecting / 1000:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
