"""`learnalign next` over a run directory: resumed at any point, fed with the training's logs, ready for verl."""

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

from learnalign.cli import app
from learnalign.config import Config, PolicyConfig, PoolConfig, SelectConfig, SketchConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import CostlyProductsError, LogError, RunError
from learnalign.gradient import Group, Sketcher
from learnalign.logs.importing import logged_steps
from learnalign.online import OnlineSelector, known
from learnalign.online import next as next_module
from learnalign.online.history import History
from learnalign.online.next import next_prompts
from learnalign.policy import load_policy, load_renderer
from learnalign.progress import Progress
from learnalign.runs.directory import open_run
from learnalign.scoring.rows import Rows
from learnalign.store import SketchReader

PICKED, LOGGED = 8, 10


def refuse(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    pool = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    write_pool(pool, 84, seed=3)
    return Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        sketch=SketchConfig(dimension=1024, batch_tokens=64),
        select=SelectConfig(n=PICKED),
    )


def log_of(config: Config, path: Path, step: int | None = 1, share: float = 0.5) -> Path:
    """Rollouts of the pool's first prompts as verl logs them: 4 of each, of which so many are right."""
    path.mkdir(exist_ok=True)
    number = {} if step is None else {"step": step}
    rows = []
    for row in map(json.loads, Path(config.pool.path).read_text().splitlines()[:LOGGED]):
        for k in range(4):
            right = k < 4 * share
            output = row["answer"] if right else f"{k}{row['answer']}"
            rows.append({"input": row["problem"], "output": output, "score": float(right), **number})
    (path / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def after(directory: Path) -> OnlineSelector:
    """The selector after the last call."""
    run = open_run(directory)
    return next_module._selector(run, next_module._done(run))


@pytest.fixture(scope="module")
def online(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory after its first call."""
    directory = tmp_path_factory.mktemp("online") / "run"
    next_prompts(directory, config, [], Progress(quiet=True))
    return directory


@pytest.fixture(scope="module")
def log(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return log_of(config, tmp_path_factory.mktemp("log") / "rollouts")


@pytest.fixture(scope="module")
def twice(config: Config, online: Path, log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after its second call, which compared gradients."""
    directory = tmp_path_factory.mktemp("twice") / "run"
    shutil.copytree(online, directory)
    next_prompts(directory, config, [log], Progress(quiet=True), gradients=True)
    return directory


def test_a_call_leaves_rows_of_the_pool(config: Config, online: Path) -> None:
    picked = [json.loads(line) for line in (online / "online/0001/selection.jsonl").read_text().splitlines()]
    pool = {row["id"]: row for row in map(json.loads, Path(config.pool.path).read_text().splitlines())}
    assert [row["learnalign_rank"] for row in picked] == list(range(1, PICKED + 1))
    assert {row["learnalign_weight"] for row in picked} == {1.0}
    for row in picked:
        assert pool[row["id"]] == {k: v for k, v in row.items() if not k.startswith("learnalign_")}
    table = pq.read_table(online / "online/0001/selection.parquet")
    assert table["id"].to_pylist() == [row["id"] for row in picked]


def test_calls_go_over_the_whole_pool_by_verdicts_alone(config: Config, log: Path, tmp_path: Path) -> None:
    """Ten calls of 8 are a pass over 80 of 84 prompts; nothing is sketched, and one state is kept."""
    found = []
    for number in range(1, 11):
        result = next_prompts(tmp_path, config, [log], Progress(quiet=True))
        assert result.number == number
        assert result.facts["gradients"] == 0
        assert result.facts["responses"] == (4 * LOGGED if number == 1 else 0), "a step of the logs counts once"
        found += pq.read_table(result.files.parquet)["id"].to_pylist()
    assert len(found) == len(set(found)) == 80
    assert after(tmp_path).known.schedule.taken == 80
    assert [path.parent.name for path in tmp_path.glob("online/*/state")] == ["0010"]
    assert not list(tmp_path.glob("online/*/gradients"))


def test_logged_responses_give_gradients_and_weights(config: Config, twice: Path) -> None:
    found = after(twice).known
    agreement = found.agreement(np.arange(84))
    assert np.flatnonzero(~np.isnan(agreement)).tolist() == list(range(LOGGED))
    assert (found.schedule.weight[agreement < 0] == config.online.floor).all()
    table = pq.read_table(twice / "online/0002/selection.parquet")
    assert set(table["learnalign_weight"].to_pylist()) <= set(found.schedule.weight.tolist())


def test_sketches_are_of_a_pair_of_logged_responses(config: Config, twice: Path) -> None:
    policy = load_policy(config.policy)
    reader = SketchReader(twice / "online/0002/gradients/sketches")
    rows = [json.loads(line) for line in Path(config.pool.path).read_text().splitlines()]
    at = [row["id"] for row in rows].index(reader.prompt_ids[0])
    answer, end = rows[at]["answer"], policy.eos_ids[0]
    responses = [
        [*policy.tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in (answer, f"2{answer}")
    ]
    group = Group(policy.encode(rows[at]["problem"], None), responses, [1.0, 0.0])
    expected = Sketcher(policy.model, SketchConfig(dimension=1024), temperature=config.rollout.temperature).sketch(
        [group]
    )[0]
    found = Rows(reader.shards).unit(np.arange(1))[0]
    assert float(found @ expected) / np.linalg.norm(expected) > 0.999  # stored in one byte a number


@pytest.mark.parametrize("killed_in", ["sketching", "comparing", "writing"])
def test_killed_anywhere_a_call_ends_as_if_it_had_not_been(
    config: Config,
    online: Path,
    twice: Path,
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_in: str,
) -> None:
    made: list[int] = []
    sketched = Sketcher.measure

    def dying(sketcher: Any, groups: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        made.append(len(groups))
        return sketched(sketcher, groups)

    directory = tmp_path / "run"
    shutil.copytree(online, directory)
    with monkeypatch.context() as patch:
        if killed_in == "sketching":
            patch.setattr(Sketcher, "measure", dying)
        elif killed_in == "comparing":
            patch.setattr(known, "compare", refuse)
        else:
            patch.setattr(next_module, "write_selection", refuse)
        with pytest.raises(KeyboardInterrupt):
            next_prompts(directory, config, [log], Progress(quiet=True), gradients=True)
    if killed_in == "sketching":
        assert 0 < made[0] < LOGGED
    with monkeypatch.context() as patch:
        if killed_in != "sketching":
            patch.setattr(Sketcher, "measure", refuse)  # all were there
        result = next_prompts(directory, config, [log], Progress(quiet=True), gradients=True)
    assert result.number == 2
    assert result.facts["gradients"] == LOGGED
    assert result.facts["responses"] == 4 * LOGGED, "what the killed call counted is forgotten with it"
    for name in ("selection.jsonl", "selection.parquet"):
        assert (directory / "online/0002" / name).read_bytes() == (twice / "online/0002" / name).read_bytes()
    assert after(directory).state_dict() == after(twice).state_dict()


def test_logged_responses_of_no_prompt_are_told(config: Config, online: Path, tmp_path: Path) -> None:
    log, told = log_of(config, tmp_path / "rollouts"), list[str]()
    rows = [json.loads(line) for line in next(log.iterdir()).read_text().splitlines()]
    other = [{**rows[0], "input": "what is 8 times 9?"}] * 3
    (log / "2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *other]))
    run = open_run(online)
    steps = logged_steps(run, [log / "2.jsonl"], load_renderer(run.config.policy), say=told.append)
    assert sum(len(sampled) for _, sampled in steps) == len(rows)
    assert told[-1] == (
        f"3 of {len(rows) + 3} logged responses belong to no prompt of the pool, such as 'what is 8 times 9?'"
    )


@pytest.mark.parametrize("numbered", [True, False])
def test_a_folder_of_logs_that_grows_may_be_given_again(config: Config, tmp_path: Path, numbered: bool) -> None:
    """Steps with a number count once in all, in their order; logs without count once a call."""

    def observe(folder: Path) -> History:
        next_prompts(directory, config, [folder], Progress(quiet=True))
        return after(directory).known.history

    directory, decay = tmp_path / "run", config.online.decay
    responses, correct = np.zeros(LOGGED), np.zeros(LOGGED)
    steps = (10, 9) if numbered else (None,)  # 10.jsonl sorts before 9.jsonl as text
    for step in steps:
        log = log_of(config, tmp_path / "rollouts", step, share=0.5 if step == 9 else 1.0)
    for call in range(2):
        for step in reversed(steps):
            if not numbered or not call:
                responses, correct = responses * decay + 4, correct * decay + (2 if step == 9 else 4)
        found = observe(log)
        np.testing.assert_allclose(found.responses[:LOGGED], responses)
        np.testing.assert_allclose(found.correct[:LOGGED], correct)
    if numbered:
        found = observe(log_of(config, tmp_path / "rollouts", step=11))
        np.testing.assert_allclose(found.responses[:LOGGED], responses * decay + 4)
        assert after(directory).known.counted == 11


def test_another_policy_within_a_call_is_refused_and_nothing_lost(
    config: Config, online: Path, twice: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(online, directory)
    with monkeypatch.context() as patch:
        patch.setattr(known, "compare", refuse)
        with pytest.raises(KeyboardInterrupt):
            next_prompts(directory, config, [log], Progress(quiet=True), gradients=True)
    shards = {p: p.stat().st_mtime_ns for p in (directory / "online/0002/gradients/sketches").glob("*.npy")}
    assert shards
    other = tmp_path / "policy"
    shutil.copytree(POLICY, other)
    (other / "added.txt").write_text("another")
    moved = replace(config, policy=PolicyConfig(model=str(other)))
    with pytest.raises(CostlyProductsError, match=r"call 2 was begun with other inputs \(policy: .*0002/gradients"):
        next_prompts(directory, moved, [log], Progress(quiet=True), gradients=True)
    assert {p: p.stat().st_mtime_ns for p in shards} == shards
    assert next_prompts(directory, config, [log], Progress(quiet=True), gradients=True).number == 2
    later = next_prompts(directory, moved, [log_of(config, tmp_path / "log", 2)], Progress(quiet=True), gradients=True)
    assert (later.number, later.facts["gradients"]) == (3, LOGGED), "a new call has a new checkpoint"
    assert after(directory).known.measured[:LOGGED].tolist() == [2] * LOGGED


def test_another_random_map_than_before_is_refused(config: Config, twice: Path, log: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(twice, directory)
    turned = replace(config, sketch=replace(config.sketch, seed=5))
    with pytest.raises(RunError, match=r"call 3 has other settings than those before \(sketch\.seed: 0 -> 5\): keep"):
        next_prompts(directory, turned, [log], Progress(quiet=True), gradients=True)


def test_logs_that_tell_nothing_are_refused(config: Config, online: Path, tmp_path: Path) -> None:
    log = log_of(config, tmp_path / "rollouts")
    directory = tmp_path / "run"
    shutil.copytree(online, directory)
    with pytest.raises(RunError, match="call 2 learns from the training's own rollouts: name them with --observed"):
        next_prompts(directory, config, [], Progress(quiet=True))
    (log / "1.jsonl").write_text('{"input": "1+1", "output": "2"}\n')
    with pytest.raises(LogError, match="hold no rewards"):
        next_prompts(directory, config, [log], Progress(quiet=True))


def test_the_command_prints_what_it_found_and_where_the_next_prompts_are(
    config: Config, log: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ["next", str(run), "--policy", str(POLICY), "--json"]
    first = [*arguments, "--pool", config.pool.path, "-n", str(PICKED), "--set", "sketch.dimension=1024"]
    found = CliRunner().invoke(app, first)
    assert found.exit_code == 0, found.output
    printed = json.loads(found.stdout)
    assert (printed["number"], printed["responses"], printed["gradients"], printed["unseen"]) == (1, 0, 0, PICKED)
    assert Path(printed["parquet"]).is_file()
    found = CliRunner().invoke(app, [*arguments, "--observed", str(log), "--gradients"])
    assert found.exit_code == 0, found.output
    printed = json.loads(found.stdout)
    assert (printed["number"], printed["responses"], printed["gradients"]) == (2, 4 * LOGGED, LOGGED)
    found = CliRunner().invoke(app, ["next", str(run), "--observed", str(log)])
    assert found.exit_code == 0, found.output
    assert "call 3: 0 responses observed, 0 gradients compared; of the picks 6 are new" in found.stdout
    refused = CliRunner().invoke(app, ["next", str(run), "--policy", str(tmp_path / "nothing"), "--observed", str(log)])
    assert refused.exit_code == 2
    assert "cannot" in refused.stderr
