"""Selecting in a run directory: strategies, target sets, quotas and histories change what they should and say it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from learnalign.cli import app
from learnalign.config import (
    Config,
    PolicyConfig,
    PoolConfig,
    RewardConfig,
    RolloutConfig,
    SelectConfig,
    SketchConfig,
    choices,
)
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import ArrayError, CostlyProductsError, PoolError
from learnalign.policy import load_renderer
from learnalign.pool.values import column_values
from learnalign.progress import Progress
from learnalign.report import render
from learnalign.runs import pipeline
from learnalign.runs.directory import create_run, open_run
from learnalign.runs.stages.report import facts
from learnalign.runs.stages.rollout import tokenized
from learnalign.selection import STRATEGIES
from learnalign.store import SketchReader

PROMPTS, SELECTED = 84, 15


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over 84 generated problems, with a history of each beside it."""
    folder = tmp_path_factory.mktemp("runs")
    pool = write_pool(folder / "pool.jsonl", PROMPTS, seed=3)
    config = Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=1024, dtype="int8"),
        select=SelectConfig(n=SELECTED),
    )
    ids = [json.loads(line)["id"] for line in pool.open()]
    (folder / "history.json").write_text(json.dumps({i: [0.0, k / PROMPTS] for k, i in enumerate(ids)}))
    return pipeline.run(config, folder / "run").directory


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def select_again(run: Path, **settings: Any) -> list[dict[str, Any]]:
    """Run again under other settings of [select]; the selected lines."""
    config = open_run(run).config
    result = pipeline.run(replace(config, select=replace(config.select, **settings)), run)
    return [json.loads(line) for line in result.selection_jsonl.open()]


@pytest.mark.parametrize("strategy", choices("select.strategy"))
def test_every_strategy_from_the_command_line(run: Path, finished: Path, strategy: str) -> None:
    history = f"select.history={finished.parent / 'history.json'}"
    kept = (run / "scores.parquet").stat().st_mtime_ns
    result = CliRunner().invoke(app, ["run", str(run), "--strategy", strategy, "--set", history, "-q"])
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    assert f"{SELECTED} prompts were selected: {STRATEGIES[strategy].what} (strategy {strategy})." in told
    lines = [json.loads(line) for line in (run / "selection.jsonl").open()]
    scores = {row["prompt_id"]: row for row in pq.read_table(run / "scores.parquet").to_pylist()}
    assert [line["learnalign_rank"] for line in lines] == list(range(1, SELECTED + 1))
    assert len({line["id"] for line in lines}) == SELECTED
    value = {
        "top": lambda row: row["score"],
        "band": lambda row: row["learnability"],
        "length": lambda row: row["response_tokens"],
        "history": lambda row: int(row["prompt_id"].split("-")[-1]) / PROMPTS / 2,
    }.get(strategy)
    if value is not None:
        order = sorted(scores.values(), key=lambda row: (-value(row), row["row"]))
        if strategy == "top":
            order.sort(key=lambda row: row["learnability"] == 0)
        assert [line["id"] for line in lines] == [row["prompt_id"] for row in order[:SELECTED]]
        assert [line["learnalign_gain"] for line in lines] == pytest.approx([value(row) for row in order[:SELECTED]])
    if strategy in ("greedy", "random_positive"):
        assert min(line["learnalign_score"] for line in lines) > 0
    assert (run / "scores.parquet").stat().st_mtime_ns == kept, "nothing is scored again"
    assert "strategy " + strategy in (run / "report.html").read_text()
    recorded = open_run(run).record("select")["strategy"]
    assert recorded["name"] == strategy
    assert ("neighbors" in recorded) == (strategy == "greedy")


def test_greedy_covers_more_than_top_and_records_its_recall(run: Path) -> None:
    """F over the prompts of score > 0, from the stored sketches and the definition."""
    scores, reader = pq.read_table(run / "scores.parquet").to_pylist(), SketchReader(run / "sketches")
    z = {r["prompt_id"]: r["learnability"] * reader[r["prompt_id"]].astype(float) for r in scores if r["score"] > 0}
    z = {i: row / np.linalg.norm(reader[i].astype(float)) for i, row in z.items()}
    points = np.array(list(z.values()))

    def covered(lines: list[dict[str, Any]]) -> float:
        return float(np.maximum(points @ np.array([z[line["id"]] for line in lines]).T, 0).max(axis=1).sum())

    best, greedy = (select_again(run, strategy=name) for name in ("top", "greedy"))
    assert covered(greedy) > 1.01 * covered(best)
    facts_of = open_run(run).record("select")["strategy"]
    assert facts_of["neighbors"]["recall"] == 1.0
    assert facts_of["objective"] == pytest.approx(covered(greedy), rel=1e-3)


