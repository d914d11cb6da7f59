"""Held-out pass probability against steps and against cost, a regime a figure. This module computes no figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from bench.outcome.measures import Results, cost, over_cost, over_steps
from bench.outcome.table import RATIOS

COLORS = {
    "full": "black",
    "dynamic": "tab:blue",
    "mopps": "tab:green",
    "skipping": "tab:orange",
    "top": "tab:gray",
    "online-verdicts": "tab:purple",
    "online": "tab:red",
    "oracle": "tab:pink",
}
"""The arms that are shown."""
SHOWN = 2.0
"""Cost shown, as a multiple of what the full pool takes for all steps (the dotted line)."""


def plot(results: Results, regime: str, path: Path) -> None:
    """Write the figure: a row a pool; means over pairs and seeds; the bound and arms that choose once are dashed."""
    pools = list(dict.fromkeys(pool for pool, _ in results))
    figure, axes = plt.subplots(
        len(pools), 1 + len(RATIOS), figsize=(16, 4.2 * len(pools)), sharey="row", squeeze=False, layout="constrained"
    )
    for (by_steps, *by_costs), pool in zip(axes, pools, strict=True):
        by_steps.set(title=f"{regime}, {pool} pool", xlabel="GRPO steps", ylabel="held-out pass probability")
        for arm, color in COLORS.items():
            runs = [result for pair in results.get((pool, arm), {}).values() for result in pair]
            if not runs:
                continue
            style = {
                "color": color,
                "linestyle": "--" if arm in ("top", "oracle") else "-",
                "linewidth": 2.2 if arm in ("full", "online", "online-verdicts") else 1.2,
                "label": arm,
            }
            curves = [over_steps(run) for run in runs]
            by_steps.plot(curves[0][0], np.mean([passed for _, passed in curves], axis=0), **style)
            for axis, r in zip(by_costs, RATIOS, strict=True):
                full = np.mean([cost(run["curve"][-1], r) for pair in results[pool, "full"].values() for run in pair])
                grid = np.linspace(0, SHOWN * full, 400)
                means = np.mean([np.interp(grid, *over_cost(run, r), right=np.nan) for run in runs], axis=0)
                axis.plot(grid / 1000, means, **style)
                if arm == "full":
                    axis.axvline(full / 1000, color="black", linewidth=0.8, linestyle=":")
        for axis, r in zip(by_costs, RATIOS, strict=True):
            axis.set(title="equal cost", xlabel=f"thousand tokens sampled + {r} x propagated back, selecting included")
        for axis in (by_steps, *by_costs):
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)
