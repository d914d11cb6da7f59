"""A run directory: every number is the definition's, nothing is done twice, nothing costly is overwritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

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
from learnalign.errors import CostlyProductsError, PolicyError, PoolError, RunError, RunLockedError
from learnalign.gradient import Group, Pending, Sketched, Sketcher
from learnalign.runs import pipeline
from learnalign.runs.directory import create_run, open_run
from learnalign.store import SketchReader

PROMPTS, SELECTED = 84, 12


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over 84 generated problems; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("runs")
    pool = write_pool(folder / "pool.jsonl", PROMPTS, seed=3)
    config = Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16, batch_sequences=128),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=1024, dtype="float32", batch_tokens=2048),
        select=SelectConfig(n=SELECTED),
    )
    result = pipeline.run(config, folder / "run")
    assert result.notes == ()
    return result.directory


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def times(run: Path) -> dict[str, int]:
    return {str(p.relative_to(run)): p.stat().st_mtime_ns for p in sorted(run.rglob("[!.]*")) if p.is_file()}


def again(run: Path, change: Callable[[Config], Config] = lambda c: c) -> set[str]:
    """Run again under a changed configuration; returns the files that were written."""
    before = times(run)
    pipeline.run(change(open_run(run).config), run)
    return {name for name, when in times(run).items() if before.get(name) != when}


def test_scores_are_the_definition(finished: Path) -> None:
    """score_i = mean_j z_i . z_j over every prompt of the pool, computed as an N x N matrix in float64."""
    table = pq.read_table(finished / "scores.parquet")
    reader = SketchReader(finished / "sketches")
    row_of = {prompt_id: row for row, prompt_id in enumerate(table["prompt_id"].to_pylist())}
    p = table["success_rate"].to_numpy()
    z = np.zeros((PROMPTS, 1024))
    for prompt_id in reader.prompt_ids:
        row, u = row_of[prompt_id], reader[prompt_id].astype(np.float64)
        z[row] = p[row] * (1 - p[row]) * u / np.linalg.norm(u)
    expected = (z @ z.T).mean(axis=1)
    score = table["score"].to_numpy()
    np.testing.assert_allclose(score, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
    learnable = (p > 0) & (p < 1)
    assert (score[~learnable] == 0).all()
    assert set(reader.prompt_ids) == {i for i, ok in zip(row_of, learnable, strict=True) if ok}
    np.testing.assert_array_equal(reader.success_rate, p[[row_of[i] for i in reader.prompt_ids]])


def test_scores_do_not_depend_on_the_sum_that_the_store_keeps(run: Path) -> None:
    """It is known for the stage's own V, and the table has the same bytes without it."""
    table = pq.read_table(run / "scores.parquet")
    value = dict(zip(table["prompt_id"].to_pylist(), table["learnability"].to_pylist(), strict=True))
    reader = SketchReader(run / "sketches")
    assert reader.total(np.array([value[prompt_id] for prompt_id in reader.prompt_ids])) is not None
    before = (run / "scores.parquet").read_bytes()
    (run / "sketches" / "shard-00000.sum").unlink()
    (run / "scores.parquet").unlink()
    pipeline.run(open_run(run).config, run)
    assert (run / "scores.parquet").read_bytes() == before
    assert pipeline.verify(open_run(run)) == []


def test_success_rates_are_counted_from_the_responses(finished: Path) -> None:
    pool = {row["id"]: row["answer"] for row in map(json.loads, (finished.parent / "pool.jsonl").open())}
    right: dict[str, list[bool]] = {}
    for part in sorted((finished / "rollouts").glob("part-*.parquet")):
        for row in pq.read_table(part).to_pylist():
            right.setdefault(row["prompt_id"], []).append(row["text"].strip() == pool[row["prompt_id"]])
    assert {len(v) for v in right.values()} == {8}
    table = pq.read_table(finished / "scores.parquet")
    for prompt_id, p in zip(table["prompt_id"].to_pylist(), table["success_rate"].to_pylist(), strict=True):
        assert p == np.mean(right[prompt_id])
    assert len(set(table["success_rate"].to_pylist())) >= 5, "success rates fill the range"


