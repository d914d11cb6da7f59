"""Staged selection: what a stage asks for, scores, draws and keeps; a kill costs no more than the stage in progress."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learnalign.errors import ArrayError, ConfigError, RunError
from learnalign.staged import StageConfig, StagedSelector
from learnalign.staged.agreement import scores
from learnalign.staged.folder import Folder
from learnalign.staged.history import History
from learnalign.staged.selector import _draw
from learnalign.staged.state import first_state

N, D, PICKED = 400, 64, 20
GROUPS_OF_8 = StageConfig(responses=8, screened=4.0, completed=2.0)
IDS = [f"p{k}" for k in range(N)]


class Simulated:
    """A policy with known success rates and gradients; answers depend on (seed, prompt, round) alone."""

    def __init__(self, p: np.ndarray, gradients: np.ndarray, seed: int, fail_in: str = "") -> None:
        self.p, self.gradients, self.seed, self.fail_in = p, gradients, seed, fail_in
        self.correct = np.zeros(len(p), np.int64)
        self.asked = np.zeros(len(p), np.int64)

    def respond(self, prompts: np.ndarray, responses: int) -> np.ndarray:
        if self.fail_in == "respond" and self.asked.any():
            raise KeyboardInterrupt
        rng = np.random.default_rng([self.seed, int(self.asked.sum())])
        made = rng.binomial(responses, self.p)[prompts]
        self.asked[prompts] += responses
        self.correct[prompts] += made
        return np.asarray(made)

    def sketch(self, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.fail_in == "sketch":
            raise KeyboardInterrupt
        differ = prompts[(self.correct[prompts] > 0) & (self.correct[prompts] < self.asked[prompts])]
        return differ, self.gradients[differ]


@pytest.fixture
def world() -> tuple[np.ndarray, np.ndarray]:
    """Half of the prompts are hopeless; the gradients of most others have a direction in common."""
    rng = np.random.default_rng(0)
    p = np.where(np.arange(N) % 2, rng.random(N), 0.0)
    return p, rng.standard_normal((N, D)) + 0.8 * (rng.random(N) < 0.7)[:, None]


def test_a_stage_asks_for_no_more_than_it_may_and_sketches_what_it_completed(world: Any) -> None:
    policy = Simulated(*world, seed=0)
    selector = StagedSelector(IDS, PICKED, settings=GROUPS_OF_8)
    picks = selector.update(policy)
    facts = selector.state.facts
    assert len(picks) == len(set(picks)) == PICKED
    assert np.count_nonzero(policy.asked == 2) == 2 * PICKED
    assert np.count_nonzero(policy.asked == 8) == 2 * PICKED
    assert facts.responses == policy.asked.sum() == 2 * 4 * PICKED + 6 * 2 * PICKED
    differ = np.flatnonzero((policy.asked == 8) & (policy.correct > 0) & (policy.correct < 8))
    assert np.flatnonzero(selector.state.score).tolist() == differ.tolist()
    assert facts.gradients == len(differ)


def test_what_is_known_is_not_asked_again_and_what_is_old_is(world: Any) -> None:
    selector = StagedSelector(IDS, PICKED, settings=replace(GROUPS_OF_8, explore=0.0, decay=0.4))
    selector.update(Simulated(*world, seed=0))
    asked_first = selector.state.history.responses == 8
    selector.observe(np.repeat(IDS[:40], 30).tolist(), [1.0, 0.0] * 600)
    second = Simulated(*world, seed=1)
    selector.update(second)
    assert not second.asked[:40].any(), "thirty responses of the training itself are enough, even aged"
    assert second.asked[40:][asked_first[40:]].any(), "eight that count 0.4 each are not"


def test_hopeless_prompts_are_left_alone_until_explored(world: Any) -> None:
    p = np.where(np.arange(N) < 100, 0.5, 0.0)
    selector = StagedSelector(IDS, PICKED, settings=StageConfig(responses=8, screened=20, completed=20, explore=0.0))
    selector.update(Simulated(p, world[1], seed=0))  # everyone, eight times
    selector.settings = replace(GROUPS_OF_8, explore=0.0)
    second = Simulated(p, world[1], seed=1)
    selector.update(second)
    assert not second.asked[100:].any()
    selector.settings = replace(GROUPS_OF_8, explore=0.5)
    third = Simulated(p, world[1], seed=2)
    selector.update(third)
    assert np.count_nonzero(third.asked[100:]) > 20


def test_scores_are_the_definition_without_the_diagonal() -> None:
    rng = np.random.default_rng(3)
    phi, value = rng.standard_normal((30, D)) * rng.random((30, 1)), rng.random(30) / 4
    z = value[:, None] * phi / np.linalg.norm(phi, axis=1, keepdims=True)
    similar = z @ z.T
    np.fill_diagonal(similar, 0.0)
    np.testing.assert_allclose(scores(phi, value), similar.sum(axis=1) / 29, atol=1e-7)
    assert scores(phi[:1], value[:1]) == 0, "no others to agree with"


def test_a_gradient_that_cannot_be_compared_takes_no_part() -> None:
    rng = np.random.default_rng(4)
    phi, value = rng.standard_normal((5, D)), rng.random(5)
    with_bad = np.insert(phi, [1, 3], [np.zeros(D), np.full(D, np.nan)], axis=0)
    found = scores(with_bad, np.insert(value, [1, 3], 0.25))
    np.testing.assert_array_equal(np.delete(found, [1, 4]), scores(phi, value))
    assert (found[[1, 4]] == 0).all()
    with pytest.raises(ArrayError, match=r"must have shape \[5, d\], found \[4, 64\]"):
        scores(phi[:4], value)


def test_picks_are_drawn_in_proportion_to_the_score() -> None:
    score = np.array([0.0, 1.0, 2.0, 0.0, 5.0, -1.0])
    first = [int(_draw(score, score * 0, 2, np.random.default_rng(seed))[0]) for seed in range(4000)]
    share = np.bincount(first, minlength=6) / 4000
    np.testing.assert_allclose(share, np.array([0, 1, 2, 0, 5, 0]) / 8, atol=0.03)  # four standard errors


def test_prompts_without_a_score_fill_up_before_those_that_disagree() -> None:
    score, promise = np.array([0.0, 1.0, 2.0, 0.0, 0.0, -1.0]), np.array([0.1, 0.0, 0.0, 0.2, 0.2, 0.3])
    draws = [_draw(score, promise, 6, np.random.default_rng(seed)).tolist() for seed in range(50)]
    assert {tuple(sorted(drawn[:2])) for drawn in draws} == {(1, 2)}
    assert {tuple(drawn[2:]) for drawn in draws} == {(3, 4, 0, 5), (4, 3, 0, 5)}, "of equals random ones"


def test_old_evidence_counts_less_and_drifts_to_the_pools_mean() -> None:
    history = History(3)
    history.add(np.array([0, 1, 1]), [0, 3, 1], [8, 4, 4])
    assert history.responses.tolist() == [8, 8, 0]
    assert history.success_rate()[0] < history.success_rate()[2] < history.success_rate()[1]
    old = history.aged(0.5).aged(0.5)
    assert old.correct.tolist() == [0, 1, 0]
    assert old.promise()[0] > history.promise()[0]
    with pytest.raises(ArrayError, match="from 0 to the number of responses"):
        history.add(np.array([0]), [3], [2])


def test_what_training_saw_last_of_a_prompt_counts_most() -> None:
    history, other = History(2), History(2)
    for step in range(6):  # a prompt that was a coin and is settled: verdicts of both kinds, then of one
        history.follow(np.zeros(8, np.int64), np.arange(8) < (4 if step < 3 else 8), decay=0.5)
        other.add(np.zeros(8, np.int64), np.arange(8) < (4 if step < 3 else 8), 1)
    assert history.responses.tolist() == [8 * (2 - 2.0**-5), 0]
    assert history.promise()[0] < 0.5 * other.promise()[0]


@pytest.mark.parametrize("fail_in", ["respond", "sketch"])
def test_a_kill_in_a_stage_changes_nothing(world: Any, tmp_path: Path, fail_in: str) -> None:
    straight = StagedSelector(IDS, PICKED)
    for seed in range(3):
        straight.update(Simulated(*world, seed=seed))
        straight.observe(straight.picks, [1.0] * PICKED)
    for seed in range(3):
        killed = StagedSelector(IDS, PICKED, directory=tmp_path)
        with pytest.raises(KeyboardInterrupt):
            killed.update(Simulated(*world, seed=seed, fail_in=fail_in))
        assert killed.stage == seed
        again = StagedSelector(IDS, PICKED, directory=tmp_path)
        again.update(Simulated(*world, seed=seed))
        again.observe(again.picks, [1.0] * PICKED)
    after = StagedSelector(IDS, PICKED, directory=tmp_path)
    assert after.picks == straight.picks
    for name in ("correct", "responses"):
        np.testing.assert_array_equal(getattr(after.state.history, name), getattr(straight.state.history, name))
    np.testing.assert_array_equal(after.state.score, straight.state.score)
    assert after.state.facts == straight.state.facts
    assert len(list(tmp_path.iterdir())) == 1, "only the last state is kept"


def test_a_torn_line_of_observations_is_left_out(world: Any, tmp_path: Path) -> None:
    selector = StagedSelector(IDS, PICKED, directory=tmp_path)
    selector.update(Simulated(*world, seed=0))
    selector.observe(["p1", "p2"], [1.0, 0.0])
    before = selector.state.history.responses.copy()
    log = tmp_path / "stage-0001" / "observed.jsonl"
    with log.open("a") as file:
        file.write('{"prompts": [3')
    again = StagedSelector(IDS, PICKED, directory=tmp_path)
    np.testing.assert_array_equal(again.state.history.responses, before)
    again.observe(["p3"], [1.0])
    third = StagedSelector(IDS, PICKED, directory=tmp_path).state.history.responses
    np.testing.assert_array_equal(third, again.state.history.responses)
    assert third[3] == before[3] / 2 + 1


def test_the_last_stage_is_the_one_of_the_highest_number(tmp_path: Path) -> None:
    """Stage 10,000 sorts before stage 9,999 as text. A kill between two stages may leave both."""
    folder, other = Folder(tmp_path, IDS), Folder(tmp_path / "other", IDS)
    folder.write(first_state(N)._replace(stage=9_999))
    other.write(first_state(N)._replace(stage=10_000))
    shutil.move(tmp_path / "other" / "stage-10000", tmp_path)
    shutil.copytree(tmp_path / "stage-10000", tmp_path / "stage-10001.partial")
    found = folder.read(0.5)
    assert found is not None
    assert found.stage == 10_000


def test_bad_input_is_refused_in_one_line(world: Any, tmp_path: Path) -> None:
    with pytest.raises(ArrayError, match="must all differ: 1 repeat"):
        StagedSelector(["a", "b", "a"], 1)
    with pytest.raises(ArrayError, match="the pool is empty"):
        StagedSelector([], 1)
    with pytest.raises(ArrayError, match="between 1 and 2, found 3"):
        StagedSelector(["a", "b"], 3)
    with pytest.raises(ConfigError, match=r"stage\.responses must be more than the 2 that all screened prompts give"):
        StageConfig(responses=2)
    with pytest.raises(ConfigError, match=r"stage\.screened must be at least as much as stage.completed, found 1"):
        StageConfig(screened=1.0)
    selector = StagedSelector(IDS, PICKED, directory=tmp_path)
    with pytest.raises(RunError, match="before the first stage"):
        selector.observe(["p0"], [1.0])
    selector.update(Simulated(*world, seed=0))
    with pytest.raises(ArrayError, match="'q' is not in the pool"):
        selector.observe(["q"], [1.0])
    with pytest.raises(ArrayError, match="one finite reward for each of 1 ids"):
        selector.observe(["p0"], [float("nan")])
    with pytest.raises(RunError, match="stages of another pool"):
        StagedSelector(IDS[1:], PICKED, directory=tmp_path)
    (tmp_path / "stage-0001" / "prompts.parquet").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"cannot be read .* delete it to begin anew"):
        StagedSelector(IDS, PICKED, directory=tmp_path)
