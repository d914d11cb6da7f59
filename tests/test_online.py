"""Online selection: whose turn it is, what is learned from verdicts and gradients, and that a kill loses nothing."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.online import Plain
from bench.online import compare as compare_with_plain
from learnalign.errors import ArrayError, ConfigError, RunError
from learnalign.online import OnlineConfig, OnlineSelector
from learnalign.online.agreement import Shared, compare
from learnalign.online.folder import Folder
from learnalign.online.history import Doubles, History
from learnalign.online.pairs import Pairs
from learnalign.online.schedule import Schedule, uniform
from learnalign.online.weights import LEAST_TRUST, Evidence, suspicion, weights
from learnalign.scoring.learnability import expected_both

N, D, BATCH, GROUP = 400, 64, 16, 8
IDS = [f"p{k}" for k in range(N)]
ROOT = Path(__file__).parents[1]


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
        assert len(schedule._heap) < 12 * size
    compare_with_plain(2000, 30)


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


def assert_same(one: OnlineSelector, two: OnlineSelector) -> None:
    assert one.state_dict() == two.state_dict()
    assert [one.next(n) for n in (1, 30, 7)] == [two.next(n) for n in (1, 30, 7)]


@pytest.mark.parametrize("least", [0, 10_000])
def test_a_selector_begun_anew_at_every_call_picks_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    """From a log that is folded into a state now and then, or that grows; with measurements that are killed."""
    monkeypatch.setattr("learnalign.online.selector.LEAST_LOG", least)
    straight, world = OnlineSelector(IDS, seed=5), made()
    for step in range(80):
        world.train(straight, step, measuring=step % 10 == 9)
    world = made()
    for step in range(80):
        selector = OnlineSelector(IDS, seed=5, directory=tmp_path)
        world.train(selector, step)
        if step % 10 == 9:
            with pytest.raises(KeyboardInterrupt):
                OnlineSelector(IDS, directory=tmp_path).measure(Killed(world.p, world.gradients))
            OnlineSelector(IDS, directory=tmp_path).measure(world)
            world.mixed.clear()
    assert len(list(tmp_path.iterdir())) == 1, "only the last state is kept"
    assert_same(OnlineSelector(IDS, directory=tmp_path), straight)


PROGRAM = """
import sys
from tests.test_online import IDS, made
from learnalign.online import OnlineSelector

world, selector = made(), OnlineSelector(IDS, directory=sys.argv[1])
for step in range(1000):
    print(step, *world.train(selector, step), flush=True)
