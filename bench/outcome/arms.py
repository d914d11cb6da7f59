"""The arms, and one training run of an arm.

An arm says which prompts a run trains on: the whole pool, or N of it by a strategy, chosen once or again every 30 steps
from a measurement of the whole pool at that time; or a online selection, which learns from the training itself. All
arms of a cell (pair, pool, seed) start from the same weights, and those that choose from a measurement share the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

import learnalign
from bench.outcome import grpo
from bench.outcome.measuring import Cost, Integers, Measured, Trained, measure
from bench.outcome.policies import load_policy
from bench.outcome.pools import Prompt, make_pool
from learnalign.config import OnlineConfig
from learnalign.online import OnlineSelector
from learnalign.online.pairs import Pairs


class Size(NamedTuple):
    """How large the bench is."""

    pairs: tuple[int, ...]
    """Seeds of policies, pools and held-out problems."""
    seeds: tuple[int, ...]
    pool: int = 1000
    picks: int = 100
    held_out: int = 560
    steps: int = 60
    every: int = 30
    """Steps between two selections of an arm that selects again; of the online one, a pass over the picks."""
    evaluated: int = 10
    """Steps between two evaluations."""
    batch: int = 16
    """Prompts of a step."""
    habit_steps: int = 600


class Arm(NamedTuple):
    """How a run chooses its prompts."""

    strategy: str
    again: bool = False


AGAIN = ("random", "band", "random_positive", "top", "greedy")
ARMS: dict[str, Arm] = {
    **{name: Arm(name) for name in ("full", "random", "learnable", "band", "random_positive", "top", "greedy")},
    **{f"{name}, again": Arm(name, again=True) for name in AGAIN},
    "online": Arm("online", again=True),
    "oracle": Arm("oracle", again=True),
}
"""The oracle is none that anyone has: a bound, for what knowing the right answers would be worth."""
UNMEASURED, SAMPLED_ONLY = ("full", "random"), ("learnable", "band")
"""Strategies that measure nothing, and those that need success rates only."""
STAGED = OnlineConfig()
"""The package's defaults. What was tried beside them is told in `bench.outcome.__main__`."""
SECOND_DRAW = 10_000
"""Added to a cell's seed for the draw that overlaps are measured with."""


class Choice(NamedTuple):
    """One selection of a run."""

    step: int
    picks: Integers


@dataclass
class Cell:
    """A pair of policy and pool under one seed of sampling, with what its arms share."""

    pair: int
    pool_name: str
    seed: int
    size: Size
    policy: Path

    def __post_init__(self) -> None:
        """Make the pool, load the policy."""
        self.pool, held_out = make_pool(self.pool_name, self.size.pool, self.size.held_out, 1000 + self.pair)
        self.encoded = [grpo.encode(prompt) for prompt in self.pool]
        self.held_out = [grpo.encode(prompt) for prompt in held_out]
        self.start = load_policy(self.policy)

    @cached_property
    def first(self) -> Measured:
        """The pool before training."""
        return measure(self.start, self.encoded, self.seed)

    @cached_property
    def second(self) -> Measured:
        """The same with other responses: how much of a selection is chance?"""
        return measure(self.start, self.encoded, self.seed + SECOND_DRAW)

    @cached_property
    def start_score(self) -> grpo.Scored:
        """Of the policy before training, on the held-out problems."""
        return grpo.evaluate(self.start, self.held_out)


def pick(strategy: str, found: Measured, n: int, seed: int) -> Integers:
    """n prompts by a strategy of the package, or `learnable`: random ones of 0 < p < 1."""
    if strategy == "learnable":
        rate = found.success_rate
        order = np.random.default_rng(seed).permutation(len(rate))
        inside = (rate[order] > 0) & (rate[order] < 1)
        return np.concatenate([order[inside], order[~inside]])[:n]
    return learnalign.select(found.phi, found.success_rate, n, strategy=strategy, seed=seed).indices


class Chooser:
    """Chooses before the steps at which an arm may choose, and counts what that costs."""

    def __init__(self, arm: Arm, cell: Cell, seed: int) -> None:
        self.arm, self.cell, self.seed, self.cost = arm, cell, seed, Cost()
        self.pairs = Pairs()
        ids = [str(k) for k in range(len(cell.pool))]
        self.selector = OnlineSelector(ids, cell.size.picks, settings=STAGED, seed=seed)

    def choose(self, model: Any, update: int) -> Integers:
        """Picks for the policy as it is at this update, 0 for the first."""
        strategy, cell = self.arm.strategy, self.cell
        if strategy == "full":
            return np.arange(len(cell.pool))
        if strategy == "online":
            picks = self.selector.update(Trained(model, cell.encoded, self.pairs, self.cost))
            self.pairs.clear()
            return np.array([int(k) for k in picks])
        n, seed = cell.size.picks, self.seed + 1000 * update
        if strategy == "oracle":
            return _know(cell, model, n, seed)
        if strategy == "random":
            return np.random.default_rng(seed).permutation(len(cell.pool))[:n]
        found = self._measured(model, update)
        self.cost.sampled += found.cost.sampled
        self.cost.back += 0 if strategy in SAMPLED_ONLY else found.cost.back
        return pick(strategy, found, n, seed)

    def _measured(self, model: Any, update: int) -> Measured:
        if update == 0:
            return self.cell.first if self.seed == self.cell.seed else self.cell.second
        gradients = self.arm.strategy not in SAMPLED_ONLY
        return measure(model, self.cell.encoded, self.seed + 1000 * update, gradients)

    def observe(self, picks: Integers, groups: Sequence[grpo.Group]) -> None:
        """What training itself sampled."""
        if self.arm.strategy == "online":
            ids = [str(k) for k, group in zip(picks, groups, strict=True) for _ in group.rewards]
            self.selector.observe(ids, [reward for group in groups for reward in group.rewards])
            for k, group in zip(picks.tolist(), groups, strict=True):
                self.pairs.observe(k, group.responses, [reward == 1.0 for reward in group.rewards])


