"""How many responses does a good selection cost, if they are spread over the prompts with care?

Simulated: a pool of prompts with known success rates p, of which 3 % are picked by the estimated p (1 - p) under
each allocation; what counts is the picks' true mean p (1 - p) and the responses a prompt on average. Pools: the real
success rates of 1,209 prompts over a GRPO run (one-shot-rlvr, 49 to 56 groups of 8 each: all of them, the first and
the last 16 groups), and mixtures of Beta distributions. Rates that were measured with few responses are more spread
than true ones; with 128 and more that matters little.

Bars, on pools of which about half (0.45 to 0.55) lie below 0.1 or above 0.9: `screen` reaches fixed G = 8 within 1 %
with at most 3.3 responses a prompt, `halving` reaches fixed G = 32 within 1 % with at most 8.

    LEARNALIGN_DATA=... python -m bench.rollout_economy        (--quick: fewer seeds)

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.measure import finish
from learnalign.config import RolloutConfig
from learnalign.rollout.allocation import next_round, rounds
from learnalign.scoring.learnability import learnability_of_counts

Floats = npt.NDArray[np.float64]
SHARE = 0.03
FIXED8, FIXED32 = RolloutConfig(responses=8), RolloutConfig(responses=32)
ARMS = {
    "fixed G = 8": FIXED8,
    "screen, G = 8": replace(FIXED8, allocation="screen"),
    "fixed G = 32": FIXED32,
    "halving to 32, budget 6": replace(FIXED32, allocation="halving", budget=6.0),
    "halving to 32, budget 8": replace(FIXED32, allocation="halving", budget=8.0),
}
BARS = {"screen, G = 8": ("fixed G = 8", 3.3), "halving to 32, budget 8": ("fixed G = 32", 8.0)}
"""Arm -> whose quality it must reach within 1 %, and the most responses a prompt."""


def main() -> None:
    """Simulate, print a table a pool, compare with the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the seeds")
    quick = parser.parse_args().quick
    found = {}
    for name, p in (real_pools() | mixtures()).items():
        seeds = (400 if len(p) < 5000 else 40) // (10 if quick else 1)
        found[name] = judge(name, p, {arm: simulate(config, p, seeds) for arm, config in ARMS.items()})
    missed = [f"{arm} on {name}" for name, result in found.items() for arm in result["missed"]]
    print("bars missed: " + ("; ".join(missed) or "none"))
    finish("rollout economy", {"pools": found, "missed": missed}, "numpy")


def real_pools() -> dict[str, Floats]:
    """Success rates of one-shot-rlvr, over the whole run and over its ends."""
    path = Path(os.environ.get("LEARNALIGN_DATA") or "/nonexistent") / "one-shot-rlvr" / "acc_step_500.json"
    if not path.is_file():
        sys.exit("bench/rollout_economy.py: set LEARNALIGN_DATA to a folder with one-shot-rlvr/acc_step_500.json")
    visits = [np.array(rates, np.float64) for rates in json.loads(path.read_text()).values()]
    ends = {"whole run": slice(None), "first 16 visits": slice(16), "last 16 visits": slice(-16, None)}
    return {f"real, {name}": np.array([v[part].mean() for v in visits]) for name, part in ends.items()}


def mixtures() -> dict[str, Floats]:
    """20,000 rates each: easy and hard prompts at the ends, the rest between; and one broad distribution."""
    rng = np.random.default_rng(0)
    ends, between = rng.random(20_000) < 0.52, rng.beta(1.2, 1.2, 20_000)
    hard = rng.random(20_000) < 0.7
    tails = np.where(hard, rng.beta(0.3, 5.0, 20_000), rng.beta(5.0, 0.3, 20_000))
    return {"Beta mixture": np.where(ends, tails, between), "Beta(0.35, 0.5)": rng.beta(0.35, 0.5, 20_000)}


def simulate(config: RolloutConfig, p: Floats, seeds: int) -> dict[str, float]:
    """Mean over seeds, with its standard error, of the picks' true p (1 - p), and responses a prompt."""
    picks = round(SHARE * len(p))
    value, cost = np.empty(seeds), np.empty(seeds)
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        truth = rng.permutation(p)  # ties go to the lower row: no order of the file may help
        sampled, chosen = pick(config, truth, picks, rng)
        value[seed], cost[seed] = (truth[chosen] * (1 - truth[chosen])).mean(), sampled.mean()
    error = float(value.std(ddof=1) / np.sqrt(seeds))
    return {"value": float(value.mean()), "error": error, "responses": float(cost.mean())}


def pick(
    config: RolloutConfig, p: Floats, picks: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Responses of every prompt, and the rows picked by p (1 - p) among those sampled to the end."""
    sampled, correct = np.zeros(len(p), np.int64), np.zeros(len(p), np.int64)
    kept = np.ones(len(p), np.bool_)
    for number in range(rounds(config)):
        kept, wanted = next_round(config, 2 * picks, number, sampled, correct)
        sampled += wanted
        correct += rng.binomial(wanted, p)
    estimate = np.where(kept, learnability_of_counts(sampled, correct), -1.0)
    return sampled, np.argsort(-estimate, kind="stable")[:picks]


def judge(name: str, p: Floats, arms: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Print one pool's table; which bars it misses, if it is of the kind that they are for."""
    outside = float(np.mean((p < 0.1) | (p > 0.9)))
    best = float(np.sort(p * (1 - p))[-round(SHARE * len(p)) :].mean())
    print(f"{name}: {len(p):,} prompts, {outside:.0%} below 0.1 or above 0.9, best possible {best:.4f}")
    for arm, result in arms.items():
        line = f"  {arm:<26}{result['value']:.4f} ± {result['error']:.4f} at {result['responses']:5.2f} responses"
        print(
            line + (f", {result['value'] / arms[BARS[arm][0]]['value']:.4f} of {BARS[arm][0]}" if arm in BARS else "")
        )
    missed = [
        arm
        for arm, (like, most) in BARS.items()
        if arms[arm]["value"] < 0.99 * arms[like]["value"] or arms[arm]["responses"] > most
    ]
    return {"outside": outside, "best": best, **arms, "missed": missed if 0.45 <= outside <= 0.55 else []}


if __name__ == "__main__":
    main()
