"""`select.order` changes the order of the rows that are written, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, choices
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import ConfigError
from learnalign.runs import pipeline
from learnalign.runs.directory import open_run
from learnalign.selection.order import SIGMA, ordered

N = 4000
RNG = np.random.default_rng(5)
P = RNG.integers(1, 8, N) / 8
ROWS = RNG.permutation(10 * N)[:N]
SOURCE = np.array(["math", "code"])[(RNG.random(N) < 0.25).astype(int)].tolist()


@pytest.mark.parametrize("order", choices("select.order"))
def test_every_order_is_a_permutation_that_the_seed_decides(order: str) -> None:
    place = ordered(order, P, ROWS, SOURCE, seed=1)
    assert sorted(place.tolist()) == list(range(N))
    assert place.tolist() == ordered(order, P, ROWS, SOURCE, seed=1).tolist()
    other = ordered(order, P, ROWS, SOURCE, seed=2)
    assert (place.tolist() != other.tolist()) == (order == "gaussian")
    assert ordered(order, P[:0], ROWS[:0], []).tolist() == []


def test_rank_and_file_are_what_they_say() -> None:
    assert ordered("rank", P, ROWS, SOURCE).tolist() == list(range(N))
    assert ROWS[ordered("file", P, ROWS, SOURCE)].tolist() == sorted(ROWS.tolist())


def test_easy_to_hard_falls_within_each_source_and_ties_keep_their_rank() -> None:
    place = ordered("easy_to_hard", P, ROWS, SOURCE)
    for name in ("math", "code"):
        own = [i for i in place.tolist() if SOURCE[i] == name]
        assert own == sorted(own, key=lambda i: (-P[i], i))


@pytest.mark.parametrize("order", ["easy_to_hard", "gaussian"])
def test_every_stretch_holds_the_sources_in_their_shares(order: str) -> None:
    code = np.array([SOURCE[i] == "code" for i in ordered(order, P, ROWS, SOURCE)])
    for start in range(0, N - 100, 100):
        assert abs(code[start : start + 100].sum() - 100 * code.mean()) <= 1


def test_gaussian_meets_success_rates_around_a_mean_that_falls() -> None:
    """Where the mean is mu, p is met in proportion to (how many have it) exp(-(p - mu)^2 / (2 sigma^2))."""
    levels = np.arange(1, 8) / 8
    many = 200_000
    p = np.random.default_rng(0).choice(levels, many)
    met = p[ordered("gaussian", p, np.arange(many), [""] * many, seed=3)]
    middle = met[many // 2 - 5000 : many // 2 + 5000]  # by symmetry mu = 1/2
    weight = np.exp(-((levels - 0.5) ** 2) / (2 * SIGMA**2))
    shares = [(middle == level).mean() for level in levels]
    assert shares == pytest.approx(weight / weight.sum(), abs=0.02)
    means = [part.mean() for part in np.array_split(met, 10)]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.8 > 0.2 > means[-1]


def test_only_the_order_of_the_written_rows_changes(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.jsonl", 24, seed=3)
    ids = [json.loads(line)["id"] for line in pool.open()]
    config = Config(
        pool=PoolConfig(path=str(pool), source_column="family"),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16),
        reward=RewardConfig(verifier="exact"),
        select=SelectConfig(n=10),
    )
    run = pipeline.run(config, tmp_path / "run").directory
    files = ("selection.jsonl", "selection.parquet", "picks.parquet")
    first = {name: (run / name).read_bytes() for name in files}
    lines = [json.loads(line) for line in (run / "selection.jsonl").open()]
    written = {}
    for order in choices("select.order"):
        pipeline.run(replace(config, select=replace(config.select, order=order)), run)
        record = open_run(run).record("select")
        assert record["inputs"]["select.order"] == order
        assert (f"written in the order {order}" in (run / "report.html").read_text()) == (order != "rank")
        assert (run / "picks.parquet").read_bytes() == first["picks.parquet"]
        written[order] = [json.loads(line) for line in (run / "selection.jsonl").open()]
        assert sorted(written[order], key=lambda line: line["learnalign_rank"]) == lines
        assert pq.read_table(run / "selection.parquet")["id"].to_pylist() == [line["id"] for line in written[order]]
    in_file = [ids.index(line["id"]) for line in written["file"]]
    assert in_file == sorted(in_file)
    for family in {line["family"] for line in lines}:
        rates = [line["learnalign_success_rate"] for line in written["easy_to_hard"] if line["family"] == family]
        assert rates == sorted(rates, reverse=True)
    assert len({json.dumps(some) for some in written.values()}) == 4
    pipeline.run(config, run)
    assert {name: (run / name).read_bytes() for name in files} == first


def test_success_rates_are_needed() -> None:
    with pytest.raises(ConfigError, match=r"select\.order = gaussian goes by success rates, and with reward\.graded"):
        Config(reward=RewardConfig(graded=True), select=SelectConfig(order="gaussian"))
    with pytest.raises(ConfigError, match=r"select\.order must be one of rank, file, easy_to_hard, gaussian"):
        Config(select=SelectConfig(order="random"))
