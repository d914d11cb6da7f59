"""Held-out accuracy against steps and against tokens, both pools. This module computes no figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from bench.outcome.arms import ARMS
from bench.outcome.pools import POOLS
from bench.outcome.table import Results, curve_over_tokens, tokens

COLORS = {
    "full": "black",
    "random": "tab:gray",
    "learnable": "tab:olive",
    "band": "tab:orange",
    "random_positive": "tab:green",
    "top": "tab:blue",
    "greedy": "tab:purple",
    "online": "tab:red",
    "oracle": "tab:pink",
}

SHOWN = 2.0
"""Tokens shown, as a multiple of what the full pool takes for all steps (the dotted line)."""


def plot(results: Results, path: Path) -> None:
    """Write the figure: a row a pool; means over pairs and seeds; dashed arms choose once."""
    figure, axes = plt.subplots(len(POOLS), 2, figsize=(11, 8), sharey="row", layout="constrained")
    for (by_steps, by_tokens), pool in zip(axes, POOLS, strict=True):
        full = np.mean([tokens(r["curve"][-1]) for pair in results[pool, "full"].values() for r in pair])
        by_tokens.axvline(full / 1000, color="black", linewidth=0.8, linestyle=":")
        for arm, (strategy, again) in ARMS.items():
            if (pool, arm) not in results:
                continue
            runs = [result for pair in results[pool, arm].values() for result in pair]
            style = {
                "color": COLORS[strategy],
                "linestyle": "-" if again or strategy == "full" else "--",
                "linewidth": 2.5 if strategy in ("full", "online") else 1.2,
                "label": arm,
            }
            steps = [point["step"] for point in runs[0]["curve"]]
            by_steps.plot(steps, np.mean([[p["passed"] for p in r["curve"]] for r in runs], axis=0), **style)
            grid = np.linspace(0, SHOWN * full, 400)
            curves = [np.interp(grid, *curve_over_tokens(r), right=np.nan) for r in runs]
            by_tokens.plot(grid / 1000, np.mean(curves, axis=0), **style)
        by_steps.set(title=f"{pool} pool, equal steps", xlabel="GRPO steps", ylabel="held-out pass probability")
        by_tokens.set(
            title=f"{pool} pool, equal compute",
            xlabel="thousand response tokens (sampled + propagated back, selecting included)",
        )
        for axis in (by_steps, by_tokens):
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=130)
    plt.close(figure)
