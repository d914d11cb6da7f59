"""Sampling in rounds: the responses are those of a fixed run, interruptions leave no trace, nothing stale counts."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from learnalign import files
from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import CostlyProductsError, RewardError, RunError
from learnalign.progress import Progress
from learnalign.rollout.allocation import Counts
from learnalign.rollout.engine import Engine
from learnalign.rollout.parts import groups, parts_of
from learnalign.runs import pipeline
from learnalign.runs.directory import RunDir, create_run, open_run
from learnalign.runs.stages import Outcome

PROMPTS, SELECTED = 96, 6
BASE = RolloutConfig(max_new_tokens=16, batch_sequences=64)
ALLOCATIONS = {
    "fixed": BASE,
    "screen": replace(BASE, allocation="screen"),
    "halving": replace(BASE, allocation="halving", responses=20, budget=6.0),
}
RESULTS = ("scores.parquet", "selection.jsonl", "picks.parquet")


def config(pool: Path, rollout: RolloutConfig) -> Config:
    return Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=rollout,
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=1024, dtype="float32", batch_tokens=2048),
        select=SelectConfig(n=SELECTED),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of every allocation over one pool."""
    folder = tmp_path_factory.mktemp("rounds")
    pool = write_pool(folder / "pool.jsonl", PROMPTS, seed=3)
    return {name: pipeline.run(config(pool, how), folder / name).directory for name, how in ALLOCATIONS.items()}


def texts(run: Path) -> dict[tuple[str, int], str]:
    """Every response by prompt and number."""
    rows = (row for part in (run / "rollouts").glob("part-*.parquet") for row in pq.read_table(part).to_pylist())
    found = [((row["prompt_id"], row["response"]), row["text"]) for row in rows]
    assert len(found) == len(dict(found)), "no response is sampled twice"
    return dict(found)


def same_files(one: Path, two: Path) -> None:
    """Byte for byte: responses, verdicts, sketches, results."""
    for folder in ("rollouts", "rewards", "sketches"):
        names = sorted(path.name for path in (one / folder).iterdir())
        assert names == sorted(path.name for path in (two / folder).iterdir())
        for name in names:
            assert (one / folder / name).read_bytes() == (two / folder / name).read_bytes(), f"{folder}/{name}"
    for name in RESULTS:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_responses_are_those_of_a_fixed_run(finished: dict[str, Path]) -> None:
    """Which responses are sampled depends on the allocation; what they say does not."""
    all_of_them = texts(finished["fixed"])
    screened = texts(finished["screen"])
    assert screened.items() <= all_of_them.items()
    common = texts(finished["halving"]).items() & all_of_them.items()
    assert {key for key, _ in common} == texts(finished["halving"]).keys() & all_of_them.keys()


def test_screening_samples_on_where_the_first_two_differ(finished: dict[str, Path]) -> None:
    scores = pq.read_table(finished["screen"] / "scores.parquet")
    full = pq.read_table(finished["fixed"] / "scores.parquet")
    right = Counter()
    for part in (finished["fixed"] / "rewards").glob("part-*.parquet"):
        for row in pq.read_table(part).to_pylist():
            right[row["prompt_id"]] += row["correct"] and row["response"] < 2
    expected = [8 if right[i] == 1 else 2 for i in scores["prompt_id"].to_pylist()]
    assert scores["responses"].to_pylist() == expected
    on = np.array(expected) == 8
    assert 0 < on.sum() < PROMPTS
    np.testing.assert_array_equal(scores["success_rate"].to_numpy()[on], full["success_rate"].to_numpy()[on])
    p = scores["success_rate"].to_numpy()
    np.testing.assert_allclose(scores["learnability"].to_numpy()[on], (p * (1 - p) * 8 / 7)[on])
    assert (scores["learnability"].to_numpy()[~on] == 0).all()


