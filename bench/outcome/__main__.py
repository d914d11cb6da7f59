"""Does training on a selection gain anything, and does it when selecting is paid for?

A small policy with latent skill and wrong habits is trained with GRPO on prompts that each arm chooses from a pool:
`clean`, `noisy` (20 % wrong reference answers that look learnable, 10 % coins to guess) or `hard` (two thirds have
p < 0.001). Regimes and arms were fixed before the first run (see `regimes`). Equal batches of 16 prompts x 8 responses,
AdamW 1e-4, gradients clipped at norm 1. Arms:

    full              passes over the whole pool
    dynamic           DAPO's dynamic sampling: batches until 16 groups have both verdicts, at most 10 batches a step
    mopps             MoPPS: a discounted posterior of p, Thompson sampling, the prompts nearest to p = 1/2
    skipping          GRESO's filter: passes that leave out, more and more often, what stays solved or hopeless
    band, random_positive, top, random, learnable, greedy    a tenth of the pool, measured and chosen once by the
                      package's strategies (`learnable`: random among 0 < p < 1); with -again, every 30 or 60 steps
    online            the package's online selection, with gradients of the training's own responses
    online-verdicts   the same without any gradient
    oracle            a bound that nobody reaches: draws right answers by their exact probability to give both verdicts

Judged on held-out problems with right answers: the exact probability that a response at temperature 1 is right (one
teacher-forced pass, no noise of sampling), and greedy accuracy. A cost is tokens sampled + r times tokens propagated
back, those of selecting and those of groups that were dropped included; groups without a signal are not propagated
back. Compared with the full pool: after equal steps; when as much is spent (at its end, where an arm has spent less);
and by what it takes, in steps and in cost, to come to the full pool's final value. A pair is a policy, a pool and
held-out problems of its own; policies share their phase of skill (see `policies`). Errors are standard errors over
pairs, seeds averaged within a pair. An oracle that is not ahead on a noisy or a hard pool would say that the bench
cannot see a gain: a line says whether it is.

Settings are tuned on other pairs (`--tuning`: 100 to 103) than those reported. What such runs of 60 steps, about 250 on
clean and noisy pools, said of online selection (differences to the full pool at equal steps and, r = 1, at its cost):

    +0.004, -0.009 noisy    an update samples prompts of the pool to compare gradients: a quarter of training's tokens
    +0.013, +0.008          nothing is sampled, gradients of one right and one wrong response of training's own groups
    +0.014, +0.003          the same of 4 responses of a group: no better, and more than twice as dear
    +0.030, +0.014          the first design, had there been no wrong answers among its picks

Other scores, draws, kernels of near neighbors, more or fewer responses, and updates every 15 to 60 steps were all
within the error of the first line. What stays unsolved after two or three visits is more and more often wrong.

    python -m bench.outcome [FOLDER] [--regime NAME ...] [--arms NAME ...]   (--quick: small sizes, to see that it runs)

Every run's result is a file in FOLDER; a command that was stopped goes on there. Writes a figure for every regime
beside them. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench.measure import finish
from bench.outcome.arms import ARMS
from bench.outcome.jobs import collect, in_processes, jobs, make, regime_folder, work
from bench.outcome.measures import Results
from bench.outcome.regimes import FULL, REGIMES, Scale, quick, tuning
from bench.outcome.table import gain, markdown, row


def main() -> None:
    """Make policies, run what is missing, print tables, plot."""
    folder, scale = asked()
    for name in scale.regimes:
        same_size(folder, scale, name)
    start = time.perf_counter()
    in_processes(partial(make, folder, scale.habit_steps), scale.pairs)
    in_processes(partial(work, folder, scale), jobs(scale))
    found = {name: report(collect(folder, scale, name), name, folder, scale) for name in scale.regimes}
    seconds = round(time.perf_counter() - start)
    print(f"\n{seconds} s")
    finish("outcome", {"regimes": found, "seconds": seconds}, "torch", "transformers", "numpy")


def asked() -> tuple[Path, Scale]:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/outcome"))
    parser.add_argument("--regime", nargs="+", choices=tuple(REGIMES), default=tuple(REGIMES), help="all, if not said")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), help="these, and the full pool; else a regime's own")
    parser.add_argument("--pairs", type=int, default=4, help="the first so many of the four")
    parser.add_argument("--quick", action="store_true", help="two pairs, one seed, small pools, few steps")
    parser.add_argument("--tuning", action="store_true", help="the pairs on which settings are tuned")
    found = parser.parse_args()
    scale = quick() if found.quick else FULL
    if found.tuning:
        scale = tuning(scale)
    regimes = {name: scale.regimes[name] for name in found.regime}
    if found.arms:
        arms = tuple(dict.fromkeys(("full", *found.arms)))
        regimes = {name: regime._replace(arms=arms) for name, regime in regimes.items()}
    return found.folder, scale._replace(regimes=regimes, pairs=scale.pairs[: found.pairs])


def same_size(folder: Path, scale: Scale, name: str) -> None:
    """Refuse a folder with results of another size; arms, pairs and seeds may be added."""
    at = regime_folder(folder, scale, name)
    path = at / "size.json"
    size = {**scale.regimes[name]._asdict(), "habit_steps": scale.habit_steps}
    del size["arms"]
    wanted = json.dumps(size, indent=2)
    at.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text() != wanted:
        sys.exit(f"bench.outcome: {at} holds results of another size (size.json): name another folder, or delete it")
    path.write_text(wanted)


def report(results: Results, name: str, folder: Path, scale: Scale) -> dict[str, Any]:
    """Print a regime's tables and write its figure. What the last line says of it."""
    from bench.outcome.plot import plot  # matplotlib is not for the workers

    regime, found, rows = scale.regimes[name], {}, {}
    for pool in regime.pools:
        rows = {arm: row(results, pool, arm) for arm in regime.arms}
        start = next(iter(results[pool, "full"].values()))[0]["curve"][0]["passed"]
        print(f"\n{name}, {pool} pool (pair {scale.pairs[0]} starts at {start:.3f})\n{markdown(rows)}")
        found[pool] = {arm: r._asdict() for arm, r in rows.items()}
    said: dict[str, Any] = {"pools": found}
    if "oracle" in rows:
        sees = gain(rows, regime.pools[-1])
        print(f"\n{sees.text()}")
        said["sees_a_gain"] = sees._asdict()
    path = regime_folder(folder, scale, name) / f"{name}.png"
    plot(results, name, path)
    core_seconds = sum(r["seconds"] for pairs in results.values() for runs in pairs.values() for r in runs)
    print(f"{path}; runs {core_seconds:.0f} core seconds")
    return said


if __name__ == "__main__":
    main()