def test_the_seed_decides_and_is_recorded(run: Path) -> None:
    one, again, other = (select_again(run, strategy="random", seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert open_run(run).record("select")["inputs"]["select.seed"] == 2


def test_a_quota_a_source_and_a_quota_a_column(run: Path) -> None:
    lines = select_again(run, quota_share=0.2, quota_column="family")
    families = [line["family"] for line in lines]
    assert max(families.count(name) for name in families) <= 3
    assert len(lines) == SELECTED
    assert "at most 20.0% from one family" in " ".join(render(facts(open_run(run))).split())
    with pytest.raises(PoolError, match=r"no row has a value in column 'topic': check select.quota_column"):
        select_again(run, quota_column="topic")
    lines = select_again(run, quota_column="", quota_share=0.2)  # every source is "": one group, and too few are left
    assert len(lines) == 3
    notes = pipeline.result(open_run(run)).notes
    assert any("the constraints leave 3 of 15" in note for note in notes)


def test_columns_of_every_kind_of_pool(tmp_path: Path) -> None:
    records = [{"a": {"b": "x"}, "n": 1}, {"a": {"b": "y"}, "n": 2}, {"n": 3}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "p.json").write_text(json.dumps(records))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "p.parquet")
    for name in ("p.jsonl", "p.json", "p.parquet"):
        assert column_values(tmp_path / name, "a.b", [2, 0, 1]) == ["", "x", "y"]
        assert column_values(tmp_path / name, "n", [1]) == ["2"]
        with pytest.raises(PoolError, match=r"no row has a value in column 'a\.c'"):
            column_values(tmp_path / name, "a.c", [0])
        with pytest.raises(PoolError, match="has no row 3, only 3"):
            column_values(tmp_path / name, "n", [3])


def test_no_two_selected_prompts_are_near_duplicates(run: Path) -> None:
    reader = SketchReader(run / "sketches")
    lines = select_again(run, duplicate_cosine=0.05)
    unit = np.array([reader[line["id"]] for line in lines if line["id"] in reader], np.float64)
    unit /= np.linalg.norm(unit, axis=1)[:, None]
    assert (unit @ unit.T - 2 * np.eye(len(unit))).max() < 0.05
    assert lines != select_again(run, duplicate_cosine=0.0)


def test_a_target_set_is_measured_like_the_pool_and_draws_the_selection(run: Path, tmp_path: Path) -> None:
    """Scores are V u . m_T, from the sketches of the run within the run; the target's family gains."""
    whole = [json.loads(line) for line in write_pool(tmp_path / "more.jsonl", 560, seed=9).open()]
    target = tmp_path / "target.jsonl"
    target.write_text("\n".join(json.dumps(row) for row in whole if row["family"] == "sort"))
    before = select_again(run)
    result = CliRunner().invoke(app, ["run", str(run), "--target", str(target)])
    assert result.exit_code == 0, result.output
    assert "mean gradient of the target set target.jsonl" in " ".join(result.output.split())
    lines = [json.loads(line) for line in (run / "selection.jsonl").open()]
    ours, theirs = (SketchReader(folder / "sketches") for folder in (run, run / "target"))
    units = [row.astype(float) / np.linalg.norm(row.astype(float)) for _, b in theirs.blocks() for row in b]
    direction = np.mean(units, axis=0)
    for row in pq.read_table(run / "scores.parquet").to_pylist():
        if row["prompt_id"] in ours:
            phi = ours[row["prompt_id"]].astype(float)
            cosine = phi @ direction / np.linalg.norm(phi)
            assert row["score"] == pytest.approx(row["learnability"] * cosine, rel=1e-3, abs=1e-6)
            assert row["alignment"] == pytest.approx(cosine / np.linalg.norm(direction), rel=1e-3, abs=1e-5)
    share = [sum(line["family"] == "sort" for line in some) for some in (before, lines)]
    assert share[1] > share[0]
    assert theirs.identity == ours.identity or set(theirs.identity) == set(ours.identity)
    assert pipeline.verify(open_run(run)) == []
    # another target is other rollouts: refused; without one, the old scores come back
    target.write_text(target.read_text().splitlines()[0])
    with pytest.raises(CostlyProductsError, match="target/rollouts was made with other inputs"):
        select_again(run)
    assert select_again(run, target="") == before


def test_a_history_that_names_other_prompts_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"nobody": [0.5]}')
    result = CliRunner().invoke(
        app, ["run", str(run), "--strategy", "history", "--set", f"select.history={tmp_path / 'other.json'}"]
    )
    assert result.exit_code == 2
    result = CliRunner().invoke(app, ["run", str(run), "--strategy", "history", "--set", "select.history="])
    assert result.exit_code == 2
    result = CliRunner().invoke(app, ["run", str(run), "--strategy", "best"])
    assert result.exit_code == 2