def test_halving_spends_its_budget_on_the_promising(finished: dict[str, Path]) -> None:
    scores = pq.read_table(finished["halving"] / "scores.parquet")
    responses, state = scores["responses"].to_numpy(), scores["state"].to_numpy()
    assert responses.sum() == len(texts(finished["halving"])) <= 6 * PROMPTS
    picked = pq.read_table(finished["halving"] / "picks.parquet")["position"].to_numpy()
    assert (state[picked] == "learnable").all()
    assert responses[picked].min() > responses[state == "dropped"].max()
    assert "dropped" in (finished["halving"] / "report.html").read_text()
    between = (scores["success_rate"].to_numpy() % 1 > 0) & np.isin(state, ("learnable", "dropped"))
    assert scores.filter(between)["gradient_norm"].null_count == 0
    assert np.isfinite(scores["gradient_norm"].to_numpy()[between]).all(), "dropped prompts count in the mean"


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in the package catches it."""


@pytest.mark.parametrize("name", ["screen", "halving"])
def test_killed_at_every_file_and_resumed_is_byte_identical(
    name: str, finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends before every single write of a part, of responses or of verdicts, and is started again."""
    write, killed = files.write_parquet, set()

    def once(path: Path, table: object) -> None:
        if "part-" in path.name and (key := f"{path.parent.name}/{path.name}") not in killed:
            killed.add(key)
            raise Killed
        write(path, table)

    monkeypatch.setattr(files, "write_parquet", once)
    asked = config(finished[name].parent / "pool.jsonl", ALLOCATIONS[name])
    for _ in range(1000):
        try:
            pipeline.run(asked, tmp_path / "run")
            break
        except Killed:
            continue
    written = {f"{p.parent.name}/{p.name}" for p in finished[name].rglob("*part-*.parquet")}
    copied = {name.replace("rollouts/verdicts-", "rewards/") for name in written if "/verdicts-" in name}
    assert killed == written - copied
    assert any("part-r1-" in key for key in killed)
    same_files(finished[name], tmp_path / "run")


def test_killed_by_a_signal_in_the_rounds(finished: dict[str, Path], tmp_path: Path) -> None:
    run, rng = tmp_path / "run", random.Random(0)
    create_run(run, config(finished["halving"].parent / "pool.jsonl", ALLOCATIONS["halving"]))
    command = [sys.executable, "-m", "learnalign.cli", "run", str(run), "--quiet"]
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(rng.randint(3, 9)):
            seen = sorted(run.rglob("*"))
            while process.poll() is None and sorted(run.rglob("*")) == seen:
                time.sleep(0.002)
        assert process.poll() is None, "the kill must come before the end"
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    same_files(finished["halving"], run)


