"""Online selection: that a kill loses nothing, states and checkpoints, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from learnalign.errors import ArrayError, ConfigError, RunError
from learnalign.online import OnlineConfig, OnlineSelector
from learnalign.online.folder import Folder
from tests.online_world import BATCH, IDS, Killed, learned, made

ROOT = Path(__file__).parents[1]


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
from tests.online_world import IDS, made
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
