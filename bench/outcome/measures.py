"""What a run's curve says: costs, where it is when so much is spent, what it takes to reach a value.

A cost is tokens sampled plus r times tokens propagated back, those of selecting included. How dear sampling is beside
training differs from setup to setup, so r is said beside every figure. This module runs nothing and averages nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

Result = Mapping[str, Any]
Results = Mapping[tuple[str, str], Mapping[int, Sequence[Result]]]
"""(pool, arm) to pair to the results of its seeds, in the order of seeds."""
Curve = tuple[Sequence[float], Sequence[float]]
"""Steps or cost, ascending, and pass probability."""


def cost(point: Result, r: float, *parts: str) -> float:
    """Of training, selecting, or both."""
    return float(sum(point[part]["sampled"] + r * point[part]["back"] for part in parts or ("training", "selecting")))


def over_steps(result: Result) -> Curve:
    """Steps and pass probability."""
    return [point["step"] for point in result["curve"]], [point["passed"] for point in result["curve"]]


def over_cost(result: Result, r: float) -> Curve:
    """Cost and pass probability, with a flat piece wherever something was selected.

    Selecting comes before the steps that it serves: while its tokens are spent nothing is learned.
    """
    points = result["curve"]
    spent, passed = [0.0], [points[0]["passed"]]
    for before, after in pairwise(points):
        selecting = cost(after, r, "selecting") - cost(before, r, "selecting")
        if selecting:
            spent.append(spent[-1] + selecting)
            passed.append(passed[-1])
        spent.append(cost(after, r))
        passed.append(after["passed"])
    return spent, passed


def at(curve: Curve, budget: float) -> float:
    """Pass probability when so much is spent, between evaluations linearly; the last where a run ends before."""
    return float(np.interp(budget, *curve))


def to_reach(curve: Curve, value: float) -> float | None:
    """What was spent when the curve first came to a value, between evaluations linearly; None if it never did."""
    spent, passed = curve
    if passed[0] >= value:
        return float(spent[0])
    for k in range(1, len(spent)):
        if passed[k] >= value:
            part = (value - passed[k - 1]) / (passed[k] - passed[k - 1])
            return float(spent[k - 1] + part * (spent[k] - spent[k - 1]))
    return None
