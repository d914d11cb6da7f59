"""Rounds are deterministic, never exceed what was allowed, and put the responses where p (1 - p) is large."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnalign.config import Config, RolloutConfig
from learnalign.errors import ConfigError
from learnalign.rollout.allocation import Counts, next_round, rounds
from learnalign.scoring.learnability import expected_learnability, learnability_of_counts, prior_mean

FIXED = RolloutConfig()
SCREEN = RolloutConfig(allocation="screen")
HALVING = RolloutConfig(allocation="halving", responses=32, budget=8.0)


def play(config: RolloutConfig, keep: int, p: np.ndarray, seed: int = 0) -> tuple[Counts, Counts, np.ndarray]:
    """All rounds against prompts of success rates p: responses, correct ones, and who is kept at the end."""
    rng = np.random.default_rng(seed)
    sampled, correct = np.zeros(len(p), np.int64), np.zeros(len(p), np.int64)
    kept = np.ones(len(p), np.bool_)
    for number in range(rounds(config)):
        kept, wanted = next_round(config, keep, number, sampled, correct)
        assert (wanted >= 0).all()
        assert (wanted[~kept] == 0).all()
        sampled, correct = sampled + wanted, correct + rng.binomial(wanted, p)
        assert (sampled <= config.responses).all()
    return sampled, correct, kept


RATES = st.lists(st.floats(0, 1), min_size=1, max_size=60).map(np.array)


@given(RATES, st.integers(1, 40), st.floats(2.01, 31.9), st.integers(0, 9))
def test_halving_stays_within_its_budget(p: np.ndarray, keep: int, budget: float, seed: int) -> None:
    config = RolloutConfig(allocation="halving", responses=32, budget=budget)
    sampled, _, kept = play(config, keep, p, seed)
    assert sampled.sum() <= budget * len(p)
    assert (sampled >= 2).all(), "every prompt has a rate"
    if budget >= 8:  # less can run out before the last round
        assert kept.sum() == min(keep, len(p))


@given(RATES, st.integers(0, 9))
def test_screening_stops_exactly_where_the_first_two_agree(p: np.ndarray, seed: int) -> None:
    sampled, correct, _ = play(SCREEN, 1, p, seed)
    assert set(sampled.tolist()) <= {2, 8}
    stopped = sampled == 2
    assert np.isin(correct[stopped], (0, 2)).all()
    assert ((correct[~stopped] > 0) & (correct[~stopped] < 8)).all()


def test_fixed_is_one_round_of_all() -> None:
    sampled, _, kept = play(FIXED, 1, np.linspace(0, 1, 7))
    assert sampled.tolist() == [8] * 7
    assert kept.all()


def test_halving_finds_the_learnable_prompts() -> None:
    """40 prompts of p = 1/2 among 960 of p = 1 or 0.02, half of which differ at first sight: all 15 are found."""
    p = np.r_[np.full(480, 1.0), np.full(40, 0.5), np.full(480, 0.02)]
    sampled, _, kept = play(HALVING, 15, p)
    assert kept[480:520].sum() == kept.sum() == 15
    assert sampled[kept].min() > 4 * sampled[~kept].mean()


def test_equal_prompts_are_kept_in_order_of_rows() -> None:
    kept, _ = next_round(HALVING, 2, 3, np.full(6, 4), np.array([2, 0, 2, 2, 4, 2]))
    assert np.flatnonzero(kept).tolist() == [0, 2]


def test_learnability_has_no_bias() -> None:
    """Summed over the binomial distribution: E[s (G - s) / (G (G - 1))] = p (1 - p) for every G and p."""
    for g in (2, 3, 8, 17):
        s = np.arange(g + 1)
        value = learnability_of_counts(np.full(g + 1, g), s)
        for p in (0.0, 0.03, 0.5, 0.9):
            mass = np.array([comb(g, k) * p**k * (1 - p) ** (g - k) for k in s])
            assert mass @ value == pytest.approx(p * (1 - p), abs=1e-12)
    assert np.isnan(learnability_of_counts(np.array([0, 1]), np.array([0, 1]))).all()


def test_expected_learnability_is_the_posterior_mean() -> None:
    """Against draws of p from Beta(m + s, 1 - m + n - s), m the pool's rate."""
    sampled, correct = np.array([2, 2, 8, 5]), np.array([1, 0, 7, 5])
    m = (correct.sum() + 0.5) / (sampled.sum() + 1)
    expected = expected_learnability(sampled, correct, prior_mean(sampled, correct))
    rng = np.random.default_rng(0)
    for n, s, found in zip(sampled, correct, expected, strict=True):
        p = rng.beta(m + s, 1 - m + n - s, 2_000_000)
        assert found == pytest.approx((p * (1 - p)).mean(), rel=5e-3)


def test_halving_needs_room_below_the_most_responses() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.budget"):
        Config(rollout=RolloutConfig(allocation="halving", responses=8, budget=8.0))