def test_one_engine_serves_all_rounds_and_is_left_before_the_sketches(
    finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines such as vLLM start slowly and hold a GPU's memory: opened once, left after the last round."""
    from learnalign.runs import rounds, sampling
    from learnalign.runs.stages import reward, sketch

    log: list[str] = []
    opened, judge, make = sampling.open_engine, rounds.Rounds.judge, sketch.execute
    judge_last = reward.execute

    class Logged:
        def __init__(self, engine: Engine) -> None:
            self.engine = engine

        def __enter__(self) -> Engine:
            log.append("opened")
            return self.engine.__enter__()

        def __exit__(self, *error: object) -> None:
            log.append("left")
            self.engine.__exit__(*error)

    def judged(*arguments: Any) -> Counts:
        log.append("judged")
        return judge(*arguments)

    def judged_last(*arguments: Any) -> Outcome:
        log.append("judged")
        return judge_last(*arguments)

    def sketched(*arguments: Any) -> Outcome:
        log.append("sketched")
        return make(*arguments)

    monkeypatch.setattr(sampling, "open_engine", lambda *arguments: Logged(opened(*arguments)))
    monkeypatch.setattr(rounds.Rounds, "judge", judged)
    monkeypatch.setattr(reward, "execute", judged_last)
    monkeypatch.setattr(sketch, "execute", sketched)
    asked = config(finished["halving"].parent / "pool.jsonl", ALLOCATIONS["halving"])
    pipeline.run(asked, tmp_path / "run")
    assert log == ["opened", "judged", "judged", "judged", "left", "judged", "sketched"]
    same_files(finished["halving"], tmp_path / "run")
    log.clear()

    def failing(*_: object) -> None:
        raise RewardError("no verdicts")

    monkeypatch.setattr(rounds.Rounds, "judge", failing)
    with pytest.raises(RewardError):
        pipeline.run(asked, tmp_path / "failing")
    assert log == ["opened", "left"]


@pytest.fixture
def sampled(finished: dict[str, Path], tmp_path: Path) -> RunDir:
    """A run with all rounds of `screen` sampled, and only the first judged."""
    run = create_run(tmp_path / "run", config(finished["screen"].parent / "pool.jsonl", ALLOCATIONS["screen"]))
    with run.locked():
        pipeline.advance(run, "rollout", Progress(quiet=True))
    return run


def test_a_round_adds_verdicts_and_undoes_none(sampled: RunDir) -> None:
    made = {path.name.removeprefix("verdicts-"): path for path in (sampled.path / "rollouts").glob("verdicts-*")}
    assert sampled.record("rollout")["state"] == "done"
    assert made
    assert not any(name.startswith("part-r1") for name in made)
    with sampled.locked():
        pipeline.advance(sampled, "reward", Progress(quiet=True))
    rewards = {path.name: path for path in (sampled.path / "rewards").iterdir()}
    assert made.keys() < rewards.keys()
    assert all(rewards[name].read_bytes() == path.read_bytes() for name, path in made.items())
    assert not any(pipeline.stale(sampled).values())


def test_verdicts_of_deleted_responses_do_not_steer(sampled: RunDir, tmp_path: Path) -> None:
    """Responses are deleted and sampled with another seed: the verdicts that are left over decide nothing."""
    for path in (sampled.path / "rollouts").iterdir():
        path.unlink()
    other = replace(sampled.config, rollout=replace(sampled.config.rollout, seed=1))
    again = pipeline.run(other, sampled.path).directory
    same_files(pipeline.run(other, tmp_path / "fresh").directory, again)


def change_verifier(c: Config) -> Config:
    return replace(c, reward=replace(c.reward, verifier="math"))


def change_n(c: Config) -> Config:
    return replace(c, select=SelectConfig(n=SELECTED + 1))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("screen", change_verifier, r"reward\.verifier: exact -> math"),
        ("halving", change_n, r"rollout\.keep: 12 -> 14"),
    ],
)
def test_what_steered_the_rounds_cannot_change_unasked(
    name: str, change: Callable[[Config], Config], message: str, finished: dict[str, Path]
) -> None:
    with pytest.raises(CostlyProductsError, match=message):
        pipeline.run(change(open_run(finished[name]).config), finished[name])


def test_fewer_can_be_selected_of_the_same_rounds(finished: dict[str, Path]) -> None:
    old = open_run(finished["halving"]).config
    fewer = replace(old, select=SelectConfig(n=3), rollout=replace(old.rollout, keep=2 * SELECTED))
    lines = (finished["halving"] / "selection.jsonl").read_text().splitlines()
    result = pipeline.run(fewer, finished["halving"])
    ids = [json.loads(line)["id"] for line in result.selection_jsonl.read_text().splitlines()]
    assert ids == [json.loads(line)["id"] for line in lines[:3]]
    pipeline.run(old, finished["halving"])


def test_rounds_that_do_not_fit_are_refused(finished: dict[str, Path], tmp_path: Path) -> None:
    """Groups are whole over the rounds; a part of another run, whose prompts come in another order, is named."""
    run = finished["screen"]
    columns = (("prompt_id", "response"), ("correct",))
    found = list(groups((run / "rollouts", run / "rewards"), columns))
    assert len(found) == PROMPTS
    assert all(table["response"].to_pylist() == list(range(table.num_rows)) for table in found)
    (tmp_path / "rollouts").mkdir()
    for part in parts_of(run / "rollouts", 0):
        files.write_parquet(tmp_path / "rollouts" / part.name, pq.read_table(part))
    part = parts_of(run / "rollouts", 1)[0]
    table = pq.read_table(part)
    files.write_parquet(tmp_path / "rollouts" / part.name, table.take(list(range(table.num_rows))[::-1]))
    with pytest.raises(RunError, match="out of order"):
        list(groups((tmp_path / "rollouts",), (("prompt_id",),)))
