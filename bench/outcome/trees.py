"""Groups as trees of prefixes: what the responses of a group share runs once, forward and backward.

A row of a batch holds the trees of some groups one after the other. A token sees its ancestors and itself, and its
position is its depth, so that every response has the logits that it has by itself. This module knows no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Tokens = tuple[int, ...]
WIDTH = 64
"""Tokens of a row, unless a tree is larger."""


class Tree(NamedTuple):
    """The different prefixes of some responses to a prompt, an entry a token."""

    ids: list[int]
    parent: list[int]
    """-1 for the first."""
    ends: list[list[int]]
    """Of every response: which entry its tokens are foretold from."""


def tree(prompt: Tokens, texts: Sequence[Tokens]) -> Tree:
    """The prompt is a chain, the responses branch off its end."""
    ids, parent = list(prompt), list(range(-1, len(prompt) - 1))
    entry: dict[Tokens, int] = {(): len(prompt) - 1}
    ends = []
    for text in texts:
        for k in range(1, len(text)):
            if text[:k] not in entry:
                ids.append(text[k - 1])
                parent.append(entry[text[: k - 1]])
                entry[text[:k]] = len(ids) - 1
        ends.append([entry[text[:k]] for k in range(len(text))])
    return Tree(ids, parent, ends)


def hidden(model: Any, trees: Sequence[Tree]) -> Tensor:
    """[sum of the trees' tokens, hidden size] last hidden states, tree after tree."""
    rows = _rows([len(one.ids) for one in trees])
    width = max(max(sum(len(trees[k].ids) for k in row) for row in rows), 1)
    ids = np.zeros((len(rows), width), np.int64)
    depth = np.zeros((len(rows), width), np.int64)
    sees = np.zeros((len(rows), width, width), np.bool_)
    sees[:, np.arange(width), np.arange(width)] = True  # padding sees itself, so that no row of the softmax is empty
    where: list[tuple[int, int]] = [(0, 0)] * len(trees)
    for r, row in enumerate(rows):
        first = 0
        for k in row:
            where[k] = (r, first)
            ids[r, first : first + len(trees[k].ids)] = trees[k].ids
            for child, parent in enumerate(trees[k].parent):
                if parent >= 0:
                    sees[r, first + child] |= sees[r, first + parent]
                    depth[r, first + child] = depth[r, first + parent] + 1
            first += len(trees[k].ids)
    found: Tensor = model.model(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(sees)[:, None],
        position_ids=torch.from_numpy(depth),
        use_cache=False,
    ).last_hidden_state
    at = [r * width + first + k for (r, first), one in zip(where, trees, strict=True) for k in range(len(one.ids))]
    return found.flatten(0, 1)[torch.tensor(at)]


def _rows(sizes: Sequence[int]) -> list[list[int]]:
    """Which trees share a row: the largest first, each into the first row with room."""
    room: list[int] = []
    rows: list[list[int]] = []
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        r = next((r for r, left in enumerate(room) if left >= sizes[k]), len(rows))
        if r == len(rows):
            room.append(max(WIDTH, sizes[k]))
            rows.append([])
        rows[r].append(k)
        room[r] -= sizes[k]
    return rows
