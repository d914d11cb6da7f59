"""What a measurement needs of the training's own responses: of each prompt a correct one and an incorrect one.

The policy gradient of a prompt is p (1 - p) (E[grad log pi(y) | y correct] - E[grad log pi(y) | y incorrect]), so that
one response of each kind gives an unbiased estimate of it, up to the factor, at a quarter of what a group of 8 costs.
This module computes no gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from learnalign.gradient import Group

Tokens = Sequence[int]


class Pair(NamedTuple):
    """Token ids of two responses to a prompt."""

    correct: Tokens
    incorrect: Tokens

    def group(self, prompt: Tokens) -> Group:
        """The two as a group whose gradient is that of log pi(correct) - log pi(incorrect), but for its length."""
        return Group(prompt, [self.correct, self.incorrect], [1.0, 0.0])


class Pairs:
    """Of every prompt that training met since the last measurement the last pair: position in the pool -> `Pair`."""

    def __init__(self) -> None:
        self._pairs: dict[int, Pair] = {}

    def observe(self, prompt: int, responses: Sequence[Tokens], correct: Sequence[bool]) -> None:
        """Keep the first response of each kind, if the group has both kinds; the prompt's earlier pair goes."""
        kinds = dict(zip(reversed(correct), reversed(responses), strict=True))
        if len(kinds) == 2:
            self._pairs[prompt] = Pair(kinds[True], kinds[False])
        else:
            self._pairs.pop(prompt, None)

    def of(self, prompts: Sequence[int]) -> dict[int, Pair]:
        """The pairs of some prompts, in their order; those without one are left out."""
        return {k: self._pairs[k] for k in prompts if k in self._pairs}

    def kept(self) -> list[tuple[int, Pair]]:
        """All pairs with their prompt's position, for JSON."""
        return list(self._pairs.items())

    def take_back(self, kept: Sequence[tuple[int, tuple[Tokens, Tokens]]]) -> None:
        """Have what `kept` gave, and nothing else."""
        self._pairs = {prompt: Pair(*pair) for prompt, pair in kept}

    def clear(self) -> None:
        """Forget all: a measurement has seen them."""
        self._pairs.clear()