@pytest.fixture(scope="module")
def unsolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in which no response is right: nothing is learnable, and no prompt has a sketch."""
    folder = tmp_path_factory.mktemp("unsolved")
    pool = write_pool(folder / "pool.jsonl", 6, seed=3)
    rows = [{**json.loads(line), "answer": "never said"} for line in pool.open()]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "history.json").write_text(json.dumps({row["id"]: [0.0, k / 6] for k, row in enumerate(rows)}))
    config = Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=4),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=1024, dtype="int8"),
        select=SelectConfig(n=3),
    )
    return pipeline.run(config, folder / "run").directory


@pytest.mark.parametrize("strategy", choices("select.strategy"))
@pytest.mark.parametrize("limits", [{}, {"quota_share": 0.5, "quota_column": "family"}, {"duplicate_cosine": 0.9}])
def test_every_strategy_where_nothing_is_learnable(
    unsolved: Path, tmp_path: Path, strategy: str, limits: dict[str, Any]
) -> None:
    run = Path(shutil.copytree(unsolved, tmp_path / "run"))
    history = str(unsolved.parent / "history.json")
    lines = select_again(run, strategy=strategy, history=history, **limits)
    assert 1 <= len(lines) <= 3
    assert all(line["learnalign_score"] == 0.0 for line in lines)
    assert any("only 0 prompts are learnable" in note for note in open_run(run).record("select")["notes"])


def test_a_target_where_nothing_is_learnable(unsolved: Path, finished: Path, tmp_path: Path) -> None:
    """Of the pool: its scores are 0. Of the target: there is no direction, and the message says what to do."""
    run = Path(shutil.copytree(unsolved, tmp_path / "run"))
    lines = select_again(run, strategy="alignment", target=str(finished.parent / "pool.jsonl"))
    assert [line["learnalign_score"] for line in lines] == [0.0] * 3
    run = Path(shutil.copytree(finished, tmp_path / "other"))
    with pytest.raises(ArrayError, match="no prompt of the target set has a gradient"):
        select_again(run, target=str(unsolved.parent / "pool.jsonl"))


def test_the_whole_pool_is_written_back_with_what_was_measured(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    done = CliRunner().invoke(app, ["export", str(run), "--all"])
    assert done.exit_code == 0, done.output
    table, scores = pq.read_table(run / "all.parquet"), pq.read_table(run / "scores.parquet")
    assert table["problem"].to_pylist() == scores["problem"].to_pylist()
    for name in ("success_rate", "learnability", "score", "state", "responses"):
        assert table[f"learnalign_{name}"].to_pylist() == scores[name].to_pylist()
    rows = [json.loads(line) for line in (run / "all.jsonl").read_text().splitlines()]
    assert [row["learnalign_success_rate"] for row in rows] == scores["success_rate"].to_pylist()
    datasets = pytest.importorskip("datasets")
    back = datasets.Dataset.from_parquet(str(run / "all.parquet"), cache_dir=str(tmp_path / "cache"))
    assert back["learnalign_state"][:] == scores["state"].to_pylist()
    assert CliRunner().invoke(app, ["export", str(run)]).exit_code == 2
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["stages"]["score"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    refused = CliRunner().invoke(app, ["export", str(run), "--all"])
    assert refused.exit_code == 2
    assert "has no scores yet" in refused.output


def test_prompts_over_the_trainers_limit_are_skipped_and_told(finished: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text((finished.parent / "pool.jsonl").read_text())
    config = open_run(finished).config
    lengths = [
        len(row["prompt_tokens"]) for row in pq.read_table(finished / "rollouts" / "part-000000.parquet").to_pylist()
    ]
    limit = sorted(set(lengths))[-2]
    asked = replace(config, pool=PoolConfig(path=str(pool)), rollout=replace(config.rollout, max_prompt_tokens=limit))
    run = create_run(tmp_path / "run", replace(asked, select=SelectConfig(n=4)))
    pipeline.advance(run, "pool", Progress(quiet=True))
    prompts, skipped = tokenized(run, load_renderer(config.policy))
    assert len(prompts) + len(skipped) == PROMPTS
    assert max(len(prompt.tokens) for prompt in prompts) == limit
    assert "is longer than rollout.max_prompt_tokens of" in skipped[0][1]


def test_what_cannot_be_exported_is_refused_in_the_pool_step(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PoolError("a type that cannot be written")

    monkeypatch.setattr("learnalign.pool.export.write_parquet", refuse)
    run = create_run(tmp_path / "run", open_run(finished).config)
    with pytest.raises(PoolError, match="a type that cannot be written"):
        pipeline.advance(run, "pool", Progress(quiet=True))
