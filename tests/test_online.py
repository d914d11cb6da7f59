"""Online selection: what an update learns from training, picks and keeps; a kill costs no more than that update."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from learnalign.errors import ArrayError, ConfigError, RunError
from learnalign.online import OnlineConfig, OnlineSelector
from learnalign.online.agreement import Shared, compare
from learnalign.online.folder import Folder
from learnalign.online.history import History
from learnalign.online.pairs import Pairs
from learnalign.online.state import first_state

N, D, PICKED, GROUP = 400, 64, 20, 8
IDS = [f"p{k}" for k in range(N)]


class World:
    """Prompts with known success rates and gradients; training on them follows from (seed, update) alone."""

    def __init__(self, p: np.ndarray, gradients: np.ndarray) -> None:
        self.p, self.gradients = p, gradients
        self.mixed: set[int] = set()
        self.asked: list[int] = []

    def train(self, selector: OnlineSelector) -> None:
        """A pass over the picks, a step a prompt."""
        self.mixed.clear()
        rng = np.random.default_rng(selector.updates)
        for prompt_id in selector.picks:
            rewards = rng.random(GROUP) < self.p[IDS.index(prompt_id)]
            selector.observe([prompt_id] * GROUP, rewards.astype(float).tolist())
            if 0 < rewards.sum() < GROUP:
                self.mixed.add(IDS.index(prompt_id))

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


def test_the_first_picks_are_random_and_later_ones_follow_from_training() -> None:
    world = made()
    first = [OnlineSelector(IDS, PICKED, seed=seed).update(world) for seed in range(2)]
    assert not world.asked, "before training there is nothing to compare"
    assert first[0] != first[1]
    assert all(len(set(picks)) == PICKED for picks in first)
    selector = OnlineSelector(IDS, PICKED)
    selector.update(world)
    trained = [IDS.index(i) for i in selector.picks]
    world.train(selector)
    picks = [IDS.index(i) for i in selector.update(world)]
    assert world.asked == sorted(trained), "what training has met for the first time"
    known = np.flatnonzero(~np.isnan(selector.state.agreement))
    assert known.tolist() == sorted(world.mixed), "of which it has a pair"
    good = known[selector.state.agreement[known] > 0]
    assert set(good) <= set(picks), "what agrees comes again"
    assert not np.isin(known[selector.state.agreement[known] < 0], picks).any(), "what disagrees does not"
    others = np.setdiff1d(picks, good)
    assert not np.isin(others, trained).any(), "what is left of the picks is new"
    facts = selector.state.facts
    assert (facts.gradients, facts.agreeing, facts.unseen) == (len(known), len(good), PICKED - len(good))


def test_training_comes_back_to_what_agrees_but_not_for_ever() -> None:
    world, selector = made(), OnlineSelector(IDS, PICKED, settings=OnlineConfig(visits=3))
    common = np.sign(world.gradients.mean(axis=1))
    for _ in range(8):
        selector.update(world)
        world.train(selector)
    visits = selector.state.history.visits
    assert visits.max() == 3
    assert visits.sum() == 8 * PICKED
    learnable = world.p > 0
    again = visits[learnable & (common > 0)].mean() / visits[learnable & (common < 0)].mean()
    assert again > 1.5
    assert (visits[~learnable] <= 1).all()


def test_a_settled_prompt_does_not_come_again() -> None:
    world, selector = made(agreeing=1.0), OnlineSelector(IDS, PICKED)
    selector.update(world)
    world.train(selector)
    settled = sorted(world.mixed)[0]
    for _ in range(4):
        selector.observe([IDS[settled]] * GROUP, [1.0] * GROUP)
    selector.settings = replace(selector.settings, visits=9)
    assert IDS[settled] not in selector.update(world)
    assert selector.state.agreement[settled] > 0


def test_what_training_has_met_comes_before_what_disagrees_where_nothing_is_new() -> None:
    world, selector = made(), OnlineSelector(IDS[:40], 40)
    selector.update(world)
    world.train(selector)
    picks = [IDS.index(i) for i in selector.update(world)]
    disagree = selector.state.agreement[picks] < 0
    assert 0 < disagree.sum() < 20
    assert disagree[-int(disagree.sum()) :].all()


def test_agreement_is_the_definition_without_the_diagonal() -> None:
    rng = np.random.default_rng(3)
    phi, value = rng.standard_normal((50, D)) * rng.random((50, 1)), rng.random(50) / 4
    unit = phi / np.linalg.norm(phi, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 0.0)
    found, shared = compare(Shared(np.zeros(0)), phi, value)
    np.testing.assert_allclose(found, cosine @ value / 49, atol=1e-7)
    _, before = compare(Shared(np.zeros(0)), phi[:20], value[:20])
    second, after = compare(before, phi[20:], value[20:])
    np.testing.assert_allclose(second, found[20:], atol=1e-7)
    np.testing.assert_allclose(after.total, shared.total, atol=1e-7)
    assert (before.gradients, after.gradients) == (20, 50)
    aged, _ = compare(before.aged(0.5), phi[20:], value[20:])
    half = np.where(np.arange(50) < 20, 0.5, 1.0)
    np.testing.assert_allclose(aged, (cosine @ (value * half))[20:] / 39, atol=1e-7)
    alone, _ = compare(Shared(np.zeros(0)), phi[:1], value[:1])
    assert np.isnan(alone).all(), "no others to agree with"


def test_a_gradient_that_cannot_be_compared_takes_no_part() -> None:
    rng = np.random.default_rng(4)
    phi, value = rng.standard_normal((5, D)), rng.random(5)
    with_bad = np.insert(phi, [1, 3], [np.zeros(D), np.full(D, np.nan)], axis=0)
    found, _ = compare(Shared(np.zeros(0)), with_bad, np.insert(value, [1, 3], 0.25))
    np.testing.assert_array_equal(np.delete(found, [1, 4]), compare(Shared(np.zeros(0)), phi, value)[0])
    assert np.isnan(found[[1, 4]]).all()
    with pytest.raises(ArrayError, match=r"must have shape \[5, d\], found \[4, 64\]"):
        compare(Shared(np.zeros(0)), phi[:4], value)
    with pytest.raises(ArrayError, match="the updates before had sketches of d = 8, this one 64"):
        compare(Shared(np.zeros(8)), phi, value)


def test_an_update_ages_verdicts_and_gradients_alike() -> None:
    world, selector = made(), OnlineSelector(IDS, PICKED, settings=OnlineConfig(memory=0.5))
    selector.update(world)
    world.train(selector)
    selector.update(world)
    before, world.mixed = selector.state, set()
    selector.update(world)
    np.testing.assert_allclose(selector.state.history.responses, before.history.responses / 2)
    np.testing.assert_allclose(selector.state.shared.total, before.shared.total / 2)
    assert selector.state.shared.gradients == before.shared.gradients / 2 > 0


def test_picks_are_drawn_in_proportion_to_the_score() -> None:
    agreement = np.array([np.nan, 1.0, 2.0, np.nan, 5.0, -1.0])
    first = np.zeros(6)
    for seed in range(4000):
        selector = OnlineSelector(IDS[:6], 2, seed=seed)
        found = selector._draw(History(6), agreement, agreement > 0)
        first[found[0]] += 1
    np.testing.assert_allclose(first / 4000, np.array([0, 1, 2, 0, 5, 0]) / 8, atol=0.03)  # four standard errors


def test_old_evidence_counts_less_and_drifts_to_the_pools_mean() -> None:
    history = History(3)
    for _ in range(2):
        history.follow(np.repeat([0, 1], 4), [0, 0, 0, 0, 1, 1, 0, 1], decay=1.0)
    assert history.responses.tolist() == [8, 8, 0]
    assert history.visits.tolist() == [2, 2, 0]
    assert history.success_rate()[0] < history.success_rate()[2] < history.success_rate()[1]
    assert history.prior_expected_learnability() == history.expected_learnability()[2]
    old = history.aged(0.5).aged(0.5)
    assert old.correct.tolist() == [0, 1.5, 0]
    assert old.expected_learnability()[0] > history.expected_learnability()[0]


def test_what_training_saw_last_of_a_prompt_counts_most() -> None:
    history, other = History(2), History(2)
    for step in range(6):  # a prompt that was a coin and is settled: verdicts of both kinds, then of one
        for one, decay in ((history, 0.5), (other, 1.0)):
            one.follow(np.zeros(8, np.int64), np.arange(8) < (4 if step < 3 else 8), decay)
    assert history.responses.tolist() == [8 * (2 - 2.0**-5), 0]
    assert history.expected_learnability()[0] < 0.5 * other.expected_learnability()[0]


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


def test_a_kill_in_an_update_changes_nothing(tmp_path: Path) -> None:
    straight, world = OnlineSelector(IDS, PICKED), made()
    for _ in range(4):
        straight.update(world)
        world.train(straight)
    killed, world = OnlineSelector(IDS, PICKED, directory=tmp_path), made()
    for update in range(4):
        if update:
            with pytest.raises(KeyboardInterrupt):
                killed.update(Killed(world.p, world.gradients))
            assert killed.updates == update
        again = OnlineSelector(IDS, PICKED, directory=tmp_path)
        again.update(world)
        world.train(again)
        killed = OnlineSelector(IDS, PICKED, directory=tmp_path)
    assert killed.picks == straight.picks
    for name in ("correct", "responses", "visits"):
        np.testing.assert_array_equal(getattr(killed.state.history, name), getattr(straight.state.history, name))
    np.testing.assert_array_equal(killed.state.agreement, straight.state.agreement)
    np.testing.assert_array_equal(killed.state.shared.total, straight.state.shared.total)
    assert killed.state.shared.gradients == straight.state.shared.gradients > 0
    assert killed.state.facts == straight.state.facts
    assert len(list(tmp_path.iterdir())) == 1, "only the last state is kept"


def test_a_torn_line_of_observations_is_left_out(tmp_path: Path) -> None:
    selector = OnlineSelector(IDS, PICKED, directory=tmp_path)
    selector.update(made())
    selector.observe(["p1", "p2"], [1.0, 0.0])
    before = selector.state.history.responses.copy()
    log = tmp_path / "update-0001" / "observed.jsonl"
    with log.open("a") as file:
        file.write('{"prompts": [1')
    again = OnlineSelector(IDS, PICKED, directory=tmp_path)
    np.testing.assert_array_equal(again.state.history.responses, before)
    again.observe(["p1"], [1.0])
    third = OnlineSelector(IDS, PICKED, directory=tmp_path).state.history
    np.testing.assert_array_equal(third.responses, again.state.history.responses)
    assert third.responses[1] == before[1] / 2 + 1
    assert third.visits[:3].tolist() == [0, 2, 1]


def test_the_last_update_is_the_one_of_the_highest_number(tmp_path: Path) -> None:
    """Update 10,000 sorts before update 9,999 as text. A kill between two updates may leave both."""
    folder, other = Folder(tmp_path, IDS), Folder(tmp_path / "other", IDS)
    folder.write(first_state(N)._replace(updates=9_999))
    other.write(first_state(N)._replace(updates=10_000))
    shutil.move(tmp_path / "other" / "update-10000", tmp_path)
    shutil.copytree(tmp_path / "update-10000", tmp_path / "update-10001.partial")
    found = folder.read(0.5)
    assert found is not None
    assert found.updates == 10_000


def test_bad_input_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArrayError, match="must all differ: 1 repeat"):
        OnlineSelector(["a", "b", "a"], 1)
    with pytest.raises(ArrayError, match="the pool is empty"):
        OnlineSelector([], 1)
    with pytest.raises(ArrayError, match="between 1 and 2, found 3"):
        OnlineSelector(["a", "b"], 3)
    with pytest.raises(ConfigError, match=r"online\.visits must be at least 1, found 0"):
        OnlineConfig(visits=0)
    with pytest.raises(ConfigError, match=r"online\.memory must be from 0 to 1, found 1\.5"):
        OnlineConfig(memory=1.5)
    selector = OnlineSelector(IDS, PICKED, directory=tmp_path)
    with pytest.raises(RunError, match="before the first update"):
        selector.observe(["p0"], [1.0])
    selector.update(made())
    with pytest.raises(ArrayError, match="'q' is not in the pool"):
        selector.observe(["q"], [1.0])
    with pytest.raises(ArrayError, match="one finite reward for each of 1 ids"):
        selector.observe(["p0"], [float("nan")])
    with pytest.raises(RunError, match="updates of another pool"):
        OnlineSelector(IDS[1:], PICKED, directory=tmp_path)
    (tmp_path / "update-0001" / "prompts.parquet").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"cannot be read .* delete it to begin anew"):
        OnlineSelector(IDS, PICKED, directory=tmp_path)
