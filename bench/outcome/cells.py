"""A cell: a pair of policy and pool under one seed of sampling, with what its arms share.

All arms of a cell start from the same weights, and those that choose from a measurement of the pool share the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.outcome import grpo
from bench.outcome.measuring import Cost, Measured, measure
from bench.outcome.policies import load_policy
from bench.outcome.pools import Prompt, make_pool
from bench.outcome.regimes import Regime


@dataclass
class Cell:
    """What a run starts from. policy: the file of the pair's weights."""

    pair: int
    pool_name: str
    seed: int
    regime: Regime
    policy: Path

    def __post_init__(self) -> None:
        """Load the policy, make the pool."""
        self.start = load_policy(self.policy)
        sizes = self.regime.pool, self.regime.held_out
        self.pool, held_out = make_pool(self.pool_name, *sizes, 1000 + self.pair, self._success)
        self.encoded = [grpo.encode(prompt) for prompt in self.pool]
        self.held_out = [grpo.encode(prompt) for prompt in held_out]

    def _success(self, prompts: Sequence[Prompt]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = grpo.success(self.start, [grpo.encode(prompt) for prompt in prompts])[
            0
        ].numpy()
        return found

    def no_cost(self) -> Cost:
        """Nothing spent yet, counted as the regime counts."""
        return Cost(self.regime.wrong_length)

    @cached_property
    def first(self) -> Measured:
        """The pool before training."""
        return measure(self.start, self.encoded, self.seed, self.no_cost())

    @cached_property
    def start_score(self) -> grpo.Scored:
        """Of the policy before training, on the held-out problems."""
        return grpo.evaluate(self.start, self.held_out)
