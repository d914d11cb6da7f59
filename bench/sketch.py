"""How far is a prompt's sketched gradient from the price of a plain training step, and from what others pay?

Floor: plain batched forward and backward with weight gradients, logits at response positions only. The same groups in
the same dtype then go through

    LESS-style     one response at a time, weight gradients, a dense random projection of them (LESS: to 8,192 numbers;
                   here to fewer, which the table says: the projection's cost is proportional)
    per module     every layer's gradient of every response projected to 16 x 16, head left out, logits whole (bergson's
                   layout, written here), and bergson itself where it is installed
    ours           exact fold and rank 128, each with the prompt in every response's row and shared; and rank 128,
                   shared, with as many prompts again that are always or never solved: those have no gradient and are
                   skipped, while the other layouts pay for them as for all

Before anything is timed, ours is compared with the float64 gradient of a small group, folded by the plain reference;
the yardstick is the error of the floor's own gradient. Rounds take turns; the fastest of each counts. Tokens are those
of prompt and response of every response, whoever computes them once. The share of the ceiling is that of the floor's
products (6 operations a weight and token, the head's at response tokens only; attention left out) at the rate that the
device was seen to multiply at (`bench.ceilings`).

    python -m bench.sketch [--quick] [--shape NAME] [--groups N] [--response-tokens A B]

Weights are random: speed does not depend on them. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.ceilings import best_device, ceilings, device_name, seconds
from bench.measure import finish
from bench.memory import extra_bytes
from bench.shapes import SHAPES, random_groups, random_model
from bench.sketch_bounds import bounds, least_seconds
from bench.sketch_others import bergson, less_style, per_module
from bench.sketch_ours import BATCH_TOKENS, RANK, check, ours, sketcher_of
from bench.training_step import floor
from learnalign.gradient import Group, Sketcher, weighted
from learnalign.gradient.batching import Batch, pack

LESS_DIMENSION = {"cpu": 32, "cuda": 512}
BARS = {
    "cpu": {"exact": 0.95, "rank 128": 1.15, "sharing": 1.6},
    "cuda": {"exact": 0.95, "rank 128": 1.25, "sharing": 1.6, "skipping over per module": 5.0},
}
SKIPPING = "the same, half settled"


@dataclass
class Way:
    """One way to spend a pass. groups: those it is given, since some ways are too slow for all of them."""

    run: Callable[[Sequence[Group]], object]
    groups: Sequence[Group]
    seconds: float = float("inf")
    peak_bytes: int = 0

    @property
    def tokens(self) -> int:
        """Of prompt and response of every response."""
        return sum(len(g.prompt) + len(y) for g in self.groups for y in g.responses)


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two layers, few words, one round: checks that it runs")
    parser.add_argument("--shape", choices=SHAPES, help="default: smollm2-135m on a CPU, qwen2.5-1.5b on a GPU")
    parser.add_argument("--groups", type=int, help="default: 1 on a CPU, 16 on a GPU")
    parser.add_argument("--response-tokens", type=int, nargs=2, default=(60, 120), metavar=("A", "B"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--skip-less", action="store_true", help="leave the slowest way out")
    asked = parser.parse_args()
    device = best_device()
    flops = ceilings(device, asked.quick).flops
    shape = asked.shape or ("qwen2.5-1.5b" if device == "cuda" else "smollm2-135m")
    model = random_model(shape, device, asked.quick)
    groups = random_groups(model, asked.groups or (16 if device == "cuda" else 1), asked.response_tokens)
    check(model, device)
    ways = all_ways(model, groups, device)
    if asked.skip_less:
        del ways["LESS-style"]
    for way in ways.values():
        measure_memory(way, device)
    for _ in range(1 if asked.quick else asked.rounds):
        for way in ways.values():
            measure_time(way, device)
    most = bounds(model, groups)
    show(ways, shape, device, asked.quick, least_seconds(model, ways["floor"].groups, flops), most)


def all_ways(model: Any, groups: list[Group], device: str) -> dict[str, Way]:
    """The floor first. Ours shares one model with it: weights are frozen by whoever needs them so."""
    apart = sketcher_of(model, share=False)
    few = [groups[i] for i in apart.batches(groups, BATCH_TOKENS[device])[0]]
    settled = [Group(group.prompt, group.responses, [1.0] * len(group.responses)) for group in groups]

    def batchwise(run: Callable[[Any, Batch], object]) -> Callable[[Sequence[Group]], object]:
        return lambda some: each(apart, some, partial(run, model))

    ways = {
        "floor": Way(batchwise(floor), few),
        "LESS-style": Way(partial(less_style, model, dimension=LESS_DIMENSION[device]), few[:1]),
        "per module 16 x 16": Way(batchwise(per_module), few),
        "exact": Way(partial(ours, apart), few),
        "exact, shared": Way(partial(ours, sketcher_of(model)), groups),
        "rank 128": Way(partial(ours, sketcher_of(model, RANK, share=False)), few),
        "rank 128, shared": Way(partial(ours, sketcher_of(model, RANK)), groups),
        SKIPPING: Way(partial(ours, sketcher_of(model, RANK)), [*groups, *settled]),
    }
    if importlib.util.find_spec("bergson"):
        ways["bergson"] = Way(batchwise(bergson), few)
    else:
        print("bergson is not installed: left out")
    return ways


def each(sketcher: Sketcher, groups: Sequence[Group], run: Callable[[Batch], object]) -> None:
    """The batches of a sketcher, one after the other."""
    for chosen in sketcher.batches(groups, BATCH_TOKENS[sketcher.device.type]):
        run(pack([weighted(groups[i]) for i in chosen], 1, sketcher.device))


def measure_memory(way: Way, device: str) -> None:
    """One run that is not timed: the highest memory beyond what was there before. It warms up, too."""
    way.peak_bytes = extra_bytes(lambda: way.run(way.groups), device)


def measure_time(way: Way, device: str) -> None:
    """One run on warm memory."""
    gc.collect()
    way.seconds = min(way.seconds, seconds(lambda: way.run(way.groups), device))


def show(ways: dict[str, Way], shape: str, device: str, quick: bool, least: float, most: dict[str, float]) -> None:
    """The table, the bars, and the last line.

    least: seconds of the floor's products at the rate of the ceiling. most: what the products allow of each figure; a
    bar above that is no bar.
    """
    base = ways["floor"]
    where = device_name(device)
    print(f"\n{shape}, {where}, batches of at most {BATCH_TOKENS[device]:,} tokens")
    print(f"the floor's products at the ceiling's rate: {base.tokens / least:,.0f} tokens/s; "
          f"it reaches {least / base.seconds:.2f} of that")  # fmt: skip
    print(f"{'way':<22}{'tokens/s':>10}{'over floor':>12}{'prompts/s':>11}{'GiB above the weights':>23}")
    rows = {}
    for name, way in ways.items():
        speed = way.tokens / way.seconds
        rows[name] = {
            "tokens_per_second": round(speed, 1),
            "over_floor": round(speed / (base.tokens / base.seconds), 3),
            "prompts_per_second": round(len(way.groups) / way.seconds, 4),
            "peak_gib": round(way.peak_bytes / 2**30, 2),
        }
        note = f"  (projected to {LESS_DIMENSION[device]} numbers, not 8,192)" if name == "LESS-style" else ""
        print(f"{name:<22}{speed:>10,.0f}{rows[name]['over_floor']:>12.2f}{rows[name]['prompts_per_second']:>11.3f}"
              f"{rows[name]['peak_gib']:>23.2f}{note}")  # fmt: skip
    found = {
        "exact": rows["exact"]["over_floor"],
        "rank 128": rows["rank 128"]["over_floor"],
        "sharing": rows["exact, shared"]["prompts_per_second"] / rows["exact"]["prompts_per_second"],
        "skipping over per module": rows[SKIPPING]["prompts_per_second"]
        / rows["per module 16 x 16"]["prompts_per_second"],
    }
    bars = {name: bar for name, bar in BARS[device].items() if bar <= most[name]}
    met = None if quick else {name: found[name] >= bar for name, bar in bars.items()}
    print(f"{'':<26}{'found':>8}{'bar':>8}{'products allow':>16}")
    for name, bar in BARS[device].items():
        print(f"{name:<26}{found[name]:>8.2f}{bar:>8.2f}{most[name]:>16.2f}" + "  (no bar here)" * (name not in bars))
    figures = {name: round(value, 3) for name, value in found.items()}
    result = {"shape": shape, "device": where, "quick": quick, "ways": rows, "figures": figures}
    result |= {
        "floor_of_ceiling": round(least / base.seconds, 3),
        "products_allow": {name: round(value, 3) for name, value in most.items()},
    }
    summary = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
    finish("sketch", {**result, "bars_met": met, "summary": summary}, "torch", "transformers", "bergson")


if __name__ == "__main__":
    main()
