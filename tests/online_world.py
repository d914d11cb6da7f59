"""A made-up pool for tests of online selection: success rates and gradients that are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from learnalign.online import OnlineSelector
from learnalign.online.history import Doubles

N, D, BATCH, GROUP = 400, 64, 16, 8
IDS = [f"p{k}" for k in range(N)]


class World:
    """Prompts with known success rates and gradients; training on them follows from (seed, step) alone."""

    def __init__(self, p: Doubles, gradients: Doubles) -> None:
        self.p, self.gradients = p, gradients
        self.mixed: set[int] = set()
        self.asked: list[int] = []

    def train(self, selector: OnlineSelector, step: int, measuring: bool = False) -> list[str]:
        """A step of training on the next batch."""
        rng, picks = np.random.default_rng(step), selector.next(BATCH)
        prompts = [selector.ids.index(prompt_id) for prompt_id in picks]
        rewards = rng.random((BATCH, GROUP)) < self.p[prompts, None]
        selector.observe([i for i in picks for _ in range(GROUP)], rewards.astype(float).ravel().tolist(), step)
        self.mixed |= {k for k, group in zip(prompts, rewards, strict=True) if 0 < group.sum() < GROUP}
        if measuring:
            selector.measure(self)
            self.mixed.clear()
        return picks

    def sketch(self, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked = prompts.tolist()
        found = np.array([k for k in self.asked if k in self.mixed], np.int64)
        return found, self.gradients[found]


class Killed(World):
    def sketch(self, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise KeyboardInterrupt


def made(agreeing: float = 0.7) -> World:
    """Half of the prompts are hopeless; the gradients of most others have a direction in common, the rest oppose it."""
    rng = np.random.default_rng(0)
    p = np.where(np.arange(N) % 2, 0.3 + 0.4 * rng.random(N), 0.0)
    sign = np.where(rng.random(N) < agreeing, 1.0, -1.0)
    return World(p, rng.standard_normal((N, D)) + 0.8 * sign[:, None])


def learned(world: World, steps: int, *, measuring: bool = False, **options: Any) -> OnlineSelector:
    selector = OnlineSelector(IDS, **options)
    for step in range(steps):
        world.train(selector, step, measuring)
    return selector