def test_selection_is_the_pools_own_rows_in_order_of_rank(finished: Path) -> None:
    pool = [json.loads(line) for line in (finished.parent / "pool.jsonl").open()]
    scores = pq.read_table(finished / "scores.parquet")
    score, learnability = scores["score"].to_numpy(), scores["learnability"].to_numpy()
    best = sorted(range(PROMPTS), key=lambda i: (learnability[i] == 0, -score[i], i))[:SELECTED]
    lines = [json.loads(line) for line in (finished / "selection.jsonl").open()]
    assert pq.read_table(finished / "selection.parquet").to_pylist() == lines
    for rank, (row, line) in enumerate(zip(best, lines, strict=True), start=1):
        assert {key: line[key] for key in pool[row]} == pool[row]
        assert (line["learnalign_rank"], line["learnalign_score"]) == (rank, score[row])
        assert line["learnalign_learnability"] == learnability[row]
        assert line["learnalign_success_rate"] == scores["success_rate"][row].as_py()
        assert -1 <= line["learnalign_alignment"] <= 1


def test_a_finished_run_is_left_alone(run: Path) -> None:
    assert again(run) == {"config.toml"}
    assert all(not changes for changes in pipeline.stale(open_run(run)).values())


def test_rows_without_an_answer_do_not_shift_the_others(tmp_path: Path) -> None:
    """Positions among the prompts that were read are not row numbers of the file."""
    write_pool(tmp_path / "whole.jsonl", 56, seed=5)
    lines = (tmp_path / "whole.jsonl").read_text().splitlines()
    first = {**json.loads(lines[0]), "answer": None}
    pool = tmp_path / "pool.jsonl"
    pool.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    config = Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16),
        reward=RewardConfig(verifier="exact"),
        select=SelectConfig(n=10),
    )
    result = pipeline.run(config, tmp_path / "run")
    assert any("1 prompts left out" in note for note in result.notes)
    scores = {row["prompt_id"]: row["score"] for row in pq.read_table(tmp_path / "run/scores.parquet").to_pylist()}
    assert len(scores) == 55
    for line in map(json.loads, result.selection_jsonl.open()):
        assert line["learnalign_score"] == scores[line["id"]]


def test_another_n_selects_again_and_nothing_else(run: Path) -> None:
    written = again(run, lambda c: replace(c, select=SelectConfig(n=5)))
    assert {name.split("/")[0] for name in written} == {
        *("config.toml", "manifest.json", "report.html"),
        *("selection.jsonl", "selection.parquet", "picks.parquet"),
    }
    assert len((run / "selection.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: replace(c, rollout=replace(c.rollout, seed=9)), "rollout.seed: 0 -> 9"),
        (
            lambda c: replace(c, rollout=replace(c.rollout, temperature=0.5)),
            "rollout.temperature: 1.0 -> 0.5",
        ),
        (lambda c: replace(c, sketch=replace(c.sketch, seed=1)), "sketch.seed: 0 -> 1"),
        (lambda c: replace(c, sketch=replace(c.sketch, dimension=512)), "sketch.dimension: 1024 -> 512"),
        (lambda c: replace(c, sketch=replace(c.sketch, rank=64)), "sketch.rank: 0 -> 64"),
        (lambda c: replace(c, sketch=replace(c.sketch, weighting="token")), "sketch.weighting: mean -> token"),
        (lambda c: replace(c, pool=replace(c.pool, limit=50)), "pool: "),
    ],
)
def test_costly_products_are_not_overwritten(run: Path, change: Callable[[Config], Config], named: str) -> None:
    before = open_run(run).config
    kept = {name: when for name, when in times(run).items() if "rollouts" in name or "sketches" in name}
    with pytest.raises(CostlyProductsError) as caught:
        again(run, lambda c: replace(change(c), select=SelectConfig(n=5)))
    assert named in str(caught.value)
    assert "delete" in str(caught.value)
    assert open_run(run).config == before, "the refused configuration is taken back"
    assert kept.items() <= times(run).items()
    again(run)  # and the old configuration still stands


def test_another_policy_is_refused(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(POLICY, tmp_path / "policy"))
    (other / "notes.txt").write_text("fine-tuned")
    with pytest.raises(CostlyProductsError, match="policy: "):
        again(run, lambda c: replace(c, policy=replace(c.policy, model=str(other))))


def test_deleted_sketches_are_made_again_to_the_bit(run: Path) -> None:
    before = (run / "scores.parquet").read_bytes()
    shutil.rmtree(run / "sketches")
    written = again(run)
    assert any("sketches" in name for name in written)
    assert not any("rollouts" in name for name in written)
    assert (run / "scores.parquet").read_bytes() == before


