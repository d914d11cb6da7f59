"""Every strategy against brute force on small arrays; constraints, targets and histories keep their laws."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from learnalign import select
from learnalign.config import choices
from learnalign.errors import ArrayError, MissingPackageError, PoolError
from learnalign.pool.history import read_histories
from learnalign.scoring.rows import Rows
from learnalign.selection import STRATEGIES, Constraints, Prompts, Search, pick
from learnalign.selection import greedy as greedy_module
from learnalign.selection.history import impact, spread

N, D = 60, 24
CPU = Search(device="cpu")


def pool(seed: int = 0, rows: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Rows that lean to one side, and success rates with many ties, some of them 0 and 1."""
    rng = np.random.default_rng(seed)
    phi = rng.standard_normal((rows, D)) + 0.6 * rng.standard_normal(D)
    return phi, rng.integers(0, 9, rows) / 8


def z_of(phi: np.ndarray, p: np.ndarray) -> np.ndarray:
    z: np.ndarray = (p * (1 - p))[:, None] * phi / np.linalg.norm(phi, axis=1)[:, None]
    return z


def brute_greedy(similar: np.ndarray, n: int, allowed: Any = lambda picked, j: True) -> list[int]:
    """Plain greedy facility location over all points, skipping what a rule refuses."""
    covered, picked = np.zeros(len(similar)), list[int]()
    for _ in range(n):
        gains = np.maximum(similar - covered[:, None], 0).sum(axis=0)
        open_ = [j for j in range(len(similar)) if j not in picked and allowed(picked, j)]
        if not open_:
            break
        best = max(open_, key=lambda j: (gains[j], -j))
        picked.append(best)
        covered = np.maximum(covered, similar[:, best])
    return picked


def test_the_settings_name_the_strategies() -> None:
    assert choices("select.strategy") == tuple(STRATEGIES)


def test_rankings_are_the_sorted_order() -> None:
    phi, p = pool()
    z, rows = z_of(phi, p), range(N)
    v, score = p * (1 - p), z @ z.mean(0)
    unit = phi / np.linalg.norm(phi, axis=1)[:, None] * (v > 0)[:, None]
    lengths = np.random.default_rng(1).integers(1, 9, N).astype(float)
    histories = [np.random.default_rng(i).integers(0, 9, 5 + i % 3) / 8 for i in rows]
    keys: dict[str, Any] = {
        "top": lambda i: (v[i] == 0, -score[i], i),
        "band": lambda i: (abs(p[i] - 0.5), i),
        "alignment": lambda i: (v[i] == 0, -(unit @ unit.mean(0))[i], i),
        "length": lambda i: (-lengths[i], i),
        "history": lambda i: (-np.std(histories[i]), i),
        "limr": lambda i: (-impact(histories)[i], i),
    }
    for name, key in keys.items():
        picked = select(phi, p, 25, strategy=name, response_length=lengths, history=histories)
        assert picked.indices.tolist() == sorted(rows, key=key)[:25], name
        assert (np.diff(picked.gains[v[picked.indices] > 0]) <= 0).all(), name


def test_random_and_random_positive_draw_without_favor_and_repeat() -> None:
    phi, p = pool()
    positive = np.flatnonzero(select(phi, p, 1).scores > 0)
    drawn = {name: np.zeros(N) for name in ("random", "random_positive")}
    for seed in range(400):
        for name, counts in drawn.items():
            counts[select(phi, p, 10, strategy=name, seed=seed).indices] += 1
    assert not np.delete(drawn["random_positive"], positive).any()
    for name, among in (("random", N), ("random_positive", len(positive))):
        counts = drawn[name][drawn[name] > 0]
        expected = 4000 / among
        assert len(counts) == among
        assert (np.abs(counts - expected) < 6 * np.sqrt(expected)).all()
    again = [select(phi, p, 10, strategy="random_positive", seed=5).indices.tolist() for _ in range(2)]
    assert again[0] == again[1] != select(phi, p, 10, strategy="random_positive", seed=6).indices.tolist()


def test_random_positive_fills_up_in_the_order_of_top_and_says_so() -> None:
    phi, p = pool()
    positive = int((select(phi, p, 1).scores > 0).sum())
    picked = select(phi, p, positive + 5, strategy="random_positive")
    best = select(phi, p, positive + 5).indices
    assert picked.indices[positive:].tolist() == best[positive:].tolist()
    assert f"only {positive} prompts have a score > 0: the other 5" in picked.notes[0]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_plain_greedy_where_every_pair_is_a_neighbor(seed: int) -> None:
    phi, p = pool(seed, rows=34)
    z = z_of(phi, p)
    positive = np.flatnonzero(z @ z.mean(0) > 0)
    assert 12 <= len(positive) <= 33, "32 neighbors are all there are"
    similar = z[positive] @ z[positive].T
    picked = select(phi, p, 10, strategy="greedy", search=CPU)
    assert picked.indices.tolist() == positive[brute_greedy(similar, 10)].tolist()
    np.testing.assert_allclose(picked.gains.sum(), np.maximum(similar[:, brute_greedy(similar, 10)], 0).max(1).sum())
    assert picked.facts["neighbors"]["recall"] == 1.0
    assert picked.facts["candidates"] == picked.facts["learnable_above_zero"] == len(positive)


