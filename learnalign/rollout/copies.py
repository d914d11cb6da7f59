"""Notices an engine that gives every prompt the same response again and again, as servers do that share a seed.

Such a pool has no learnable prompt, which looks like a policy that is sure of everything. This module samples nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from learnalign.errors import EngineError
from learnalign.rollout.engine import Response

UNLIKELY = math.log(1e-6)
"""Log-chance below which equal responses are no coincidence."""
UNKNOWN = math.log(0.9)
"""Log-chance of a copy where the engine tells no log-probabilities: that of a policy that is sure of its response."""


class Copies:
    """Follows all responses of an engine. Once a prompt had two different ones, there is nothing to look for."""

    def __init__(self) -> None:
        self.varied, self.groups, self.chance = False, 0, 0.0

    def look(self, responses: Sequence[Response]) -> None:
        """Count responses, those of a prompt one after another. Raises `EngineError` where all are copies."""
        for _, rows in groupby(responses, lambda one: one.prompt_id):
            group = list(rows)
            self.varied = self.varied or any(one.tokens != group[0].tokens for one in group)
            self.groups += len(group) > 1
            self.chance += sum(_log_chance(one) for one in group[1:])
        if not self.varied and self.chance < UNLIKELY:
            raise EngineError(
                f"all responses to a prompt are the same, for each of {self.groups:,} prompts: the server does not "
                "sample (does it ignore the seed or the temperature, or answer from a cache?)"
            )


def _log_chance(response: Response) -> float:
    """Of sampling this response once more."""
    chance = sum(response.log_probabilities)
    return chance if math.isfinite(chance) else UNKNOWN
