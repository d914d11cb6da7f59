"""How often training should come back to a prompt, from what is known of it. One rule; this module keeps nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from learnalign.config import OnlineConfig
from learnalign.online.history import Doubles
from learnalign.scoring.learnability import expected_both
from learnalign.scoring.rows import Integers

GROUP = 8
"""Responses of the group that the chance of both verdicts is of."""


class Evidence(NamedTuple):
    """What is known of M prompts."""

    correct: Doubles
    """[M] discounted number of correct responses."""
    responses: Doubles
    """[M] discounted number of responses."""
    visits: Integers
    """[M] steps of the training that a prompt was in."""
    agreement: Doubles
    """[M] mean agreement of its gradients with the others' (see `agreement`), NaN where none was measured."""
    measured: Integers
    """[M] how many gradients that is."""
    mean: float
    """Mean success rate of the pool: of the prior."""


def weights(known: Evidence, settings: OnlineConfig) -> Doubles:
    """[M] visits a pass, from `settings.floor` to `settings.cap`; 1 of a prompt that training never met.

    q / q of a prompt never met, q the posterior probability that a group of 8 has both verdicts: a group without
    gives no gradient. The floor, where gradients disagreed with the others': wrong reference answers pull so.
    """
    both = expected_both(known.responses, known.correct, known.mean, GROUP)
    unknown = expected_both(np.zeros(1), np.zeros(1), known.mean, GROUP)
    visits: Doubles = np.clip(both / unknown, settings.floor, settings.cap)
    return np.where(known.agreement < 0, settings.floor, visits)
