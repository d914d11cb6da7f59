"""The regimes: how long a run trains, on how many prompts, and which arms run in it. Fixed before the first run.

    short   60 steps, about one pass of a pool of 1,000
    long    300 steps, about five passes of a pool of 1,000
    large   300 steps, one pass of a pool of 4,800
    hard    300 steps, a pool of 1,000 in which two thirds are hopeless for the start policy (p < 0.001), right answers

In `hard` a token of a wrong response counts `WRONG_LENGTH` times. Reasoning models write several times as much where
they fail as where they succeed; responses here are a few characters either way, so it is the accounting that says so,
of sampling and of propagating back alike, for all arms. This module runs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

WRONG_LENGTH = 4
MEASURED_EVERY = 30
"""Steps between two measurements of our arm: about half a pass of a pool of 1,000."""


class Regime(NamedTuple):
    """How large the runs of a regime are."""

    pools: tuple[str, ...]
    """See `pools`."""
    pool: int
    """Prompts."""
    steps: int
    picks: int
    """Prompts chosen by an arm that chooses from a measurement of the pool."""
    every: int
    """Steps between two choices of an arm that measures the pool again."""
    evaluated: int
    """Steps between two evaluations."""
    arms: tuple[str, ...]
    """Names, see `arms`."""
    wrong_length: int = 1
    """How often a token of a wrong response counts."""
    measured: int = MEASURED_EVERY
    held_out: int = 560
    batch: int = 16
    """Prompts of a step."""


class Scale(NamedTuple):
    """How much of the bench runs."""

    name: str
    regimes: dict[str, Regime]
    pairs: tuple[int, ...]
    """Seeds of policies, pools and held-out problems."""
    seeds: tuple[int, ...]
    habit_steps: int
    """Steps in which a pair's policy is misled further."""


IN_USE = ("full", "dynamic", "mopps", "skipping", "online", "online-verdicts", "oracle")
"""What people use today, ours, and a bound."""
ONCE, AGAIN = ("band", "random_positive", "top"), ("random_positive-again", "top-again")
"""Arms that measure the pool."""
MORE = ("random", "learnable", "greedy", "random-again", "band-again", "greedy-again")
"""For `short` only."""

REGIMES = {
    "short": Regime(("clean", "noisy"), 1000, 60, 100, 30, 10, (*IN_USE, *ONCE, *AGAIN, *MORE)),
    "long": Regime(("clean", "noisy"), 1000, 300, 100, 60, 20, (*IN_USE, *ONCE, *AGAIN)),
    "large": Regime(("clean", "noisy"), 4800, 300, 480, 60, 20, (*IN_USE, *ONCE)),
    "hard": Regime(("hard",), 1000, 300, 100, 60, 20, (*IN_USE, *ONCE, *AGAIN), WRONG_LENGTH),
}
"""In `large` nobody measures the pool again: once costs as many responses as all of the training."""

FULL = Scale("full", REGIMES, pairs=(0, 1, 2, 3), seeds=(0, 1), habit_steps=600)


def quick() -> Scale:
    """Small sizes that show that it runs."""

    def small(name: str, pool: int, steps: int, every: int) -> Regime:
        own = REGIMES[name]._replace(pool=pool, steps=steps, every=every)
        return own._replace(picks=30, held_out=140, evaluated=5, measured=5)

    regimes = {
        "short": small("short", 200, 10, 5),
        "long": small("long", 120, 20, 10),
        "large": small("large", 240, 15, 15),
        "hard": small("hard", 120, 15, 10),
    }
    return Scale("quick", regimes, pairs=(0, 1), seeds=(0,), habit_steps=150)


def tuning(scale: Scale) -> Scale:
    """The same on other pairs, of which no figure is reported."""
    return scale._replace(name=f"{scale.name}-tuning", pairs=tuple(100 + pair for pair in scale.pairs))