def test_greedy_fills_up_in_the_order_of_top() -> None:
    phi, p = pool()
    picked = select(phi, p, N, strategy="greedy", search=CPU)
    positive = int((picked.scores > 0).sum())
    assert set(picked.indices[:positive].tolist()) == set(np.flatnonzero(picked.scores > 0).tolist())
    assert picked.indices[positive:].tolist() == select(phi, p, N).indices[positive:].tolist()
    assert not picked.gains[positive:].any()
    assert any(f"greedy chose {positive} prompts: the other {N - positive}" in note for note in picked.notes)


def test_greedy_of_few_and_none() -> None:
    phi, _ = pool()
    one = np.where(np.arange(N) == 7, 0.5, 0.0)
    assert select(phi, one, 2, strategy="greedy", search=CPU).indices.tolist() == [7, 0]
    assert select(phi, np.zeros(N), 2, strategy="greedy", search=CPU).indices.tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(4))
def test_what_pruning_can_cost_is_bounded(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of `greedy`'s docstring, for every pair T of prompts of score > 0 and every number of candidates."""
    monkeypatch.setattr(greedy_module, "CHEAP_CANDIDATES", 0)
    phi, p = pool(seed, rows=24)
    z, v = z_of(phi, p), p * (1 - p)
    full, score = z @ z.T, z @ z.mean(0)
    positive = np.flatnonzero(score > 0)

    def covered(points: Any, picks: Any) -> float:
        return float(np.maximum(full[np.ix_(points, picks)], 0).max(axis=1).sum()) if len(picks) else 0.0

    for per_pick in (1, 2, 4):
        picked = select(phi, p, 2, strategy="greedy", search=Search(per_pick, device="cpu"))
        size = picked.facts["candidates"]
        assert size == min(2 * per_pick, len(positive))
        candidates = sorted(positive.tolist(), key=lambda i: (-score[i], i))[:size]
        assert set(picked.indices.tolist()) <= set(candidates)
        tau, pruned = score[candidates].min(), sorted(set(positive.tolist()) - set(candidates))
        for some in itertools.combinations(positive.tolist(), 2):
            inside = [j for j in some if j in candidates]
            outside = [j for j in some if j in pruned]
            lost = v.max() * v[pruned].sum() + sum(len(z) * tau + np.maximum(-full[:, j], 0).sum() for j in outside)
            assert covered(positive, some) <= covered(candidates, inside) + lost + 1e-12


# --- constraints


@pytest.mark.parametrize("strategy", ["top", "random", "random_positive", "band", "alignment", "greedy"])
def test_no_group_has_more_than_its_quota(strategy: str) -> None:
    phi, p = pool()
    group = ["abcd"[i % 4] for i in range(N)]
    free = select(phi, p, N, strategy=strategy, search=CPU).indices
    picked = select(phi, p, 12, strategy=strategy, group=group, quota=4, search=CPU)
    counts = [sum(group[i] == name for i in picked.indices.tolist()) for name in "abcd"]
    assert max(counts) <= 4
    assert len(set(picked.indices.tolist())) == 12
    if strategy != "greedy":  # the first of the strategy's order that fit
        expected, room = [], dict.fromkeys("abcd", 4)
        for i in free.tolist():
            if room[group[i]] and len(expected) < 12:
                room[group[i]] -= 1
                expected.append(i)
        assert picked.indices.tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_greedy_under_limits_is_plain_greedy_under_the_same_rule(seed: int) -> None:
    """A refused pick changes all gains after it: they must be those of what is really covered."""
    phi, p = pool(seed, rows=34)
    phi[17:] = phi[:17] + 0.3 * phi[17:]  # pairs of relatives, cosine about 0.95
    z = z_of(phi, p)
    positive = np.flatnonzero(z @ z.mean(0) > 0)
    assert len(positive) <= 33
    unit = phi / np.linalg.norm(phi, axis=1)[:, None]

    def allowed(picked: list[int], j: int) -> bool:
        rows = positive[picked]
        fits = not (rows % 6 == positive[j] % 6).any()
        return fits and not (unit[rows] @ unit[positive[j]] >= 0.9).any()

    expected = positive[brute_greedy(z[positive] @ z[positive].T, 6, allowed)].tolist()
    constraints: dict[str, Any] = {"group": np.arange(34) % 6, "quota": 1, "duplicate_cosine": 0.9}
    picked = select(phi, p, 6, strategy="greedy", search=CPU, **constraints).indices.tolist()
    assert picked == expected
    assert picked != select(phi, p, 6, strategy="greedy", search=CPU).indices.tolist()


@pytest.mark.parametrize("strategy", ["top", "greedy", "random"])
def test_no_two_picks_are_near_duplicates(strategy: str) -> None:
    phi, p = pool(3, rows=600)
    phi[300:] = phi[:300] + 0.05 * np.random.default_rng(1).standard_normal((300, D))
    p[300:] = p[:300]
    picked = select(phi, p, 290, strategy=strategy, duplicate_cosine=0.9, search=CPU)
    unit = phi[picked.indices] / np.linalg.norm(phi[picked.indices], axis=1)[:, None]
    cosines = unit @ unit.T - 2 * np.eye(len(unit))
    assert cosines.max() < 0.9
    if strategy == "top":  # of two near-duplicates the better one stays
        order, kept = select(phi, p, 600).indices.tolist(), list[int]()
        every = phi / np.linalg.norm(phi, axis=1)[:, None]
        for i in order:
            if len(kept) < 290 and not (every[kept] @ every[i] >= 0.9).any():
                kept.append(i)
        assert picked.indices.tolist() == kept


def test_copies_are_near_duplicates_at_a_cosine_of_one() -> None:
    phi, p = np.repeat(pool()[0][:5], 4, axis=0), np.full(20, 0.5)
    picked = select(phi, p, 20, duplicate_cosine=1.0)
    assert len(picked.indices) == 5
    assert sorted(picked.indices % 4) == [0] * 5, "the lower row of equals"
    assert any("the constraints leave 5 of 20: raise the quota or duplicate_cosine" in note for note in picked.notes)


def test_prompts_without_a_gradient_are_no_duplicates_of_each_other() -> None:
    phi, p = pool()
    rows = Rows([phi[:5]])
    row_of = np.array([0, 1, 2, 3, 4, -1, -1])
    values = np.array([0.25] * 5 + [0.0] * 2)
    prompts = Prompts(values, p[:7], values, rows, row_of, lambda v: v)
    assert len(pick(prompts, 7, "top", Constraints(duplicate_cosine=0.99)).indices) == 7


# --- target


def test_scores_against_a_target_are_the_definition() -> None:
    phi, p = pool()
    target = pool(9)[0][:7]
    direction = np.mean([row / np.linalg.norm(row) for row in target], axis=0)
    picked = select(phi, p, 10, target=np.concatenate([target, np.zeros((2, D))]))
    expected = z_of(phi, p) @ direction
    np.testing.assert_allclose(picked.scores, expected, rtol=1e-4, atol=1e-8)
    assert picked.indices.tolist() == sorted(range(N), key=lambda i: (p[i] in (0, 1), -expected[i], i))[:10]


def test_a_target_draws_the_selection_to_its_kind() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((2, D))
    phi = np.concatenate([kinds[0] + 0.3 * rng.standard_normal((50, D)), kinds[1] + 0.3 * rng.standard_normal((9, D))])
    p = np.full(59, 0.5)
    target = kinds[1] + 0.3 * rng.standard_normal((5, D))
    for strategy in ("top", "alignment"):
        assert set(select(phi, p, 9, strategy=strategy).indices.tolist()) <= set(range(50))
        assert set(select(phi, p, 9, strategy=strategy, target=target).indices.tolist()) == set(range(50, 59))


# --- histories


def test_the_published_picks_of_1_shot_rlvr(data_dir: Path) -> None:
    """The standard deviation ranks pi_1, pi_2 and pi_13 first, second and thirteenth (arXiv 2504.20571)."""
    histories = read_histories(data_dir / "one-shot-rlvr" / "acc_step_500.json")
    table = pq.read_table(data_dir / "one-shot-rlvr" / "dsr_sub.parquet")
    index = [info["index"] for info in table["extra_info"].to_pylist()]
    rates = [histories[str(i)] for i in index]
    p = np.array([np.mean(rate) for rate in rates])
    picked = select(np.ones((len(p), 4)), p, len(p), strategy="history", history=rates)
    ranked = [index[i] for i in picked.indices.tolist()]
    assert len(ranked) == 1209
    assert (ranked.index(124), ranked.index(267), ranked.index(682)) == (0, 1, 12)
    assert picked.gains[-104:].max() == 0.0, "104 prompts never changed"
    assert picked.gains[-105] > 0.0


def test_limr_is_its_formula_and_ragged_histories_count_their_own_visits() -> None:
    rates = np.array([[0.0, 0.5, 1.0], [0.5, 0.5, 0.5], [0.0, 0.25, 0.5]])
    curve = rates.mean(axis=0)
    expected = 1 - ((rates - curve) ** 2).sum(1) / ((1 - curve) ** 2).sum()
    np.testing.assert_allclose(impact(rates.tolist()), expected)
    ragged = impact([[0.0, 1.0], [0.5], []])
    np.testing.assert_allclose(ragged[1], 1 - 0.25**2 / 0.75**2)
    assert np.isnan(ragged[2])
    assert impact([[1.0], [1.0]]).tolist() == [1.0, 1.0]
    np.testing.assert_allclose(spread([[0.0, 1.0], [0.5]]), [0.5, 0.0])


def test_prompts_without_a_history_rank_last() -> None:
    phi, p = pool()
    histories: list[list[float]] = [[0.0, i / N] for i in range(N)]
    histories[59] = []
    picked = select(phi, p, N, strategy="history", history=histories)
    assert picked.indices[0] == 58
    assert picked.indices[-1] == 59
    assert "1 prompts have no history and rank last" in picked.notes


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold one JSON object of ids and lists"),
        ("{}", "holds no histories"),
        ('{"7": [0.5, 1.5]}', "the history of prompt '7' must be a list of success rates from 0 to 1"),
        ('{"7": 0.5}', "the history of prompt '7'"),
        ('{"7": [true]}', "the history of prompt '7'"),
    ],
)
def test_what_is_no_history_is_refused(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "h.json").write_text(text)
    with pytest.raises(PoolError, match=line):
        read_histories(tmp_path / "h.json")
    with pytest.raises(PoolError, match="cannot read the histories"):
        read_histories(tmp_path / "none.json")


