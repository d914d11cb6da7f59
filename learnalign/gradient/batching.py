"""How groups of responses become one batch.

A row holds a prompt and r of its responses, one after the other:

    p p p p | a a a | b b b b b | c c

With r > 1 a tree attention mask lets a token see the prompt and its own response only, and positions restart at
the end of the prompt, so that every response is computed as if it stood alone while the prompt runs once. With
r = 1 the model makes its own causal mask. The last token of a response predicts nothing and is left out.

Sharing saves tokens in the linear layers and costs attention over longer rows, so r is chosen per batch by the
cheaper estimate (`Costs`). This module knows no model beyond those costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from learnalign.gradient.groups import Weighted
from learnalign.kernels.transfers import to_device


class Lengths(Protocol):
    """Anything with a prompt and responses."""

    @property
    def prompt(self) -> Sequence[int]: ...
    @property
    def responses(self) -> Sequence[Sequence[int]]: ...


@dataclass(frozen=True)
class Costs:
    """What decides how many responses share a copy of their prompt.

    share: whether sharing is possible at all. token, pair: relative costs of a token in the linear layers and of
    a pair of tokens in attention. window: the longest prompt with response for which the tree mask is exact, such
    as a sliding window; 0 for no limit. boundary: rows of up to so many tokens and longer ones must not meet in a
    batch; 0 for none. honored: whether trees of so many tokens give what separate rows give; None for always.
    """

    share: bool = False
    token: float = 1.0
    pair: float = 0.0
    window: int = 0
    boundary: int = 0
    honored: Callable[[int], bool] | None = None

    def together(self, groups: Sequence[Lengths]) -> int:
        """r, the responses in a row: the cheapest of 1, 2, 4, ... and all; the smaller in a tie."""
        most = max((len(g.responses) for g in groups), default=1)
        return self.cheapest(most, max(map(_longest_path, groups), default=0), lambda r: grid(groups, r))

    def padded(self, groups: Sequence[Lengths]) -> int:
        """Padded tokens of the batch that these groups make."""
        rows, length = grid(groups, self.together(groups))
        return rows * length

    def cheapest(self, most: int, longest: int, grid_of: Callable[[int], tuple[int, int]]) -> int:
        """`together` of groups of at most `most` responses, of which the longest with its prompt has `longest` tokens.

        grid_of: rows and length of their padded batch, from r.
        """
        if not self.share or most < 2 or (self.window and longest > self.window):
            return 1

        def cost(r: int) -> float:
            rows, length = grid_of(r)
            return rows * length * (self.token + length * self.pair)

        found = min(sorted({most, *(1 << k for k in range(most.bit_length()) if 1 << k < most)}), key=cost)
        return found if found == 1 or self.honored is None or self.honored(longest) else 1


def _longest_path(group: Lengths) -> int:
    return len(group.prompt) + max(map(len, group.responses), default=0)


@dataclass(frozen=True)
class Batch:
    """Whole groups as tensors. N response tokens, S groups; a group's rows and tokens stand together, in order."""

    input_ids: Tensor  # int64 [rows, length]
    attention_mask: Tensor  # int64 [rows, length], or bool [rows, 1, length, length]: who sees whom
    position_ids: Tensor | None  # int64 [rows, length], given with the 4-D mask
    predictors: Tensor  # int64 [N]: flat positions whose outputs predict the targets
    targets: Tensor  # int64 [N]
    coefficients: Tensor  # float64 [N]
    kl_weights: Tensor  # float64 [N]
    token_offsets: list[int]  # S + 1, into the flat positions
    target_offsets: list[int]  # S + 1, into the targets

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        moved: Any = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True)
class _Row:
    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.prompt) + sum(len(response) - 1 for response in self.responses)


def rows_of(group: Lengths, r: int) -> list[_Row]:
    """The group's rows of at most r responses; responses without tokens need no row."""
    responses = [response for response in group.responses if len(response)]
    return [_Row(group.prompt, responses[k : k + r]) for k in range(0, len(responses), r)]


def grid(groups: Sequence[Lengths], r: int) -> tuple[int, int]:
    """Rows and length of the padded batch."""
    rows = [len(row) for group in groups for row in rows_of(group, r)]
    return len(rows), max(rows, default=0)


