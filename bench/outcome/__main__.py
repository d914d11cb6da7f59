"""Does training on a selection gain anything, and does it when selecting is paid for?

A small policy with latent skill and wrong habits is trained with GRPO on prompts that each arm chooses from a pool of
1,000: `clean`, or `noisy` with 20 % wrong reference answers that look learnable and 10 % coins to guess. Arms, fixed
before the first run: the full pool; 100 prompts chosen once: random, random among 0 < p < 1, band, aligned, top,
greedy; chosen again every 30 steps: random, band, aligned, top, greedy; and staged selection. Equal batches of 16
prompts x 8 responses, AdamW 1e-4, gradients clipped at norm 1. Added after the third run of `staged`, as a bound that
nobody reaches: an oracle, which knows right answers and exact probabilities and measures for nothing.

Judged on held-out problems with right answers: the exact probability that a response at temperature 1 is right (one
teacher-forced pass, no noise of sampling), and greedy accuracy. Two comparisons with the full pool: after equal steps;
and when equal numbers of response tokens have been sampled and propagated back, those of selecting included. A pair is
a policy, a pool and held-out problems of its own; policies share their phase of skill (see `policies`). Errors are
standard errors over pairs.

Settings of staged selection were tuned on other pairs, in two rounds; its arm ran three times, the others once. What
was tried in the first round (pairs 100 and 101, made with 800 and 400 habit steps: the noisy pool, one seed, 80 steps,
single runs, so that differences of about 0.01 may be chance) and was not better on both pairs than groups of 8 of which
2 n prompts were completed, by the pass probability at the end:

    the share of agreement, sum_j V_j cos_ij / sum_j V_j |cos_ij|, in the place of the score's alignment
    the probability that a group has both verdicts in the place of p (1 - p)
    batches drawn in proportion to p (1 - p) as observed while training; sketches kept for 4 stages
    three quarters of the measuring in a stage (cheaper, slower at first); a stage every 20 or 40 steps
    worse on both: picks at random among score > 0; a stage every 60 steps; every 15 steps with half the measuring each
    measuring a quarter or a half more: on pair 100 worse, a quarter of the picks were coins. Their gradients are all
    alike (cosine 0.95), so that the side that has a majority by chance agrees with itself
    scores to the power of 2 or 4, or divided by how many others are alike: in a first stage all prompts of score > 0
    are picked, so that the draw decides nothing

Better, on both pools at 60 steps: groups of 4, of which 4 n are completed, ended on average 0.001 higher (clean +0.005
and +0.002, noisy -0.010 and +0.008) at three quarters of the cost. Staged - full, first run (groups of 8): clean -0.001
+- 0.003, noisy +0.005 +- 0.006; at equal compute -0.033, -0.023; cost 45 and 49 %. Second run (groups of 4, 4 n
prompts, sketches kept for two stages): clean +0.000 +- 0.004, noisy +0.011 +- 0.006; at equal compute -0.021 +- 0.001,
-0.009 +- 0.007; cost 33 and 35 %; on the noisy pool a family had 3.0 times its share: coins, which the policy had
settled by the second stage, stayed among the picks through their old sketches and old verdicts.

The second round had pairs 100 to 103, made with 600 habit steps, the noisy pool, 60 steps, up to three seeds.
Differences to the settings of the second run on the same pairs and seeds, +- one standard error over so many runs:

    runs  equal steps       equal compute     most of a family (3.0 to 3.8 x)
    15    -0.003 +- 0.005   +0.007 +- 0.004   1.6 x  gradients of this stage only; prompts without a score fill up
                                                     before those of score < 0; 3 n prompts
       7  +0.003 +- 0.007   +0.012 +- 0.006   1.6 x      of these with, 8 without: training ages a prompt's verdicts
       8  +0.001 +- 0.007   +0.010 +- 0.007   2.5 x      with aging, and sketches kept for two stages
    6     -0.012 +- 0.009   +0.005 +- 0.010   2.0 x  the same with 2 n prompts; with 4 n (2 runs) -0.010, -0.003
    7     -0.006 +- 0.007   +0.006 +- 0.007   1.9 x  the same with 2 n prompts and sketches kept for two stages
    6     +0.002 +- 0.006   +0.009 +- 0.006   2.2 x  score less its standard error over j, sketches kept, 3 n prompts
    6     -0.015 +- 0.010   -0.000 +- 0.011   2.0 x      with 2 n prompts
    6     -0.002 +- 0.006   -0.004 +- 0.003   1.7 x  scores from ridge regression: the direction b that moves all
                                                     alike, fitted without i: V_i u_i . b, cross-validated
    8     -0.009 +- 0.005   -0.001 +- 0.005   1.6 x      with 3 n prompts and gradients of this stage only
    8     -0.017 +- 0.006   -0.000 +- 0.006   2.0 x      with 2 n prompts
    7     -0.032 +- 0.012   -0.015 +- 0.010   3.3 x      with 4 n prompts that answer twice
    4     -0.008 +- 0.007   -0.002 +- 0.008   1.8 x      with 6 n prompts that answer twice
    4     -0.009 +- 0.003   -0.007 +- 0.003   2.3 x      the same, every 15 steps, half the measuring each
    4     -0.022 +- 0.012   -0.017 +- 0.006   1.5 x      4 n, then 3 n, answer twice, 2.5 n and 2 n of them four times
    1     shrinking the mean gradient by its noise, a principal direction at a time: coins stayed a fifth of the picks

The first became the default, with aging. Against the full pool its 21 runs, with aging or without, had +0.010 +- 0.005
at equal steps and -0.004 +- 0.005 at equal compute; two, of one pair and seed, fell 0.05 behind. Runs of the same
setting compared (127): 1 % more wrong answers among the first picks cost 0.0022 by step 30 (correlation -0.58), 1 %
more coins 0.0009. So chance in the first picks decides more than most of these settings. Five mixtures of the above (4
to 8 runs) were no better; picks that repeat in proportion to ridge scores, and only 60 of them, had one run each.

The third run has these defaults: staged - full: clean -0.002 +- 0.003, noisy +0.004 +- 0.008; at equal compute
-0.020 +- 0.001, -0.009 +- 0.006; cost 25 and 26 %; 1.6 times. So they cured concentration and saved a quarter of the
cost, and gained nothing at equal compute. Of the noisy pool's second picks 18 % were wrong in place of 8 % (and 6 %
coins in place of 17 %): old sketches, for all their age, know some of the prompts to leave. Keeping them, tried on the
tuning pairs after the third run, was worth nothing there in the end.

Tried after it on pairs 100 to 103 with its settings, and no better: scores against the mean of those that agree with
it, iterated (6 runs against 6: +0.008 +- 0.007 over the full pool in the place of +0.017 +- 0.006); the 60 best alone
(3 runs, -0.003 and -0.005).

    python -m bench.outcome [FOLDER]        (--quick: small sizes that show that it runs)

Every run's result is a file in FOLDER; a command that was stopped goes on there. Writes outcome.png beside them. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

from bench.measure import finish
from bench.outcome.arms import ARMS, FULL_SIZE, QUICK_SIZE, Size, tuning
from bench.outcome.jobs import Job, collect, in_processes, make, work
from bench.outcome.pools import POOLS
from bench.outcome.table import Results, markdown, row


def main() -> None:
    """Make policies, run what is missing, print tables, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/outcome"))
    parser.add_argument("--quick", action="store_true", help="two pairs, one seed, a third of the pool, 20 steps")
    parser.add_argument("--tuning", action="store_true", help="the pairs on which settings are tuned")
    asked = parser.parse_args()
    size = QUICK_SIZE if asked.quick else FULL_SIZE
    name = "quick" if asked.quick else "full"
    if asked.tuning:
        size, name = tuning(size), f"{name}-tuning"
    folder = asked.folder / name
    same_size(folder, size)
    start = time.perf_counter()
    in_processes(partial(make, asked.folder, size), size.pairs)
    jobs: list[Job] = [(pool, pair, seed) for pair in size.pairs for pool in POOLS for seed in size.seeds]
    in_processes(partial(work, asked.folder, folder, size), jobs)
    report(collect(folder, size), folder, time.perf_counter() - start)