def run(name: str, cell: Cell) -> dict[str, Any]:
    """Train one arm; what the table and the plot need, as JSON would hold it."""
    arm, size = ARMS[name], cell.size
    model = deepcopy(cell.start)
    optimizer = grpo.make_optimizer(model)
    generator = torch.Generator().manual_seed(cell.seed)
    chooser, training = Chooser(arm, cell, cell.seed), Cost()
    curve, chosen, mixed = [_point(0, cell.start_score, training, Cost())], [], []
    batches: Iterator[Integers] = iter(())
    overlap = None
    every = size.picks // size.batch if arm.strategy == "online" else size.every  # a pass over the picks
    for step in range(size.steps):
        if step == 0 or (arm.again and step % every == 0):
            picks = chooser.choose(model, step // every)
            batches = _batches(picks, size.batch, np.random.default_rng([cell.seed, step]))
            if step == 0 and arm.strategy != "full":  # would other responses, and other chance, choose the same?
                overlap = float(np.isin(picks, Chooser(arm, cell, cell.seed + SECOND_DRAW).choose(model, 0)).mean())
            if arm.strategy != "full":
                chosen.append({"step": step, **_describe(picks, cell.pool, grpo.success(model, cell.encoded)[0])})
        batch = next(batches)
        groups = grpo.rollout(model, [cell.encoded[k] for k in batch], grpo.RESPONSES, generator)
        chooser.observe(batch, groups)
        grpo.train_step(model, optimizer, groups)
        training.add(groups, back=False)
        training.add(groups, back=True)
        mixed.append(float(np.mean([group.mixed for group in groups])))
        if (step + 1) % size.evaluated == 0 or step + 1 == size.steps:
            curve.append(_point(step + 1, grpo.evaluate(model, cell.held_out), training, chooser.cost))
    return {"curve": curve, "mixed": float(np.mean(mixed)), "choices": chosen, "overlap": overlap}


def _know(cell: Cell, model: Any, n: int, seed: int) -> Integers:
    """n prompts with right answers, drawn by their exact probability to give a group with both verdicts."""
    learnable = _learnable(grpo.success(model, cell.encoded)[0])
    learnable *= [prompt.right and prompt.family != "coin" for prompt in cell.pool]
    return np.random.default_rng(seed).choice(len(learnable), n, replace=False, p=learnable / learnable.sum())


def _learnable(p: torch.Tensor) -> npt.NDArray[np.float64]:
    """[N] probability that a group of training's size has both verdicts."""
    both: npt.NDArray[np.float64] = (1 - p**grpo.RESPONSES - (1 - p) ** grpo.RESPONSES).double().numpy()
    return both


def _batches(picks: Integers, size: int, rng: np.random.Generator) -> Iterator[Integers]:
    """Endless passes over the picks, each in an order of its own; what does not fill a batch goes to the next."""
    left = picks[:0]
    while True:
        while len(left) < size:
            left = np.concatenate([left, rng.permutation(picks)])
        yield left[:size]
        left = left[size:]


def _point(step: int, score: grpo.Scored, training: Cost, selecting: Cost) -> dict[str, Any]:
    return {"step": step, **score._asdict(), "training": asdict(training), "selecting": asdict(selecting)}


def _describe(picks: Integers, pool: Sequence[Prompt], p: torch.Tensor) -> dict[str, Any]:
    """Of some picks: wrong answers, coins, families; and the most that a family has above its share.

    A family's share of what is learnable: of the prompts, each by its exact probability to give a group of 8 with both
    verdicts. Families with less than 2 % of it are left out of the comparison.
    """
    families = np.array([prompt.family for prompt in pool])
    learnable = _learnable(p)
    counts = {family: float(np.mean(families[picks] == family)) for family in sorted(set(families))}
    shares = {family: float(learnable[families == family].sum() / learnable.sum()) for family in counts}
    return {
        "wrong": float(np.mean([not pool[k].right for k in picks])),
        "coins": counts.get("coin", 0.0),
        "families": counts,
        "concentration": max(counts[f] / shares[f] for f in counts if shares[f] >= 0.02),
    }


FULL_SIZE = Size(pairs=(0, 1, 2, 3), seeds=(0, 1))
QUICK_SIZE = Size(
    pairs=(0, 1),
    seeds=(0,),
    pool=300,
    picks=30,
    held_out=140,
    steps=20,
    every=10,
    evaluated=5,
    habit_steps=150,
)


def tuning(size: Size) -> Size:
    """The same on other pairs, of which no figure is reported."""
    return size._replace(pairs=tuple(100 + pair for pair in size.pairs))
