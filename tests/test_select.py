"""Selections are in the right order, ties included, and impossible requests are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnalign.errors import ArrayError
from learnalign.scoring import score
from learnalign.selection import STRATEGIES, select, top


def in_order(scores: np.ndarray, learnability: np.ndarray) -> list[int]:
    """Python's sort, by the rule itself."""
    return sorted(range(len(scores)), key=lambda row: (not learnability[row] > 0, -scores[row], row))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), rows=st.integers(1, 60))
def test_top_is_the_sorted_order(data: st.DataObject, rows: int) -> None:
    """Few distinct values, so that ties and rows with nothing to learn are everywhere."""
    scores = np.array(data.draw(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0]), min_size=rows, max_size=rows)))
    values = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.25]), min_size=rows, max_size=rows)))
    n = data.draw(st.integers(1, rows))
    picked = top(scores, values, n)
    assert picked.dtype == np.int64
    assert picked.tolist() == in_order(scores, values)[:n]


def test_top_of_a_large_pool() -> None:
    rng = np.random.default_rng(0)
    scores, values = rng.integers(-50, 50, 20_000) / 7, rng.integers(0, 3, 20_000) / 10
    for n in (1, 777, 20_000):
        assert top(scores, values, n).tolist() == in_order(scores, values)[:n]


def test_equal_scores_go_to_the_lower_row() -> None:
    assert top(np.full(9, 0.3), np.full(9, 0.1), 4).tolist() == [0, 1, 2, 3]


def test_learnable_rows_go_first_even_below_zero() -> None:
    scores = np.array([0.0, -0.2, 0.0, -0.1])
    assert top(scores, np.array([0.0, 0.2, 0.0, 0.1]), 4).tolist() == [3, 1, 0, 2]


def test_select_scores_and_picks() -> None:
    rng = np.random.default_rng(1)
    phi, p = rng.standard_normal((50, 9)), rng.integers(0, 5, 50) / 4
    selection = select(phi, p, 12)
    assert np.array_equal(selection.scores, score(phi, p))
    assert selection.indices.tolist() == in_order(selection.scores, p * (1 - p))[:12]
    assert np.array_equal(selection.gains, selection.scores[selection.indices])
    assert set(STRATEGIES) == {"top"}


def test_prompts_of_one_row_each_do_not_depend_on_the_order_of_the_pool() -> None:
    rng = np.random.default_rng(2)
    phi, p = rng.standard_normal((200, 30)), rng.uniform(0.1, 0.9, 200)
    order = rng.permutation(200)
    picked = select(phi, p, 20).indices
    assert order[select(phi[order], p[order], 20).indices].tolist() == picked.tolist()


@pytest.mark.parametrize("n", [0, -1, 6, 2**70, 2.0, "3", None, True])
def test_impossible_n(n: Any) -> None:
    for call in (lambda: select(np.eye(5), np.full(5, 0.5), n), lambda: top(np.ones(5), np.ones(5), n)):
        with pytest.raises(ArrayError, match=r"n \(how many rows to select\) must"):
            call()


def test_bad_input() -> None:
    with pytest.raises(ArrayError, match="unknown strategy 'best': expected one of top"):
        select(np.eye(2), np.full(2, 0.5), 1, strategy="best")
    with pytest.raises(ArrayError, match="NaN in row 1"):
        top(np.array([0.0, np.nan, np.nan]), np.ones(3), 1)
    with pytest.raises(ArrayError, match="NaN in row 2"):
        top(np.ones(3), np.array([0.0, 1.0, np.nan]), 1)
    with pytest.raises(ArrayError, match=r"found shapes \[3\] and \[2\]"):
        top(np.ones(3), np.ones(2), 1)
    with pytest.raises(ArrayError, match=r"success_rate must lie in \[0, 1\]"):
        select(np.eye(2), np.array([0.5, 2.0]), 1)