def same_size(folder: Path, size: Size) -> None:
    """Refuse a folder with results of another size."""
    path, wanted = folder / "size.json", json.dumps(size._asdict(), indent=2)
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text() != wanted:
        sys.exit(f"bench.outcome: {folder} holds results of another size (size.json): name another, or delete it")
    path.write_text(wanted)


def report(results: Results, folder: Path, seconds: float) -> None:
    """Print tables, write the figure, end with JSON."""
    from bench.outcome.plot import plot  # matplotlib is not for the workers

    found = {}
    for pool in POOLS:
        rows = {arm: row(results, pool, arm) for arm in ARMS}
        start = next(iter(results[pool, "full"].values()))[0]["curve"][0]["passed"]
        print(f"\n{pool} pool (pair {min(results[pool, 'full'])} starts at {start:.3f})\n{markdown(rows)}")
        found[pool] = {arm: r._asdict() for arm, r in rows.items()}
    plot(results, folder / "outcome.png")
    core_seconds = sum(r["seconds"] for pairs in results.values() for runs in pairs.values() for r in runs)
    print(f"\n{folder / 'outcome.png'}; {seconds:.0f} s, runs {core_seconds:.0f} core seconds")
    finish("outcome", {"pools": found, "seconds": round(seconds)}, "torch", "transformers", "numpy")


if __name__ == "__main__":
    main()