def pack(groups: Sequence[Weighted], r: int, device: torch.device | str = "cpu") -> Batch:
    """Right-padded rows of r responses each. The groups hold no empty responses."""
    count, length = grid(groups, r)
    ids = np.zeros((count, length), dtype=np.int64)
    branches = np.full((count, length), -1, dtype=np.int64)  # 0: prompt, 1 ...: response, -1: padding
    positions = np.zeros((count, length), dtype=np.int64)
    predictors: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    token_offsets, target_offsets, number = [0], [0], 0
    for group in groups:
        for row in rows_of(group, r):
            _fill(row, ids[number], branches[number], positions[number], number * length, predictors, targets)
            number += 1
        token_offsets.append(number * length)
        target_offsets.append(target_offsets[-1] + sum(map(len, group.responses)))
    coefficients = np.concatenate([c for group in groups for c in group.coefficients])
    kl_weights = np.concatenate([w for group in groups for w in group.kl_weights])
    arrays = [ids, branches, positions, np.concatenate(predictors), np.concatenate(targets), coefficients, kl_weights]
    input_ids, branch, position_ids, *tokens = to_device(arrays, torch.device(device))
    predictor, target, coefficient, kl_weight = tokens
    return Batch(
        input_ids,
        (branch >= 0).long() if r == 1 else tree_mask(branch),
        None if r == 1 else position_ids,
        predictor,
        target,
        coefficient,
        kl_weight,
        token_offsets,
        target_offsets,
    )


def _fill(
    row: _Row,
    ids: np.ndarray,
    branches: np.ndarray,
    positions: np.ndarray,
    flat: int,
    predictors: list[np.ndarray],
    targets: list[np.ndarray],
) -> None:
    """Write one row in place, and append where its response tokens are predicted, and what they are."""
    start = len(row.prompt)
    ids[:start], branches[:start], positions[:start] = row.prompt, 0, np.arange(start)
    for branch, response in enumerate(row.responses, 1):
        stop = start + len(response) - 1
        ids[start:stop], branches[start:stop] = response[:-1], branch
        positions[start:stop] = len(row.prompt) + np.arange(stop - start)
        # The prompt's last token predicts the first token of every response.
        predictors.append(flat + np.r_[len(row.prompt) - 1, start:stop])
        targets.append(np.asarray(response, dtype=np.int64))
        start = stop


def tree_mask(branch: Tensor) -> Tensor:
    """bool [rows, 1, length, length]: a token sees what is not after it, in the prompt or in its own branch.

    branch: int64 [rows, length], 0 for the prompt, -1 for padding. Padding sees itself, so that no softmax is
    empty, and nothing but padding sees it.
    """
    length = branch.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    seen, seeing = branch[:, None, :], branch[:, :, None]
    return (((seen == 0) | (seen == seeing)) & earlier)[:, None]


def batches(groups: Sequence[Lengths], batch_tokens: int, costs: Costs | None = None) -> list[list[int]]:
    """Groups of like length together, at most `batch_tokens` padded tokens each (a larger group stays alone).

    costs: how prompts are shared; None shares nothing. Returns lists of positions in `groups`. A pure function of
    its arguments, so that a resumed run makes the same batches, and with them the same rounding, as an
    uninterrupted one.
    """
    result: list[list[int]] = []
    growing = _Growing(costs or Costs())
    for i in sorted(range(len(groups)), key=lambda i: (_longest_path(groups[i]), i)):
        if not result or not growing.takes(groups[i], batch_tokens):
            growing = _Growing(growing.costs)
            growing.takes(groups[i], 0)
            result.append([])
        result[-1].append(i)
    return result


class _Growing:
    """A batch that grows by whole groups: rows and length for every r, so that every group is looked at once."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.most = self.longest = 0
        self._groups: list[Lengths] = []
        self._grids: dict[int, tuple[int, int]] = {}

    def takes(self, group: Lengths, batch_tokens: int) -> bool:
        """Add a group if the padded tokens stay within the limit; the first is taken in any case."""
        most, longest = max(self.most, len(group.responses)), max(self.longest, _longest_path(group))
        own: dict[int, tuple[int, int]] = {}

        def grid_of(r: int) -> tuple[int, int]:
            if r not in own:
                own[r] = _joined(self._grid(r), grid([group], r))
            return own[r]

        if self._groups:
            rows, length = grid_of(self.costs.cheapest(most, longest, grid_of))
            if rows * length > batch_tokens:
                return False
        self._grids = {r: grid_of(r) for r in self._grids}
        self._groups.append(group)
        self.most, self.longest = most, longest
        return True

    def _grid(self, r: int) -> tuple[int, int]:
        if r not in self._grids:
            self._grids[r] = grid(self._groups, r)
        return self._grids[r]


def _joined(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], max(one[1], other[1])