"""


def test_a_training_killed_at_any_instant_goes_on_with_the_same_picks(tmp_path: Path) -> None:
    """Killed by SIGKILL after some steps, somewhere in the next one: the log holds every step that was told, and
    going on from it picks what an uninterrupted selector picks.
    """
    straight, world = OnlineSelector(IDS), made()
    steps = [world.train(straight, step) for step in range(60)]
    for told in (1, 3, 20):
        directory = tmp_path / str(told)
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(directory)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert child.stdout is not None
        lines = [child.stdout.readline().split() for _ in range(told)]
        child.send_signal(signal.SIGKILL)
        lines += [line.split() for line in child.stdout.read().splitlines()]
        child.wait()
        assert [line[1:] for line in lines] == steps[: len(lines)]
        after = OnlineSelector(IDS, directory=directory)
        took, saw = after.known.schedule.taken // BATCH, after.known.counted + 1
        assert took - 1 <= saw <= took
        assert len(lines) <= saw, "no step that was told is lost"
        if took == saw:
            assert after.next(BATCH) == steps[took]


def test_a_torn_line_of_the_log_is_left_out(tmp_path: Path) -> None:
    selector = OnlineSelector(IDS, directory=tmp_path)
    selector.next(5)
    selector.observe(["p1", "p2"], [1.0, 0.0])
    log = tmp_path / "state-0000001" / "log.jsonl"
    whole = log.read_bytes()
    with log.open("a") as file:
        file.write('{"prompts": [1')
    again = OnlineSelector(IDS, directory=tmp_path)
    assert again.state_dict() == selector.state_dict()
    again.observe(["p1"], [1.0])
    assert log.read_bytes().startswith(whole)
    history = OnlineSelector(IDS, directory=tmp_path).known.history
    assert history.responses[:3].tolist() == [0, 1.5, 1]
    assert history.visits[:3].tolist() == [0, 2, 1]


def test_the_last_state_is_the_one_of_the_highest_number(tmp_path: Path) -> None:
    """State 10,000,000 sorts before state 9,999,999 as text. A kill between two may leave both."""
    folder = Folder(tmp_path)
    folder._number = 9_999_998
    folder.write({"taken": 1})
    shutil.copytree(tmp_path / "state-9999999", tmp_path / "kept")
    folder.write({"taken": 2})
    (tmp_path / "kept").rename(tmp_path / "state-9999999")
    shutil.copytree(tmp_path / "state-10000000", tmp_path / "state-10000001.partial")
    assert Folder(tmp_path).read() == ({"taken": 2}, [])


def test_a_state_goes_through_pickle_and_torch_and_back(tmp_path: Path) -> None:
    world = made()
    selector = learned(world, 30, measuring=True)
    file = io.BytesIO()
    torch.save(selector.state_dict(), file)
    file.seek(0)
    for state in (torch.load(file), pickle.loads(pickle.dumps(selector.state_dict()))):
        other = OnlineSelector(IDS, seed=9, directory=tmp_path)
        other.next(3)
        other.load_state_dict(state)
        assert other.state_dict() == selector.state_dict()
        assert_same(OnlineSelector(IDS, directory=tmp_path), OnlineSelector(IDS, directory=tmp_path))
    state = selector.state_dict()
    with pytest.raises(RunError, match="is of another pool"):
        OnlineSelector(IDS[1:]).load_state_dict(state)
    with pytest.raises(RunError, match=r"cannot be read \(KeyError\('jitter'\)\)"):
        OnlineSelector(IDS).load_state_dict({name: value for name, value in state.items() if name != "jitter"})
    with pytest.raises(RunError, match="weight must have 400 numbers, found"):
        OnlineSelector(IDS).load_state_dict({**state, "weight": state["shared"]})


def test_what_was_saved_is_restored_without_what_came_after(tmp_path: Path) -> None:
    world = made()
    selector = learned(world, 10, directory=tmp_path / "own")
    selector.save(tmp_path / "saved")
    then = selector.state_dict()
    world.train(selector, 10)
    assert selector.state_dict() != then
    selector.restore(tmp_path / "saved")
    assert OnlineSelector(IDS, directory=tmp_path / "own").state_dict() == selector.state_dict() == then
    with pytest.raises(RunError, match="holds no state"):
        selector.restore(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    selector.leave_directory()
    selector.next(3)
    assert OnlineSelector(IDS, directory=tmp_path / "own").state_dict() == then


def test_a_numbered_step_counts_once() -> None:
    selector = OnlineSelector(IDS)
    assert selector.observe(["p1"], [1.0], 3)
    assert not selector.observe(["p1"], [1.0], 3)
    assert not selector.observe(["p1"], [1.0], 2)
    assert selector.observe(["p1"], [1.0])
    assert selector.observe([], [], 4)
    assert selector.known.history.visits[1] == 2
    assert selector.known.counted == 4


def test_bad_input_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArrayError, match="must all differ: 1 repeat"):
        OnlineSelector(["a", "b", "a"])
    with pytest.raises(ArrayError, match="the pool is empty"):
        OnlineSelector([])
    with pytest.raises(ConfigError, match="seed of an online selection must be at least 0, found -1"):
        OnlineSelector(["a"], seed=-1)
    for n in (0, 3):
        with pytest.raises(ArrayError, match=f"between 1 and 2, found {n}"):
            OnlineSelector(["a", "b"]).next(n)
    for settings, message in (
        ({"floor": 0}, r"online\.floor must be greater than 0 and at most 1, found 0"),
        ({"cap": 0.5}, r"online\.cap must be at least 1, found 0\.5"),
        ({"memory": 1.5}, r"online\.memory must be from 0 to 1, found 1\.5"),
    ):
        with pytest.raises(ConfigError, match=message):
            OnlineConfig(**settings)
    selector = OnlineSelector(IDS, directory=tmp_path)
    with pytest.raises(ArrayError, match="'q' is not in the pool"):
        selector.observe(["q"], [1.0])
    with pytest.raises(ArrayError, match="one finite reward for each of 1 ids"):
        selector.observe(["p0"], [float("nan")])
    with pytest.raises(ArrayError, match="one finite reward for each of 2 ids"):
        selector.observe(["p0", "p1"], [1.0])
    selector.next(1)
    with pytest.raises(RunError, match="is of another pool"):
        OnlineSelector(IDS[1:], directory=tmp_path)
    (tmp_path / "state-0000001" / "visits.npy").write_bytes(b"nothing")
    with pytest.raises(RunError, match="cannot be read"):
        OnlineSelector(IDS, directory=tmp_path)
    (tmp_path / "state-0000001" / "state.json").write_text("{")
    with pytest.raises(RunError, match=r"cannot be read .* delete it to begin anew"):
        OnlineSelector(IDS, directory=tmp_path)
    (tmp_path / "file").write_text(json.dumps({}))
    with pytest.raises(RunError, match="file is not a directory"):
        OnlineSelector(IDS, directory=tmp_path / "file")
    with pytest.raises(RunError, match=r"cannot write .*state-0000001: Not a directory"):
        OnlineSelector(IDS, directory=tmp_path / "file" / "below").next(1)
