"""When each prompt's turn comes: stride scheduling (Waldspurger and Weihl, 1995) over a pool.

Every prompt has a weight, visits a pass, and a due time; time is counted in passes. The prompts of smallest due time
are taken, of equals the lower row, and a taken prompt is due again at

    due = last + jitter / weight,    last = max(now, due before),    jitter uniform in [0.9, 1.1),

`now` being the last of the prompt taken before it. At first due times are random phases, a permutation of 0, 0.9 / N,
0.9 * 2 / N, ...: of equal weights, none comes again before all have come. Jitter composes batches anew in every pass.
It comes from a counter-based generator and is numbered by how many prompts were taken so far, so that seed and weights
decide everything. A new weight moves the due time, from the same `last` and jitter.

A heap holds one valid entry a prompt, not later than its due time; entries that are too early are put back when they
surface, and those that an earlier one replaced are dropped. So a call costs O(n log N). This module knows no verdicts.
"""

from __future__ import annotations

import heapq

import numpy as np

from learnalign.online.history import Doubles
from learnalign.scoring.rows import Integers

JITTER = 0.1
PHASES, JITTERS = 0, 1
"""Streams of the generator."""


class Schedule:
    """Whose turn it is among N prompts, that a pool of any size answers in O(log N)."""

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
        """Make due times and the heap anew, after `last`, `jitter` and `weight` were set. O(N)."""
        self._due = self.last + self.jitter / self.weight
        self._entry = self._due.copy()
        """[N] time of the prompt's valid entry in the heap, infinite where it has none."""
        self._heap = list(zip(self._due.tolist(), range(len(self._due)), strict=True))
        heapq.heapify(self._heap)
        self._offered: list[int] = []

    def first(self, n: int) -> Integers:
        """[n] the prompts of smallest due time, in this order; n <= N. Nothing changes before they are taken."""
        self._push(np.array(self._offered, np.int64))  # of a call after which nothing was taken
        self._offered = []
        for _ in range(n):
            self._offered.append(self._pop())
        return np.array(self._offered, np.int64)

    def take(self, prompts: Integers) -> None:
        """Take these prompts, one or more, all different, in this order, whoever's turn it is."""
        last = np.maximum.accumulate(np.maximum(self._due[prompts], self.now))
        jitter = 1.0 - JITTER + 2.0 * JITTER * uniform(self.seed, JITTERS, self.taken, len(prompts))
        self.last[prompts], self.jitter[prompts] = last, jitter
        self.now, self.taken = float(last[-1]), self.taken + len(prompts)
        self._due[prompts] = last + jitter / self.weight[prompts]
        self._push(prompts)
        self._offered = [prompt for prompt in self._offered if self._entry[prompt] == np.inf]

    def reweigh(self, prompts: Integers, weight: Doubles) -> None:
        """Give these prompts, all different, these visits a pass."""
        self.weight[prompts] = weight
        self._due[prompts] = self.last[prompts] + self.jitter[prompts] / weight
        self._push(prompts[self._due[prompts] < self._entry[prompts]])

    def _pop(self) -> int:
        while True:
            time, prompt = heapq.heappop(self._heap)
            if time != self._entry[prompt]:
                continue
            if time == self._due[prompt]:
                self._entry[prompt] = np.inf
                return prompt
            self._push(np.array([prompt]))

    def _push(self, prompts: Integers) -> None:
        self._entry[prompts] = self._due[prompts]
        for entry in zip(self._due[prompts].tolist(), prompts.tolist(), strict=True):
            heapq.heappush(self._heap, entry)


def uniform(seed: int, stream: int, first: int, size: int) -> Doubles:
    """[size] numbers in [0, 1) of a stream, from number `first` on, however they are asked for (Philox, 4x64)."""
    bits = np.random.Philox(key=np.array([seed, stream], np.uint64))
    bits.advance(first // 4)
    skipped = first % 4
    drawn = bits.random_raw(skipped + size)[skipped:]
    numbers: Doubles = (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers
