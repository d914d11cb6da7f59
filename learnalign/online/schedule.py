"""When each prompt's turn comes: stride scheduling (Waldspurger and Weihl, 1995) over a pool.

Every prompt has a weight, visits a pass, and a due time; time is counted in passes. The prompts of smallest due time
are taken, of equals the lower row, and a taken prompt is due again at

    due = last + jitter / weight,    last = max(now, due before),    jitter uniform in [0.9, 1.1),

`now` being the last of the prompt taken before it. At first due times are random phases, a permutation of 0, 0.9 / N,
0.9 * 2 / N, ...: of equal weights, none comes again before all have come. Jitter composes batches anew in every pass.
It comes from a counter-based generator and is numbered by how many prompts were taken so far, so that seed and weights
decide everything. A new weight moves the due time, from the same `last` and jitter.

A call goes over all due times once, O(N): at a million prompts that takes less time than a heap, whose entries lie all
over the memory. It compares them with a bound from a sample, which is much quicker than to part them by rank, and sorts
the few that are left. This module knows no verdicts.
"""

from __future__ import annotations

import numpy as np

from learnalign.online.history import Doubles
from learnalign.scoring.rows import Integers

JITTER = 0.1
SAMPLE = 16_384
"""About so many due times are looked at to find a bound."""
PHASES, JITTERS = 0, 1
"""Streams of the generator."""


class Schedule:
    """Whose turn it is among N prompts."""

    def __init__(self, size: int, seed: int) -> None:
        self.seed, self.now, self.taken = seed, 0.0, 0
        """Time: of the last prompt taken. Taken: how many so far."""
        order = np.argsort(uniform(seed, PHASES, 0, size), kind="stable")
        self.last: Doubles = np.empty(size)
        """[N] when a prompt was taken last."""
        self.last[order] = (1.0 - JITTER) * np.arange(size) / size - 1.0
        self.jitter: Doubles = np.ones(size)
        self.weight: Doubles = np.ones(size)
        self.index()

    def index(self) -> None:
        """Make due times anew, after `last`, `jitter` and `weight` were set."""
        self._due = self.last + self.jitter / self.weight

    def first(self, n: int) -> Integers:
        """[n] the prompts of smallest due time, in this order; n <= N. Nothing changes before they are taken."""
        near = np.flatnonzero(self._due <= self._bound(n))
        if len(near) < n:
            near = np.flatnonzero(self._due <= np.partition(self._due, n - 1)[n - 1])
        found: Integers = near[np.argsort(self._due[near], kind="stable")][:n]
        return found

    def _bound(self, n: int) -> float:
        """A due time that n prompts or somewhat more most likely do not exceed, from a sample of all."""
        sample = self._due[:: max(1, len(self._due) // SAMPLE)]
        expected = n / len(self._due) * len(sample)
        rank = min(int(expected + 4.0 * np.sqrt(expected)) + 8, len(sample) - 1)
        return float(np.partition(sample, rank)[rank])

    def take(self, prompts: Integers) -> None:
        """Take these prompts, one or more, all different, in this order, whoever's turn it is."""
        last = np.maximum.accumulate(np.maximum(self._due[prompts], self.now))
        jitter = 1.0 - JITTER + 2.0 * JITTER * uniform(self.seed, JITTERS, self.taken, len(prompts))
        self.last[prompts], self.jitter[prompts] = last, jitter
        self.now, self.taken = float(last[-1]), self.taken + len(prompts)
        self._due[prompts] = last + jitter / self.weight[prompts]

    def reweigh(self, prompts: Integers, weight: Doubles) -> None:
        """Give these prompts, all different, these visits a pass."""
        self.weight[prompts] = weight
        self._due[prompts] = self.last[prompts] + self.jitter[prompts] / weight


def uniform(seed: int, stream: int, first: int, size: int) -> Doubles:
    """[size] numbers in [0, 1) of a stream, from number `first` on, however they are asked for (Philox, 4x64)."""
    bits = np.random.Philox(key=np.array([seed, stream], np.uint64))
    bits.advance(first // 4)
    skipped = first % 4
    drawn = bits.random_raw(skipped + size)[skipped:]
    numbers: Doubles = (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers
