"""`learnalign stage` over a run directory: resumed at any point, fed with the training's logs, ready for verl."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from learnalign import rundir, staging
from learnalign.cli import app
from learnalign.config import (
    Config,
    PolicyConfig,
    PoolConfig,
    RewardConfig,
    RolloutConfig,
    SelectConfig,
    SketchConfig,
)
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import CostlyProductsError, LogError, RunError
from learnalign.progress import Progress
from learnalign.rollout.local import LocalEngine
from learnalign.staged.history import History
from learnalign.stages import sketch

PICKED = 8


def refuse(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    pool = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    write_pool(pool, 84, seed=3)
    return Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16, batch_sequences=32),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=1024),
        select=SelectConfig(n=PICKED),
    )


@pytest.fixture(scope="module")
def staged(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory after its first stage."""
    directory = tmp_path_factory.mktemp("staged") / "run"
    staging.stage(directory, config, [], Progress(quiet=True))
    return directory


def log_of(config: Config, path: Path, correct: bool, step: int | None = 1) -> Path:
    """Rollouts of the pool's first 10 prompts as verl logs them: 4 of each."""
    path.mkdir(exist_ok=True)
    lines = Path(config.pool.path).read_text().splitlines()[:10]
    number = {} if step is None else {"step": step}
    rows = [{"input": json.loads(line)["problem"], "output": "1", "score": float(correct), **number} for line in lines]
    (path / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows for _ in range(4)))
    return path


def test_a_stage_leaves_rows_of_the_pool(config: Config, staged: Path) -> None:
    picked = [json.loads(line) for line in (staged / "stages/0001/selection.jsonl").read_text().splitlines()]
    pool = {row["id"]: row for row in map(json.loads, Path(config.pool.path).read_text().splitlines())}
    assert [row["learnalign_rank"] for row in picked] == list(range(1, PICKED + 1))
    for row in picked:
        assert pool[row["id"]] == {k: v for k, v in row.items() if not k.startswith("learnalign_")}
    table = pq.read_table(staged / "stages/0001/selection.parquet")
    assert table["id"].to_pylist() == [row["id"] for row in picked]


@pytest.mark.parametrize("killed_in", ["screening", "completing", "sketching", "writing"])
def test_killed_anywhere_a_stage_ends_as_if_it_had_not_been(
    config: Config, staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    sampled: list[int] = []
    sample = LocalEngine.sample

    def dying(self: Any, tasks: Any) -> Any:
        first_round = tasks[0].first == 0
        if sampled and ((killed_in == "screening" and first_round) or (killed_in == "completing" and not first_round)):
            raise KeyboardInterrupt
        sampled.append(len(tasks))
        return sample(self, tasks)

    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "sample", dying)
        if killed_in == "sketching":
            patch.setattr(sketch, "_sketch", refuse)
        if killed_in == "writing":
            patch.setattr(staging, "write_selection", refuse)
        with pytest.raises(KeyboardInterrupt):
            staging.stage(directory, config, [], Progress(quiet=True))
    assert sampled, "it had begun"
    result = staging.stage(directory, config, [], Progress(quiet=True))
    assert result.stage == 1
    for name in ("selection.jsonl", "selection.parquet"):
        assert (directory / "stages/0001" / name).read_bytes() == (staged / "stages/0001" / name).read_bytes()
    assert result.facts == json.loads((staged / "stages/state/stage-0001/state.json").read_text())["facts"]


def test_the_trainings_own_rollouts_count_once(
    config: Config, staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(staged, directory)
    log = log_of(config, tmp_path / "rollouts", correct=True)

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(LocalEngine, "sample", refuse)
            with pytest.raises(KeyboardInterrupt):
                staging.stage(directory, config, [log], Progress(quiet=True))
    after = staging._selector(rundir.open_existing(directory)).state.history
    before = staging._selector(rundir.open_existing(staged)).state.history
    left = np.where(np.arange(84) < 10, config.stage.decay, 1.0)
    assert (after.responses - before.responses * left).tolist() == [4.0] * 10 + [0.0] * 74
    assert (after.correct - before.correct * left).tolist() == [4.0] * 10 + [0.0] * 74
    result = staging.stage(directory, config, [log], Progress(quiet=True))
    assert result.stage == 2
    assert not np.isin(np.arange(10), result_prompts(directory, config)).all()


@pytest.mark.parametrize("numbered", [True, False])
def test_a_folder_of_logs_that_grows_may_be_given_again(
    config: Config, staged: Path, tmp_path: Path, numbered: bool
) -> None:
    """Steps with a number count once in all, in their order; logs without count once a stage."""

    def observe(folder: Path) -> History:
        run = rundir.open_existing(directory)
        staging._observe(run, staging._selector(run), [folder], Progress(quiet=True), "", "")
        return staging._selector(run).state.history

    directory, decay = tmp_path / "run", config.stage.decay
    shutil.copytree(staged, directory)
    history = staging._selector(rundir.open_existing(directory)).state.history
    expected = history.responses.copy(), history.correct.copy()
    steps = (10, 9) if numbered else (None,)  # 10.jsonl sorts before 9.jsonl as text
    for step in steps:
        log = log_of(config, tmp_path / "rollouts", correct=step != 9, step=step)
    for step in reversed(steps):
        expected[0][:10] = expected[0][:10] * decay + 4
        expected[1][:10] = expected[1][:10] * decay + 4 * (step != 9)
    for _ in range(2):
        found = observe(log)
        np.testing.assert_allclose(found.responses, expected[0])
        np.testing.assert_allclose(found.correct, expected[1])
    if numbered:
        found = observe(log_of(config, tmp_path / "rollouts", correct=True, step=11))
        np.testing.assert_allclose(found.responses[:10], expected[0][:10] * decay + 4)
        staging.stage(directory, config, [log], Progress(quiet=True))
        counted = staging._selector(rundir.open_existing(directory)).state
        assert (counted.stage, counted.counted) == (2, 11)
        assert np.array_equal(observe(log).responses, counted.history.responses)


def result_prompts(directory: Path, config: Config) -> list[int]:
    ids = [json.loads(line)["id"] for line in Path(config.pool.path).read_text().splitlines()]
    return [ids.index(i) for i in pq.read_table(directory / "stages/0002/selection.parquet")["id"].to_pylist()]


def test_another_policy_within_a_stage_is_refused_and_nothing_lost(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"

    with monkeypatch.context() as patch:
        patch.setattr(sketch, "_sketch", refuse)
        with pytest.raises(KeyboardInterrupt):
            staging.stage(directory, config, [], Progress(quiet=True))
    parts = {p: p.stat().st_mtime_ns for p in (directory / "stages/0001/rollouts").iterdir()}
    other = tmp_path / "policy"
    shutil.copytree(POLICY, other)
    (other / "added.txt").write_text("another")
    moved = replace(config, policy=PolicyConfig(model=str(other)))
    with pytest.raises(CostlyProductsError, match=r"stage 1 was begun with other inputs \(policy: .*delete .*0001"):
        staging.stage(directory, moved, [], Progress(quiet=True))
    assert {p: p.stat().st_mtime_ns for p in (directory / "stages/0001/rollouts").iterdir()} == parts
    assert staging.stage(directory, config, [], Progress(quiet=True)).stage == 1


def test_logs_that_tell_nothing_are_refused(config: Config, staged: Path, tmp_path: Path) -> None:
    log = log_of(config, tmp_path / "rollouts", correct=True)
    with pytest.raises(RunError, match="belongs to a later stage"):
        staging.stage(tmp_path / "new", config, [log], Progress(quiet=True))
    directory = tmp_path / "run"
    shutil.copytree(staged, directory)
    (log / "1.jsonl").write_text('{"input": "1+1", "output": "2"}\n')
    with pytest.raises(LogError, match="hold no rewards"):
        staging.stage(directory, config, [log], Progress(quiet=True))


def test_the_command_prints_what_it_cost_and_where_the_next_prompts_are(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["stage", str(run), "--pool", config.pool.path, "--policy", str(POLICY), "-n", str(PICKED), "--json"]
    for key, value in (("reward.verifier", "exact"), ("rollout.max_new_tokens", "16"), ("sketch.dimension", "1024")):
        arguments += ["--set", f"{key}={value}"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    printed = json.loads(found.stdout)
    assert printed["stage"] == 1
    assert printed["responses"] == PICKED * 3 * 4
    assert Path(printed["parquet"]).is_file()
    refused = CliRunner().invoke(app, ["stage", str(run), "--policy", str(tmp_path / "nothing")])
    assert refused.exit_code == 2
    assert "cannot" in refused.stderr
