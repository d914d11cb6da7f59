"""The policies of the bench: the embedded one, misled further, once for every pair.

A pair's policy starts from the weights that ship with the package and sees `HABIT_STEPS` more steps of demonstrations
in which the wrong habits appear, at rates that are jittered for every family, and in which coins are guessed. So the
pairs differ in what they do wrong and how often, but share their phase of skill (20 minutes of training each,
which the bench does not have). This module does no reinforcement learning.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.outcome.pools import coin
from learnalign.demo import train
from learnalign.demo.run import POLICY

RECIPE = replace(train.Recipe(), habit_steps=800, habit_rate=2e-3)
JITTER = 0.7
"""Standard deviation, in log odds, of a family's habit rates around those of the embedded policy."""
COINS = 0.05
"""Share of the demonstrations that guess a coin."""


def make_policy(pair: int, path: Path, steps: int = RECIPE.habit_steps) -> None:
    """Train the policy of a pair and write its weights to `path`, unless they are there."""
    if path.exists():
        return
    torch.manual_seed(pair)
    rng = Random(pair)
    rates = jittered(rng)

    def show(count: int) -> list[tuple[str, str]]:
        coins = sum(rng.random() < COINS for _ in range(count))
        tossed = [coin(rng) for _ in range(coins)]
        return train.demonstrate(count - coins, rng, True, rates) + [(c.text, c.answer) for c in tossed]

    model = embedded()
    train.fit(model, AutoTokenizer.from_pretrained(POLICY), replace(RECIPE, habit_steps=steps), show, habits=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(model.state_dict(), partial)
    partial.rename(path)


def embedded() -> Any:
    """The policy that ships with the package."""
    return AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)


def load_policy(path: Path) -> Any:
    """A pair's policy, as `make_policy` wrote it."""
    model = embedded()
    model.load_state_dict(load_file(path))
    return model.eval()


def jittered(rng: Random) -> dict[str, tuple[float, ...]]:
    """Habit rates by family and level: a family's log odds are shifted by one normal number; 0 stays 0."""
    rates = {}
    for family, levels in train.HABIT_RATE.items():
        odds = 2.718281828 ** rng.gauss(0, JITTER)
        rates[family] = tuple(rate * odds / (1 - rate + rate * odds) for rate in levels)
    return rates