def test_other_batches_go_on_where_the_first_ones_stopped(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller sketch.batch_tokens, after memory ran out, keeps what is in the store."""
    whole = {row["prompt_id"]: row["score"] for row in pq.read_table(run / "scores.parquet").to_pylist()}
    real, calls = Sketcher.launch, iter(range(100))

    def launch(sketcher: Sketcher, groups: list[Group]) -> Pending:
        if next(calls) == 1:
            raise PolicyError("out of memory")
        return real(sketcher, groups)

    monkeypatch.setattr(Sketcher, "launch", launch)
    shutil.rmtree(run / "sketches")
    with pytest.raises(PolicyError, match="out of memory"):
        again(run)
    kept = len(SketchReader(run / "sketches").prompt_ids)
    assert kept > 0
    again(run, lambda c: replace(c, sketch=replace(c.sketch, batch_tokens=700)))
    scores = {row["prompt_id"]: row["score"] for row in pq.read_table(run / "scores.parquet").to_pylist()}
    assert scores == pytest.approx(whole, rel=1e-3, abs=1e-9)


def test_gradients_that_are_not_finite_or_zero_are_set_aside(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts lose their gradient: they are reported, score 0, and are picked after every learnable one."""
    real, broken = Pending.wait, iter([(0, np.nan), (1, 0.0)])

    def wait(pending: Pending) -> Sketched:
        found = real(pending)
        for row, value in broken:
            found.phi[row] = value
        return found

    monkeypatch.setattr(Pending, "wait", wait)
    shutil.rmtree(run / "sketches")
    again(run, lambda c: replace(c, select=SelectConfig(n=PROMPTS)))
    table = {row["prompt_id"]: row for row in pq.read_table(run / "scores.parquet").to_pylist()}
    aside = {i: row for i, row in table.items() if row["state"] == "excluded"}
    assert sorted(row["reason"] for row in aside.values()) == [
        "gradient is not finite",
        "gradient is zero: all rewards are equal",
    ]
    assert all(row["score"] == 0 and 0 < row["success_rate"] < 1 for row in aside.values())
    order = [json.loads(line)["id"] for line in (run / "selection.jsonl").open()]
    learnable = sum(row["state"] == "learnable" for row in table.values())
    assert not set(aside) & set(order[:learnable])
    assert set(aside) <= set(order)
    assert any("2 prompts excluded" in note for note in pipeline.result(open_run(run)).notes)


def test_more_than_the_pool_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.jsonl", 28)
    config = Config(PoolConfig(path=str(pool)), PolicyConfig(model=str(POLICY)), select=SelectConfig(n=29))
    with pytest.raises(PoolError, match=r"29 prompts .* pool of 28"):
        pipeline.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "rollouts").exists()


def test_fewer_learnable_prompts_than_asked_for_is_said(run: Path) -> None:
    asked = PROMPTS
    again(run, lambda c: replace(c, select=SelectConfig(n=asked)))
    lines = [json.loads(line) for line in (run / "selection.jsonl").open()]
    flags = [line["learnalign_learnability"] > 0 for line in lines]
    assert flags == sorted(flags, reverse=True), "the learnable ones come first"
    assert len(lines) == asked
    # The note belongs to the stage that reads n.
    result = pipeline.result(open_run(run))
    assert any("are learnable" in note and f"{asked} are asked for" in note for note in result.notes)


def test_verify_finds_a_flipped_bit_and_a_missing_file(run: Path) -> None:
    assert pipeline.verify(open_run(run)) == []
    shard = next((run / "sketches").glob("*.npy"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    (run / "selection.jsonl").unlink()
    damage = "\n".join(pipeline.verify(open_run(run)))
    assert shard.name in damage
    assert "selection.jsonl: missing" in damage


def test_a_second_process_is_refused(run: Path) -> None:
    opened = open_run(run)
    with opened.locked(), pytest.raises(RunLockedError, match="in use by process"):
        pipeline.run(opened.config, run)


def test_foreign_and_broken_directories_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="not a run directory"):
        create_run(foreign, Config())
    with pytest.raises(RunError, match="not a run directory"):
        open_run(tmp_path / "nowhere")
    for text in ("{", "[]", '{"format": 1}', '{"format": 99, "stages": {}}'):
        broken = tmp_path / "broken"
        broken.mkdir(exist_ok=True)
        (broken / "manifest.json").write_text(text)
        expected = "has format 99" if "99" in text else "is not a manifest of learnalign"
        with pytest.raises(RunError, match=expected):
            create_run(broken, Config())


def test_a_directory_of_before_the_new_names_is_refused(tmp_path: Path) -> None:
    """In one line, although its configuration has a section that is unknown now."""
    (tmp_path / "manifest.json").write_text('{"format": 1, "stages": {}}')
    (tmp_path / "config.toml").write_text("[stage]\nvisits = 3\n")
    with pytest.raises(RunError, match=r"was made before learnalign 0\.1\.0.*name a new run directory"):
        open_run(tmp_path)