# --- arrays and messages


def test_int8_rows_of_a_store_are_selected_from_as_they_are(tmp_path: Path) -> None:
    phi, p = pool()
    stored = np.rint(phi * (127 / np.abs(phi).max(axis=1))[:, None]).astype(np.int8)
    np.save(tmp_path / "rows.npy", stored)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for strategy in ("top", "greedy", "alignment"):
        ours = select(mapped, p, 12, strategy=strategy, search=CPU)
        same = select(stored.astype(np.float64), p, 12, strategy=strategy, search=CPU)
        assert ours.indices.tolist() == same.indices.tolist()
        np.testing.assert_allclose(ours.scores, same.scores, rtol=1e-6, atol=1e-12)


def test_top_needs_no_faiss_and_greedy_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    phi, p = pool()
    assert len(select(phi, p, 5, duplicate_cosine=0.9).indices) == 5
    with pytest.raises(MissingPackageError, match=r"learnalign\[faiss\]"):
        select(phi, p, 5, strategy="greedy", search=CPU)


def test_fewer_learnable_than_asked_for_is_said() -> None:
    phi, p = pool()
    learnable = int(((p > 0) & (p < 1)).sum())
    for strategy in ("top", "greedy", "band"):
        notes = select(phi, p, N, strategy=strategy, search=CPU).notes
        assert any(f"only {learnable} prompts are learnable (0 < p < 1) and {N} are asked for" in n for n in notes)
    assert select(phi, p, 5).notes == ()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"strategy": "best"}, "unknown strategy 'best': expected one of top, greedy"),
        ({"strategy": "length"}, "the strategy length needs response_length"),
        ({"strategy": "history"}, "need the success rates of an earlier run"),
        ({"strategy": "limr", "history": [[]] * N}, "no prompt of the pool has a history"),
        ({"history": [[]]}, f"history must hold one list a row: {N}, found 1"),
        ({"response_length": [1.0]}, "response_length must hold one number a row"),
        ({"group": ["a"] * N}, "group and quota belong together"),
        ({"quota": 3}, "group and quota belong together"),
        ({"group": ["a"], "quota": 3}, f"group must hold one value a prompt: {N}, found 1"),
        ({"group": ["a"] * N, "quota": 0}, "quota must be at least 1, found 0"),
        ({"duplicate_cosine": 1.5}, "duplicate_cosine must lie above 0 and up to 1, found 1.5"),
        ({"duplicate_cosine": 0.0}, "found 0.0"),
        ({"target": np.ones((2, D + 1))}, rf"target must have shape \[M, {D}\] with M > 0, found \[2, {D + 1}\]"),
        ({"target": np.zeros((2, D))}, "no prompt of the target set has a gradient"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], line: str) -> None:
    phi, p = pool()
    with pytest.raises(ArrayError, match=line):
        select(phi, p, 3, **arguments)


def test_histories_of_the_readme_shape(tmp_path: Path) -> None:
    (tmp_path / "h.json").write_text(json.dumps({"17": [0.0, 0.125, 1]}))
    assert read_histories(tmp_path / "h.json") == {"17": [0.0, 0.125, 1]}
