"""The pool as it comes; and dynamic sampling, which goes on until a batch has groups enough with a signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bench.outcome import grpo
from bench.outcome.choosers import Chooser
from bench.outcome.measuring import Integers

MOST_TRIES = 10
"""Batches that dynamic sampling may take for a step (verl's recipes of DAPO: 10)."""
Sample = Callable[[Integers], Sequence[grpo.Group]]


class Passes(Chooser):
    """Endless passes over some prompts, each in an order of its own; what does not fill a batch goes to the next."""

    def __init__(self, prompts: Integers, rng: np.random.Generator) -> None:
        self.prompts, self.rng = prompts, rng
        self._left = prompts[:0]

    def next(self, n: int) -> Integers:
        """See `Chooser`."""
        while len(self._left) < n:
            self._left = np.concatenate([self._left, self.rng.permutation(self.prompts)])
        batch, self._left = self._left[:n], self._left[n:]
        return batch


class Batch(NamedTuple):
    """What a step trains on, and all that was sampled for it."""

    prompts: Integers
    groups: Sequence[grpo.Group]
    sampled: Sequence[grpo.Group]


def one_batch(chooser: Chooser, n: int, sample: Sample) -> Batch:
    """Train on whatever was sampled."""
    prompts = chooser.next(n)
    groups = sample(prompts)
    chooser.observe(prompts, groups)
    return Batch(prompts, groups, groups)


def dynamic_batch(chooser: Chooser, n: int, sample: Sample) -> Batch:
    """DAPO (arXiv 2503.14476): batches are sampled and groups of one verdict dropped, until n have both.

    What is more than n is dropped too. After `MOST_TRIES` batches the step makes do with what there is.
    """
    prompts: list[int] = []
    kept: list[grpo.Group] = []
    sampled: list[grpo.Group] = []
    for _ in range(MOST_TRIES):
        found = one_batch(chooser, n, sample)
        sampled += found.groups
        for k, group in zip(found.prompts.tolist(), found.groups, strict=True):
            if group.mixed:
                prompts.append(k)
                kept.append(group)
        if len(kept) >= n:
            break
    return Batch(np.array(prompts[:n], np.int64), kept[:n], sampled)
