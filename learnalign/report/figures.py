"""The report's figures as inline SVG, drawn by matplotlib without a display.

Lines and letters are vectors that take their color from the page (`var(--ink)` and so on), so that they stay
readable in light and in dark; clouds of points are bitmaps inside the SVG, so that a page does not grow with
the pool. The same input gives the same bytes: no dates, salted ids, seeded jitter and thinning. Importing
this module loads no matplotlib. Captions and headings are the page's business.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from learnalign.report.facts import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Mask = NDArray[np.bool_]

MAX_POINTS = 5000
"""Points in a cloud. A selection of up to half of them is drawn whole."""
HISTOGRAM_STEPS = 20
"""Bars of the histogram less one, where success rates are not multiples of 1/G or G is large."""

# Blue and orange keep apart for every common color blindness and in gray, on white and on near black.
OTHERS, PICKED = "#6c8ebf", "#d9730d"
# Stand-ins that matplotlib draws with; `_inline` turns them into the page's own colors.
INK, MUTED, GRID = "#010203", "#040506", "#070809"
PAGE_COLORS = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)"}

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # ships with matplotlib: same metrics, hence same layout, everywhere
    "font.size": 11.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.left": False,
    "legend.frameon": False,
    "legend.borderpad": 0.0,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
}


def _draw(name: str, label: str, paint: Callable[[Axes], None]) -> str:
    """One figure of 6.2 by 3.9 inches as an SVG element; `label` is its text for the blind."""
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # From matplotlib's own defaults, not the user's settings: a report looks the same on every machine.
    with style.context(["default", STYLE, {"svg.hashsalt": "learnalign"}]):
        figure = Figure(figsize=(6.2, 3.9), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name, label)


def _inline(svg: str, name: str, label: str) -> str:
    """Strip what only a stand-alone file needs, and hand the colors over to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    # Ids have to be unique on the page. Nothing refers to those of groups; the others get the figure's name.
    svg = re.sub(r'<g id="[A-Za-z0-9.]+_[0-9_.]+">', "<g>", svg)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    box = re.search(r'viewBox="[^"]+"', svg)
    if box is None:
        raise RuntimeError("matplotlib wrote an SVG without a viewBox")
    svg = f'<svg {box.group()} role="img" aria-label="{label}">' + svg[svg.index(">") + 1 :]
    for stand_in, color in PAGE_COLORS.items():
        svg = svg.replace(stand_in, color)
    return svg.strip()


def success_steps(success_rate: Floats, responses: int) -> int:
    """Into how many steps [0, 1] is cut: G where all rates are multiples of 1/G and G is at most 32."""
    on_grid = bool(np.all(np.abs(success_rate * responses - np.rint(success_rate * responses)) < 1e-6))
    return responses if on_grid and responses <= 32 else HISTOGRAM_STEPS


def success_histogram(success_rate: Floats, picked: Mask, responses: int) -> str:
    """Bars of prompts by success rate, the selected part of each at its foot; NaN rates are left out."""
    sampled = np.isfinite(success_rate)
    rate, chosen = success_rate[sampled], picked[sampled]
    steps = success_steps(rate, responses)
    bins = np.rint(rate * steps).astype(np.int64)
    ours = np.bincount(bins[chosen], minlength=steps + 1)
    total = np.bincount(bins, minlength=steps + 1)

    def paint(ax: Axes) -> None:
        at, width = np.arange(steps + 1) / steps, 0.84 / steps
        ax.bar(at, ours, width, color=PICKED, label="selected")
        ax.bar(at, total - ours, width, bottom=ours, color=OTHERS, label="not selected")
        if steps <= 10:
            _label_bars(ax, at, total, ours)
        ax.set(xlabel="success rate p", ylabel="prompts", xlim=(-0.6 / steps, 1 + 0.6 / steps))
        if steps <= 10:
            ax.set_xticks(at, [f"{k}/{steps}" for k in range(steps + 1)])
        ax.set_ylim(0, 1.17 * float(total.max()))  # room for two lines of numbers
        _count_axis(ax)
        _legend(ax)

    return _draw("histogram", "Histogram of success rates", paint)


def _label_bars(ax: Axes, at: Floats, total: NDArray[np.int64], ours: NDArray[np.int64]) -> None:
    """Write over each bar how many prompts it holds and, below that, how many of them were selected."""
    for x, prompts, chosen in zip(at, total, ours, strict=True):
        lift = 3.0
        for n, color in ((chosen, PICKED), (prompts, MUTED)):
            if n:
                text = ax.annotate(f"{n:,}", (x, prompts), (0, lift), textcoords="offset points", color=color)
                text.set(ha="center", va="bottom", fontsize=9.5)
                lift += 11.0


