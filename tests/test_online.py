"""Online selection: whose turn it is, and what is learned from verdicts and gradients."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bench.online import Plain
from bench.online import compare as compare_with_plain
from learnalign.errors import ArrayError
from learnalign.online import OnlineConfig, OnlineSelector
from learnalign.online.agreement import Shared, compare
from learnalign.online.history import Doubles, History
from learnalign.online.pairs import Pairs
from learnalign.online.schedule import SAMPLE, Schedule, uniform
from learnalign.online.weights import LEAST_TRUST, Evidence, suspicion, weights
from learnalign.scoring.learnability import expected_both
from tests.online_world import BATCH, IDS, D, N, learned, made


def test_without_verdicts_every_pass_goes_over_the_whole_pool_in_an_order_of_its_own() -> None:
    selector = OnlineSelector(IDS)
    passes = [[i for _ in range(N // 20) for i in selector.next(20)] for _ in range(4)]
    assert sorted(passes[0]) == sorted(IDS)
    assert passes[0] != IDS
    assert passes[0] != OnlineSelector(IDS, seed=1).next(N), "the seed decides"
    visits = Counter(prompt_id for one in passes for prompt_id in one)
    assert set(visits.values()) == {3, 4, 5}, "later turns stay a pass apart, up to jitter"
    assert sum(visits[i] == 4 for i in IDS) > 0.7 * N
    batches = [[set(one[k : k + 20]) for k in range(0, N, 20)] for one in passes]
    together = [max(len(a & b) for a in batches[0] for b in later) for later in batches[1:]]
    assert max(together) < 12, "batches are composed anew"


def test_a_call_never_repeats_a_prompt() -> None:
    selector = OnlineSelector(IDS[:10], settings=OnlineConfig(cap=4))
    for n in (10, 7, 10, 3, 9, 10):
        picks = selector.next(n)
        assert len(set(picks)) == n
        selector.observe(picks[:1] * 8, [1.0, 0.0] * 4)


@pytest.mark.parametrize(("weight", "visits"), [(0.25, 4), (0.5, 8), (1.0, 16), (2.0, 32)])
def test_a_weight_is_visits_a_pass(weight: float, visits: int) -> None:
    schedule = Schedule(1000, 0)
    special = np.arange(20)
    schedule.reweigh(special, np.full(20, weight))
    found = np.zeros(1000)
    while schedule.now < 16:
        np.add.at(found, schedule.first(8), 1)
        schedule.take(schedule.first(8))
    assert abs(found[special].mean() - visits) <= 1
    assert abs(found[20:].mean() - 16) <= 1


def test_picks_are_those_of_the_rule_as_it_is_written_down() -> None:
    """Weights rise and fall and return to what they were; prompts are observed that were never taken."""
    rng = np.random.default_rng(1)
    for size in (1, 2, 37, 300):
        schedule, plain = Schedule(size, 3), Plain(size, OnlineConfig(), seed=3)
        for _ in range(200):
            n = int(rng.integers(1, size + 1))
            first = schedule.first(n)
            schedule.take(first)
            assert first.tolist() == plain.next(n)
            some = rng.permutation(size)[: rng.integers(1, size + 1)]
            plain.weight[some] = rng.choice([0.25, 0.5, 1.0, 2.0], len(some))
            schedule.reweigh(some, plain.weight[some])
            schedule.first(int(rng.integers(1, size + 1)))  # looking changes nothing
    compare_with_plain(2000, 30)


@pytest.mark.parametrize("sampled", [-5.0, 0.0, 5.0])
def test_the_first_are_found_whatever_a_sample_says(sampled: float) -> None:
    """Of a pool larger than the sample; what is sampled is due long before the others, like them, or long after."""
    size = 3 * SAMPLE + 7
    schedule = Schedule(size, 2)
    weight = np.random.default_rng(4).choice([0.25, 1.0], size)
    schedule.reweigh(np.arange(size), weight)
    schedule.last[:: size // SAMPLE] += sampled
    schedule.index()
    due = schedule.last + schedule.jitter / weight
    for n in (1, 8, 512, SAMPLE, size - 1, size):
        assert schedule.first(n).tolist() == np.lexsort((np.arange(size), due))[:n].tolist()


def test_jitter_is_numbered_and_uniform() -> None:
    whole = uniform(5, 1, 0, 1000)
    parts = [uniform(5, 1, first, size) for first, size in ((0, 1), (1, 2), (3, 7), (10, 990))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert 0 <= whole.min() < 0.01
    assert 0.99 < whole.max() < 1
    assert abs(whole.mean() - 0.5) < 4 / np.sqrt(12_000)
    assert not np.isin(whole, uniform(5, 0, 0, 1000)).any()


def test_the_chance_of_both_verdicts_is_the_beta_binomials() -> None:
    rng = np.random.default_rng(2)
    p = rng.beta(0.3 + 2, 0.7 + 5, 400_000)
    sampled = 1 - p**8 - (1 - p) ** 8
    assert abs(expected_both([7.0], [2.0], 0.3, 8)[0] - sampled.mean()) < 4 * sampled.std() / np.sqrt(len(p))


def test_training_comes_back_later_to_what_is_settled_or_hopeless_and_goes_over_all_else() -> None:
    world = made()
    selector = learned(world, 10 * N // BATCH)
    visits = selector.known.history.visits
    hopeless = world.p == 0
    assert visits.min() >= 2, "all of the pool is looked at again and again"
    assert 0.2 < visits[hopeless].mean() / visits[~hopeless].mean() < 0.5
    weight = selector.known.schedule.weight
    assert (weight[hopeless] < 0.5).all()
    assert (weight <= 1).all()
    assert (weight >= selector.settings.floor).all()


def test_a_prompt_that_becomes_learnable_comes_as_often_as_before() -> None:
    selector = OnlineSelector(IDS)
    for verdicts in ([0.0] * 8, [0.0] * 8, [1.0, 0.0] * 4, [1.0, 0.0] * 4):
        selector.observe(["p7"] * 8, verdicts)
        if verdicts[0] == 0:
            assert selector.known.schedule.weight[7] < 0.5
    assert selector.known.schedule.weight[7] == 1


def evidence(count: int, agreement: float | Doubles = 0.0, measured: int | Doubles = 0, correct: float = 4) -> Evidence:
    """What is known of prompts with 8 responses each, in a pool whose mean success rate is 1/2."""
    one = np.ones(count)
    return Evidence(correct * one, 8 * one, np.ones(count, int), agreement * one, measured * one.astype(int), 0.5)


def test_without_suspicion_or_gradients_only_verdicts_count() -> None:
    disagreeing = evidence(1, -3.0, 1)
    assert weights(disagreeing, 0.0, OnlineConfig()) == weights(evidence(1), 0.0, OnlineConfig()) == 1
    assert weights(evidence(1), 1.0, OnlineConfig()) == 1, "as learnable as the pool, and never measured"
    unmet = evidence(1, correct=0)._replace(responses=np.zeros(1), visits=np.zeros(1, int))
    assert weights(unmet, 1.0, OnlineConfig()) == 1
    assert weights(evidence(1, correct=8), 0.0, OnlineConfig(floor=0.01)) < 0.6


def test_in_a_suspected_pool_disagreement_costs_turns_the_more_often_it_was_found() -> None:
    once, often, badly = (
        weights(evidence(1, z * count, count), 1.0, OnlineConfig()) for z, count in ((-0.4, 1), (-0.4, 4), (-2.0, 4))
    )
    assert 1 > once > often > badly == LEAST_TRUST
    assert once == pytest.approx(1 - 2 * 0.4 / 2)
    assert weights(evidence(1, -0.4, 1), 0.5, OnlineConfig()) == pytest.approx((1 + once) / 2)
    assert weights(evidence(1, 0.4, 1), 1.0, OnlineConfig()) > 1, "agreement earns turns"


def test_a_pool_is_suspected_when_rarely_solved_prompts_pull_against_the_others() -> None:
    assert suspicion(0.0, 30) == pytest.approx(0.5)
    assert suspicion(-9.0, 30) == 1
    assert suspicion(9.0, 30) == 0
    assert suspicion(-9.0, 19) == 0, "too few to tell"


def test_suspicion_goes_by_the_first_gradient_of_prompts_that_were_rarely_solved_then() -> None:
    world = made()
    selector = learned(world, 2 * N // BATCH, measuring=True)
    known = selector.known
    rare, measured = known.rare, known.measured.copy()
    assert 0 < rare < (measured > 0).sum()
    again = int(np.flatnonzero(measured)[0])
    for _ in range(3):
        selector.observe([IDS[again]] * 8, [1.0] + [0.0] * 7)
        world.mixed = {again}
        assert selector.measure(world) == 1
    assert known.measured[again] == measured[again] + 3
    assert known.rare == rare, "rarely solved by now, but not when it was first met"


def test_measuring_asks_for_what_training_met_since_and_may_measure_again() -> None:
    world, selector = made(), OnlineSelector(IDS)
    assert selector.measure(world) == 0
    trained = [IDS.index(i) for i in world.train(selector, 0)]
    assert not world.asked
    assert selector.measure(world) == len(world.mixed)
    assert world.asked == sorted(trained)
    assert np.flatnonzero(selector.known.measured).tolist() == sorted(world.mixed)
    assert selector.measure(world) == 0, "nothing was met since"
    again, before = sorted(world.mixed)[0], selector.known.agreement_sum.copy()
    selector.observe([IDS[again]] * 2, [1.0, 0.0])
    assert selector.measure(world) == 1
    assert world.asked == [again]
    assert selector.known.measured[again] == 2
    assert np.flatnonzero(selector.known.agreement_sum != before).tolist() == [again]


def test_training_avoids_what_disagrees_where_that_is_rarely_solved() -> None:
    world = made()
    common, learnable = np.sign(world.gradients.mean(axis=1)), world.p > 0
    world.p[learnable] = np.where(common[learnable] < 0, 0.2, 0.6)
    selector = learned(world, 10 * N // BATCH, measuring=True)
    visits = selector.known.history.visits
    assert selector.known.suspected > 0.5
    assert visits[learnable & (common > 0)].mean() / visits[learnable & (common < 0)].mean() > 1.5


def test_agreement_is_the_definition_without_the_diagonal() -> None:
    rng = np.random.default_rng(3)
    phi = rng.standard_normal((50, D)) * rng.random((50, 1))
    unit = phi / np.linalg.norm(phi, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 0.0)
    plain = cosine.sum(axis=1) / 49
    found, shared = compare(Shared(np.zeros(0)), phi, 50)
    np.testing.assert_allclose(found, plain / np.sqrt((plain**2).mean()), atol=1e-5)
    first, before = compare(Shared(np.zeros(0)), phi[:20], 20)
    second, after = compare(before, phi[20:], 30)
    squares = ((cosine[:20, :20].sum(axis=1) / 19) ** 2).sum() + (plain[20:] ** 2).sum()
    np.testing.assert_allclose(second, plain[20:] / np.sqrt(squares / 50), atol=1e-5)
    np.testing.assert_allclose(after.total, shared.total, atol=1e-6)
    assert (before.gradients, after.gradients, len(first)) == (20, 50, 20)
    aged, _ = compare(before.aged(0.5), phi[20:], 30)
    half = np.where(np.arange(50) < 20, 0.5, 1.0)
    older = (cosine @ half)[20:] / 39
    np.testing.assert_allclose(aged / older, aged[0] / older[0], rtol=1e-3)
    alone, _ = compare(Shared(np.zeros(0)), phi[:1], 1)
    assert np.isnan(alone).all(), "no others to agree with"


def test_a_gradient_that_cannot_be_compared_takes_no_part() -> None:
    phi = np.random.default_rng(4).standard_normal((5, D))
    with_bad = np.insert(phi, [1, 3], [np.zeros(D), np.full(D, np.nan)], axis=0)
    found, _ = compare(Shared(np.zeros(0)), with_bad, 7)
    np.testing.assert_array_equal(np.delete(found, [1, 4]), compare(Shared(np.zeros(0)), phi, 5)[0])
    assert np.isnan(found[[1, 4]]).all()
    with pytest.raises(ArrayError, match=r"must have shape \[5, d\], found \[4, 64\]"):
        compare(Shared(np.zeros(0)), phi[:4], 5)
    with pytest.raises(ArrayError, match="the measurements before had sketches of d = 8, this one 64"):
        compare(Shared(np.zeros(8)), phi, 5)


def test_a_measurement_ages_gradients_before() -> None:
    world = made()
    selector = learned(world, 1, measuring=True, settings=OnlineConfig(memory=0.5))
    before = selector.known.shared
    selector.observe(["p1", "p1"], [1.0, 0.0])
    world.mixed = set()
    assert selector.measure(world) == 0
    np.testing.assert_allclose(selector.known.shared.total, before.total / 2)
    assert selector.known.shared.gradients == before.gradients / 2 > 0


def test_old_evidence_counts_less_and_the_pools_mean_is_kept() -> None:
    history, rng = History(30), np.random.default_rng(5)
    for step in range(50):
        prompts = rng.permutation(30)[:10]
        history.follow(prompts, rng.integers(0, 9, 10).astype(float), np.full(10, 8.0), decay=0.5)
        assert history.visits.sum() == 10 * (step + 1)
    assert history.all_correct == pytest.approx(history.correct.sum())
    assert history.all_responses == pytest.approx(history.responses.sum())
    assert history.mean == pytest.approx((history.correct.sum() + 0.5) / (history.responses.sum() + 1))
    one = np.array([0])
    settled = History(2)
    for step in range(6):  # a prompt that was a coin and is settled: verdicts of both kinds, then of one
        settled.follow(one, np.array([4.0 if step < 3 else 8.0]), np.array([8.0]), 0.5)
    assert settled.responses.tolist() == [8 * (2 - 2.0**-5), 0]
    assert settled.success_rate(one)[0] > 0.9
    assert settled.expected_learnability(one)[0] < 0.1


def test_of_a_group_the_first_of_each_kind_is_a_pair_and_the_last_group_counts() -> None:
    pairs = Pairs()
    pairs.observe(3, [[1], [2], [3], [4]], [False, True, True, False])
    pairs.observe(5, [[1], [2]], [True, True])
    found = pairs.of([5, 3, 7])
    assert list(found) == [3]
    assert (found[3].correct, found[3].incorrect) == ([2], [1])
    assert found[3].group([9]).rewards == [1.0, 0.0]
    pairs.observe(3, [[6], [7]], [True, False])
    assert pairs.of([3])[3].correct == [6]
    pairs.observe(3, [[8], [9]], [True, True])
    assert not pairs.of([3]), "what it answers now has no gradient"
    pairs.observe(4, [[6], [7]], [True, False])
    pairs.clear()
    assert not pairs.of([4])
