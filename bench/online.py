"""What a call of `OnlineSelector` costs in a pool of a million prompts, beside the same rule in O(N) a call.

    python -m bench.online [--prompts 1000000] [--calls 300] [--quick]

A call of `next` takes 512 prompts, a call of `observe` tells 8 responses of each. Beside them:

    floor    looking up the ids of the same responses, which any selector by id must
    plain    the rule as it is written down, in NumPy: the smallest of N due times at every call, sums over the pool

and both must pick the same prompts in every call. Median, 99th percentile and longest of calls in milliseconds, memory
in MB; the last line is JSON. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from bench.measure import kernel_bytes
from learnalign.config import OnlineConfig
from learnalign.online import OnlineSelector
from learnalign.online.history import Doubles
from learnalign.online.schedule import JITTER, JITTERS, PHASES, uniform
from learnalign.online.weights import Evidence, weights
from learnalign.scoring.learnability import prior_mean
from learnalign.scoring.rows import Integers

PICKS, GROUP = 512, 8


class Plain:
    """The rule of `learnalign.online` over positions, in O(N) a call."""

    def __init__(self, size: int, settings: OnlineConfig, seed: int = 0) -> None:
        self.settings, self.seed = settings, seed
        self.last = (1.0 - JITTER) * np.argsort(np.argsort(uniform(seed, PHASES, 0, size))) / size - 1.0
        self.jitter, self.weight = np.ones(size), np.ones(size)
        self.correct, self.responses, self.visits = np.zeros(size), np.zeros(size), np.zeros(size, np.int64)
        self.now, self.taken = 0.0, 0

    def next(self, n: int) -> list[int]:
        """The n prompts of smallest due time."""
        due = self.last + self.jitter / self.weight
        near = np.flatnonzero(due <= np.partition(due, n - 1)[n - 1])
        prompts = near[np.lexsort((near, due[near]))][:n]
        for prompt, number in zip(prompts, uniform(self.seed, JITTERS, self.taken, n), strict=True):
            self.now = max(self.now, float(due[prompt]))
            self.last[prompt] = self.now
            self.jitter[prompt] = 1.0 - JITTER + 2.0 * JITTER * number
        self.taken += n
        return [int(prompt) for prompt in prompts]

    def observe(self, prompts: Integers, correct: Doubles, responses: Doubles) -> None:
        """Of prompts[k], all different, so many responses, of which so many are correct."""
        self.correct[prompts] = self.correct[prompts] * self.settings.decay + correct
        self.responses[prompts] = self.responses[prompts] * self.settings.decay + responses
        self.visits[prompts] += 1
        nothing = np.zeros(len(prompts), np.int64)
        known = Evidence(
            self.correct[prompts],
            self.responses[prompts],
            self.visits[prompts],
            np.zeros(len(prompts)),
            nothing,
            prior_mean(self.responses, self.correct),
        )
        self.weight[prompts] = weights(known, 0.0, self.settings)


class Times:
    """Milliseconds of calls by what was called."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    def run(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call it and count its time."""
        start = perf_counter()
        result = call(*arguments)
        self.of.setdefault(name, []).append(1000 * (perf_counter() - start))
        return result

    def table(self) -> dict[str, list[float]]:
        """Median, 99th percentile and longest of every call."""
        return {name: [round(float(np.percentile(t, q)), 2) for q in (50, 99, 100)] for name, t in self.of.items()}


def compare(size: int, calls: int, directory: str | None = None) -> Times:
    """Run both over `calls` steps of a training; raises `AssertionError` where picks differ."""
    ids, settings, times, rng = [f"prompt-{k}" for k in range(size)], OnlineConfig(), Times(), np.random.default_rng(0)
    place = {prompt_id: k for k, prompt_id in enumerate(ids)}
    rate = rng.random(size) * (rng.random(size) < 0.6)
    ours, plain = OnlineSelector(ids, directory=directory), Plain(size, settings)
    for _ in range(calls):
        picks = times.run("next", ours.next, PICKS)
        assert picks == [ids[k] for k in times.run("next, plain", plain.next, PICKS)], "picks differ"
        named = [prompt_id for prompt_id in picks for _ in range(GROUP)]
        prompts = np.array(times.run("look up ids (floor)", _look_up, place, named))[::GROUP]
        rewards = (rng.random((PICKS, GROUP)) < rate[prompts, None]).astype(np.float64)
        times.run("observe", ours.observe, named, rewards.ravel().tolist())
        times.run("observe, plain", plain.observe, prompts, rewards.sum(axis=1), np.full(PICKS, float(GROUP)))
    return times


def _look_up(place: dict[str, int], named: list[str]) -> list[int]:
    return [place[str(prompt_id)] for prompt_id in named]


def memory(size: int) -> float:
    """MB that a selector takes, ids in a dictionary included; the list of ids is the caller's."""
    ids = [f"prompt-{k}" for k in range(size)]
    before = kernel_bytes("VmRSS")
    selector = OnlineSelector(ids)
    return (kernel_bytes("VmRSS") - before) / 1e6 if len(selector.ids) == size else 0.0


def main(arguments: list[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="a pool of 100,000, 50 calls")
    asked = parser.parse_args(arguments)
    size, calls = (100_000, 50) if asked.quick else (asked.prompts, asked.calls)
    used = memory(size)
    found = compare(size, calls).table()
    with tempfile.TemporaryDirectory() as directory:
        kept = compare(size, calls, directory).table()
    found |= {f"{name}, on the disk": kept[name] for name in ("next", "observe")}
    print(f"pool of {size:,}, {calls} calls of {PICKS} prompts x {GROUP} responses; {os.cpu_count()} CPUs, one used")
    print(f"{'ms a call':28}{'median':>9}{'99 %':>9}{'longest':>9}")
    for name, (median, late, longest) in sorted(found.items()):
        print(f"{name:28}{median:9.2f}{late:9.2f}{longest:9.2f}")
    print(f"memory of a selector: {used:,.0f} MB")
    print(json.dumps({"prompts": size, "calls": calls, "ms": found, "memory_mb": round(used)}))


if __name__ == "__main__":
    main(sys.argv[1:])