def _count_axis(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _legend(ax: Axes) -> None:
    """A legend above the axes, where no data can lie under it."""
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, fontsize=10.5)


def thin(drawn: Mask, picked: Mask) -> Mask:
    """At most `MAX_POINTS` of the `drawn` prompts, by a seeded random choice.

    Either side, picked or not, is drawn whole where it fits into half of the points, or into what the other
    leaves of them.
    """
    ours, others = np.flatnonzero(drawn & picked), np.flatnonzero(drawn & ~picked)
    room = max(MAX_POINTS // 2, MAX_POINTS - len(others))
    random = np.random.default_rng(0)
    kept = np.zeros_like(drawn)
    kept[ours if len(ours) <= room else random.choice(ours, room, replace=False)] = True
    room = MAX_POINTS - min(len(ours), room)
    kept[others if len(others) <= room else random.choice(others, room, replace=False)] = True
    return kept


def _cloud(ax: Axes, x: Floats, y: Floats, picked: Mask) -> None:
    """Points as a bitmap: the selection over the rest, fainter where there are many."""
    for mask, color, name, layer in ((~picked, OTHERS, "not selected", 2), (picked, PICKED, "selected", 3)):
        n = int(np.count_nonzero(mask))
        size, alpha = (22, 0.85) if n < 300 else (9, 0.55)
        dots = ax.scatter(x[mask], y[mask], s=size, color=color, alpha=alpha, linewidths=0, zorder=layer)
        dots.set_rasterized(True)
        if n:  # a mark of its own for the legend: solid, and a vector
            ax.plot([], [], "o", color=color, markersize=5, label=name)


def score_cloud(success_rate: Floats, score: Floats, picked: Mask, drawn: Mask, responses: int) -> str:
    """Score against success rate, under p(1-p) times the best alignment, with the lowest pick dashed.

    Rates that are multiples of 1/G are spread sideways by up to a third of a step, so that ties can be seen.
    """
    mask = thin(drawn, picked)
    p, s, chosen = success_rate[mask], score[mask], picked[mask]
    steps = success_steps(success_rate[drawn], responses)
    jitter = np.random.default_rng(1).uniform(-0.33, 0.33, len(p)) / steps if steps == responses else 0.0
    variance = success_rate[drawn] * (1.0 - success_rate[drawn])
    mixed = variance > 0
    ceiling = float(np.max(score[drawn][mixed] / variance[mixed])) if mixed.any() else 0.0
    lowest = float(score[drawn & picked].min()) if (drawn & picked).any() else None

    def paint(ax: Axes) -> None:
        ax.axhline(0.0, color=MUTED, linewidth=0.8)
        _cloud(ax, np.clip(p + jitter, 0.0, 1.0), s, chosen)
        if ceiling > 0:
            curve = np.linspace(0.0, 1.0, 101)
            shape = ceiling * curve * (1.0 - curve)
            ax.plot(curve, shape, color=INK, linewidth=1.1, label="p(1\u2212p) \u00d7 best alignment")
        if lowest is not None:
            ax.axhline(lowest, color=PICKED, linewidth=1.0, linestyle=(0, (4, 3)))
        ax.set(xlabel="success rate p", ylabel="score", xlim=(-0.03, 1.03))
        ax.margins(y=0.08)
        _legend(ax)

    return _draw("score", "Scatter plot of score against success rate", paint)


def length_cloud(name: str, tokens: Floats, values: Floats, picked: Mask, drawn: Mask, ylabel: str) -> str:
    """`values` against mean response tokens; an axis that spans more than a factor of 20 is logarithmic."""
    mask = thin(drawn, picked)

    def paint(ax: Axes) -> None:
        _cloud(ax, tokens[mask], values[mask], picked[mask])
        _spread(ax, "x", tokens[mask])
        _spread(ax, "y", values[mask])
        ax.set(xlabel="mean response length (tokens)", ylabel=ylabel)
        _legend(ax)

    return _draw(name, f"Scatter plot of {ylabel} against mean response length", paint)


def _spread(ax: Axes, which: str, values: Floats) -> None:
    """A logarithmic axis with plain numbers where all values are positive and differ much."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if not len(values) or values.min() <= 0 or values.max() / values.min() <= 20:
        return
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    subs = (1.0, 2.0, 5.0) if values.max() / values.min() < 1000 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
