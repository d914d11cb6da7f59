"""From the runs' results to tables: means over pairs with standard errors, differences to the full pool paired.

Seeds are averaged within a pair; a pair is one observation. This module runs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.outcome.measures import Curve, Result, Results, at, cost, over_cost, over_steps, to_reach

RATIOS = (1, 3)
"""The values of r that are shown."""


class Estimate(NamedTuple):
    """A mean over pairs and its standard error; None where there is one pair."""

    mean: float
    error: float | None

    def text(self, sign: str = "") -> str:
        """As it stands in a table."""
        return f"{self.mean:{sign}.3f}" + ("" if self.error is None else f" ± {self.error:.3f}")


def estimate(values: Sequence[float]) -> Estimate:
    """Of one value a pair."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), error)


class Speedup(NamedTuple):
    """What the full pool takes to its final value, over what an arm takes: above 1 the arm is faster.

    A geometric mean over pairs, and one standard error of its logarithm to either side. A run that never comes to the
    value counts as if it came there at its end: the ratio is then an upper bound.
    """

    ratio: float
    low: float
    high: float
    reached: int
    """Runs that came to the value."""
    runs: int

    def text(self) -> str:
        """As it stands in a table."""
        if self.reached < self.runs:
            return f"< {self.ratio:.2f}, {self.reached} of {self.runs} reached"
        return f"{self.ratio:.2f}" + ("" if self.low == self.high else f" ({self.low:.2f} to {self.high:.2f})")


def speedup(pairs: Sequence[Sequence[tuple[Curve, Curve]]]) -> Speedup | None:
    """Of every pair the runs: the full pool's curve and the arm's. None if no full pool got above its start."""
    logs, reached, runs = [], 0, 0
    for pair in pairs:
        ratios = []
        for full, own in pair:
            value = full[1][-1]
            needed, took = to_reach(full, value), to_reach(own, value)
            if not needed:
                continue
            runs += 1
            reached += took is not None
            ratios.append(math.log(needed / (own[0][-1] if took is None else max(took, 1e-9))))
        if ratios:
            logs.append(float(np.mean(ratios)))
    if not logs:
        return None
    mean, error = estimate(logs)
    low, high = (math.exp(mean + sign * (error or 0.0)) for sign in (-1, 1))
    return Speedup(math.exp(mean), low, high, reached, runs)


class Row(NamedTuple):
    """One arm on one pool. Where there are two: for r = 1 and r = 3."""

    passed: Estimate
    """Held-out pass probability after all steps."""
    over_full: Estimate
    """Difference to the full pool, paired."""
    over_full_at_cost: list[Estimate]
    """The same when as much is spent as the full pool took for all steps, selecting included."""
    steps: Speedup | None
    costs: list[Speedup | None]
    greedy: Estimate
    mixed: Estimate
    """Share of groups with an advantage among those trained on."""
    wrong: Estimate
    """Share of wrong reference answers among the prompts trained on."""
    wrong_of_mixed: Estimate
    """The same among groups with an advantage."""
    coins: Estimate
    distinct: Estimate
    """Prompts trained on."""
    sampled: float
    """Thousand tokens of training, mean."""
    back: float
    selecting: float
    """Thousand tokens, sampled and propagated back."""


def row(results: Results, pool: str, arm: str) -> Row:
    """Figures of an arm."""
    mine, full = results[pool, arm], results[pool, "full"]
    paired = [list(zip(full[pair], mine[pair], strict=True)) for pair in sorted(mine)]

    def mean(value: Callable[[Result, Result], float]) -> Estimate:
        return estimate([float(np.mean([value(reference, own) for reference, own in runs])) for runs in paired])

    def ratio(curve: Callable[[Result], Curve]) -> Speedup | None:
        return speedup([[(curve(reference), curve(own)) for reference, own in runs] for runs in paired])

    def over_full_at_cost(r: float) -> Estimate:
        return mean(
            lambda ref, own: at(over_cost(own, r), cost(ref["curve"][-1], r)) - ref["curve"][-1]["passed"],
        )

    def thousands(part: str, *kinds: str) -> float:
        return mean(lambda _, own: sum(own["curve"][-1][part][kind] for kind in kinds) / 1000).mean

    return Row(
        passed=mean(lambda _, own: own["curve"][-1]["passed"]),
        over_full=mean(lambda ref, own: own["curve"][-1]["passed"] - ref["curve"][-1]["passed"]),
        over_full_at_cost=[over_full_at_cost(r) for r in RATIOS],
        steps=ratio(over_steps),
        costs=[ratio(lambda result, r=r: over_cost(result, r)) for r in RATIOS],  # type: ignore[misc]
        greedy=mean(lambda _, own: own["curve"][-1]["greedy"]),
        mixed=mean(lambda _, own: own["mixed"]),
        wrong=mean(lambda _, own: own["wrong"]),
        wrong_of_mixed=mean(lambda _, own: own["wrong_of_mixed"]),
        coins=mean(lambda _, own: own["coins"]),
        distinct=mean(lambda _, own: own["distinct"]),
        sampled=thousands("training", "sampled"),
        back=thousands("training", "back"),
        selecting=thousands("selecting", "sampled", "back"),
    )


class Gain(NamedTuple):
    """Whether the bench sees what is known to be there: right answers and exact probabilities help at equal steps."""

    pool: str
    oracle_over_full: Estimate
    seen: bool
    """By two standard errors."""

    def text(self) -> str:
        """One line."""
        said = "yes" if self.seen else "no" if self.oracle_over_full.error is not None else "one pair has no error"
        return f"the bench sees a gain: {said}; oracle over full, {self.pool}: {self.oracle_over_full.text('+')}"


def gain(rows: Mapping[str, Row], pool: str) -> Gain:
    """Of a pool on which the oracle must be ahead."""
    found = rows["oracle"].over_full
    return Gain(pool, found, found.error is not None and found.mean > 2 * found.error)


HEADER = (
    "| arm | passed | - full | - full at its cost, r = 1 | r = 3 "
    "| steps to full's end, full / arm | cost, r = 1 | r = 3 "
    "| greedy | groups with a signal | wrong | of these with a signal | coins | distinct prompts "
    "| thousand tokens sampled + back; selecting |"
)


def markdown(rows: Mapping[str, Row]) -> str:
    """A pool's table, one line an arm."""
    lines = [HEADER, "| --- " * (HEADER.count("|") - 1) + "|"]
    for arm, r in rows.items():
        cells: list[Any] = [
            arm,
            r.passed.text(),
            r.over_full.text("+"),
            *(found.text("+") for found in r.over_full_at_cost),
            *("" if found is None else found.text() for found in (r.steps, *r.costs)),
            r.greedy.text(),
            *(f"{part.mean:.0%}" for part in (r.mixed, r.wrong, r.wrong_of_mixed, r.coins)),
            f"{r.distinct.mean:.0f}",
            f"{r.sampled:.0f} + {r.back:.0f}; {r.selecting:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
