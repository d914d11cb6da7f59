"""A trainer's reward function that also tells a selector what the policy answered.

In several processes each function sees its share of a batch; all tell all. This module judges nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from itertools import groupby
from typing import Any, NamedTuple

from accelerate.utils import gather_object

from learnalign.errors import PolicyError
from learnalign.online.pairs import Pairs, Tokens
from learnalign.online.selector import OnlineSelector
from learnalign.rewards.verdict import is_correct

MOST_SILENT = 8
"""Batches in a row without a reward after which the reward function is taken for the wrong one."""


class Told(NamedTuple):
    """What is told of a response."""

    prompt_id: str
    reward: float | None
    """None where the function gave none."""
    tokens: Tokens | None
    """None where no gradient is wanted of it."""


class Observer:
    """Lets a selector, and pairs if gradients are wanted, learn from a GRPOTrainer's reward function in training.

    pairs: None where no gradients are measured. name: of the reward function.
    """

    def __init__(self, trainer: Any, selector: OnlineSelector, pairs: Pairs | None, id_column: str, name: str) -> None:
        self.trainer, self.selector, self.pairs, self.id_column, self.name = trainer, selector, pairs, id_column, name
        self._place = {prompt_id: k for k, prompt_id in enumerate(selector.ids)}
        self._silent = 0

    def of(self, reward: Callable[..., Any]) -> Callable[..., Any]:
        """The reward function, observed. Evaluation is not."""

        @wraps(reward)
        def observed(**arguments: Any) -> Any:
            rewards = reward(**arguments)
            if self.trainer.model.training:
                ids = [str(prompt_id) for prompt_id in arguments[self.id_column]]
                self._observe(ids, rewards, arguments["completion_ids"])
            return rewards

        return observed

    def _observe(self, ids: Sequence[str], rewards: Sequence[Any], responses: Sequence[Any]) -> None:
        values = [float(r) if r is not None and math.isfinite(r) else None for r in rewards]
        told: list[Told] = gather_object(list(map(Told, ids, values, self._wanted(ids, values, responses))))
        if self.trainer.accelerator.num_processes > 1:
            _check_groups(told, self.trainer.num_generations)
        given = [(one.prompt_id, one.reward, one.tokens) for one in told if one.reward is not None]
        self._silent = 0 if given else self._silent + 1
        if self._silent == MOST_SILENT:
            raise PolicyError(
                f"the reward function {self.name!r} gave no number for {self._silent} batches in a row, so that "
                "nothing is learned about any prompt: name the one that says what is correct (attach: correct=)"
            )
        self.selector.observe([i for i, _, _ in given], [reward for _, reward, _ in given])
        if self.pairs is not None:
            for prompt_id, group in groupby(given, lambda one: one[0]):
                kept = [(tokens, self._correct(reward)) for _, reward, tokens in group if tokens is not None]
                self.pairs.observe(self._place[prompt_id], [t for t, _ in kept], [correct for _, correct in kept])

    def _wanted(
        self, ids: Sequence[str], rewards: Sequence[float | None], responses: Sequence[Any]
    ) -> Iterator[Tokens | None]:
        """The responses themselves that gradients may be taken of: the first of each kind; None in place of others."""
        had: set[tuple[str, bool]] = set()
        for prompt_id, reward, tokens in zip(ids, rewards, responses, strict=True):
            kind = (prompt_id, reward is not None and self._correct(reward))
            if self.pairs is None or reward is None or kind in had or self._masked(tokens):
                yield None
            else:
                had.add(kind)
                yield list(tokens)

    def _correct(self, reward: float) -> bool:
        return is_correct(reward, self.selector.threshold)

    def _masked(self, tokens: Any) -> bool:
        """Whether TRL leaves a response out of the loss because it was cut."""
        ends = (*self.trainer.eos_token_ids, self.trainer._tokenizer.pad_token_id)
        return bool(self.trainer.mask_truncated_completions) and (not len(tokens) or tokens[-1] not in ends)


def _check_groups(told: Sequence[Told], size: int) -> None:
    """Raise `PolicyError` where a prompt's responses are not a group: processes then took different prompts."""
    other = next((i for i, count in Counter(one.prompt_id for one in told).items() if count != size), None)
    if other is not None:
        raise PolicyError(
            f"the processes do not train on the same prompts: {other!r} has not {size} responses in all of them; "
            "attach the selector in every process, with the same settings"
        )
