"""How often training should come back to a prompt, from what is known of it. One rule; this module keeps nothing.

w = (chance that a group has both verdicts) x (trust in the reference answer)

A group without both verdicts gives no gradient, so that the first factor is the posterior probability of both, as a
share of that of a prompt never met. The second is 1 as long as nothing says that answers are wrong. The gradient of a
wrong answer pulls against the others', and such a prompt stays rarely solved; neither tells much of one prompt, but
the pool tells whether there is something to tell: where references are right, rarely solved prompts agree with the
others when they are first met; where many are wrong, they pull against them. So with the suspicion s of a pool, 0 to 1,

    trust = 1 + s (2 z + 2 (p - mean p)),    z = sum of agreements / (1 + how many),

which shrinks the mean agreement by its noise: two gradients of one prompt correlate by about 0.5. Later gradients do
not change the suspicion: what stays rarely solved is ever more the hard part of a pool, and disagrees in any.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from learnalign.config import OnlineConfig
from learnalign.online.history import Doubles
from learnalign.scoring.learnability import expected_both, expected_success_rate
from learnalign.scoring.rows import Integers

GROUP = 8
"""Responses of the group that the chance of both verdicts is of."""
RARELY = 0.35
"""A prompt of a smaller success rate is rarely solved."""
ENOUGH = 20
"""Rarely solved prompts with a gradient that must be known before a pool is suspected."""
CLEARED, CERTAIN = 0.1, -0.1
"""Their mean agreement at which suspicion is 0, and 1."""
SLOPE = 2.0
"""Of trust, in agreement and in success rate."""
LEAST_TRUST, MOST_TRUST = 0.05, 2.0


class Evidence(NamedTuple):
    """What is known of M prompts."""

    correct: Doubles
    """[M] discounted number of correct responses."""
    responses: Doubles
    """[M] discounted number of responses."""
    visits: Integers
    """[M] steps of the training that a prompt was in."""
    agreement: Doubles
    """[M] sum of the agreements of its gradients with the others' (see `agreement`)."""
    measured: Integers
    """[M] how many gradients that is."""
    mean: float
    """Mean success rate of the pool: of the prior."""

    def success_rate(self) -> Doubles:
        """[M] posterior mean of p."""
        return expected_success_rate(self.responses, self.correct, self.mean)


def suspicion(agreement: float, rare: int) -> float:
    """How much the reference answers of a pool are to be doubted, 0 to 1.

    agreement: sum over the first gradients of rarely solved prompts, of which there are `rare`.
    """
    if rare < ENOUGH:
        return 0.0
    return float(np.clip((CLEARED - agreement / rare) / (CLEARED - CERTAIN), 0.0, 1.0))


def weights(known: Evidence, suspected: float, settings: OnlineConfig) -> Doubles:
    """[M] visits a pass: 1 of a prompt that training never met, or as this module says.

    The chance of both verdicts is kept between `settings.floor` and `settings.cap`, trust between 0.05 and 2.
    suspected: see `suspicion`; 0 where no gradients are measured.
    """
    both = expected_both(known.responses, known.correct, known.mean, GROUP)
    unknown = expected_both(np.zeros(1), np.zeros(1), known.mean, GROUP)
    chance = np.clip(both / unknown, settings.floor, settings.cap)
    shrunk = known.agreement / (known.measured + 1.0)
    trust = 1.0 + suspected * SLOPE * (shrunk + known.success_rate() - known.mean)
    return np.where(known.visits > 0, chance * np.clip(trust, LEAST_TRUST, MOST_TRUST), 1.0)
