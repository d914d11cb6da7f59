"""Groups of responses, and the coefficient that every response token has in the policy gradient.

At ratio 1 the gradient of every member of the GRPO family is grad sum_g sum_t c_gt log pi(y_gt | prompt, y_g<t)
with constants c_gt = A_g m_gt / n_g, where m is the token weight (1 unless given) and n_g, up to factors that all
responses of a prompt share and that therefore cancel in a cosine, is

    mean       G * sum_t m_gt        each response averaged over its tokens (GRPO, DeepSeekMath, arXiv 2402.03300)
    token      sum_g sum_t m_gt      every token of the group counts alike (DAPO, arXiv 2503.14476)
    constant   G                     responses summed, not averaged (Dr. GRPO, arXiv 2503.20783)

A KL term of strength beta against a reference policy adds beta (m_gt / n_g) (pi_ref / pi - 1) to c_gt (the gradient
of GRPO's estimate of the divergence, DeepSeekMath, equation 4); it vanishes where the policy is its own reference.
This module knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from learnalign.config import ResponsesUsed, Weighting
from learnalign.errors import ArrayError
from learnalign.gradient.gap import Told

ADVANTAGE_EPSILON = 1e-4


@dataclass(frozen=True)
class Group:
    """A prompt with its sampled responses, as token ids, and one reward a response."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]
    rewards: Sequence[float]
    token_weights: Sequence[Sequence[float]] | None = None
    """One weight of at least 0 for every response token, such as a mask of tool output; None weighs all by 1."""
    log_probabilities: Sequence[Sequence[float]] | None = None
    """One for every response token, recorded when it was sampled; NaN, or None for all, where not known."""

    @property
    def tokens(self) -> int:
        """Padded tokens of the group with every response beside its own copy of the prompt."""
        return len(self.responses) * (len(self.prompt) + max(map(len, self.responses), default=0))


@dataclass(frozen=True)
class Weighted:
    """What of a group contributes to its gradient: responses with their tokens' coefficients, float64."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]
    coefficients: Sequence[np.ndarray]
    """A_g m_gt / n_g of every token."""
    kl_weights: Sequence[np.ndarray]
    """beta m_gt / n_g of every token."""
    told: Sequence[Told] = ()
    """Recorded log-probabilities, and room for the policy's own; empty where none were recorded."""

    def of(self, wanted: Callable[[int], bool]) -> Weighted:
        """Responses whose length with the prompt is wanted."""
        kept = [i for i, response in enumerate(self.responses) if wanted(len(self.prompt) + len(response))]
        return Weighted(
            self.prompt,
            [self.responses[i] for i in kept],
            [self.coefficients[i] for i in kept],
            [self.kl_weights[i] for i in kept],
            [self.told[i] for i in kept] if self.told else (),
        )

    def part(self, responses: slice) -> Weighted:
        """Some of the responses."""
        return Weighted(
            self.prompt,
            self.responses[responses],
            self.coefficients[responses],
            self.kl_weights[responses],
            self.told[responses],
        )


def advantages(rewards: Sequence[float], std: bool = True) -> np.ndarray:
    """Group-relative advantages, float64 [G]: r - mean, divided by (std + 1e-4) unless `std` is False.

    The standard deviation is the biased one. Without it (Dr. GRPO) a prompt's gradient keeps its direction.
    """
    r = np.asarray(rewards, dtype=np.float64)
    centered: np.ndarray = r - r.mean()
    return centered / (r.std() + ADVANTAGE_EPSILON) if std else centered


def weighted(
    group: Group,
    weighting: Weighting = "mean",
    advantage_std: bool = True,
    responses_used: ResponsesUsed = "all",
    kl_beta: float = 0.0,
) -> Weighted:
    """The group's contributing responses with coefficients c_gt; those whose coefficients are all 0 are left out.

    responses_used: `all`, or `one_correct`: only the first response of the highest reward, with the advantage that
    it has in its group (a shortcut that costs much fidelity). kl_beta: strength of the KL term; a group whose
    rewards are all equal has no gradient all the same, because such a prompt is not learnable.
    Raises `ArrayError` for a group that is malformed.
    """
    weights = _token_weights(group)
    a = advantages(group.rewards, advantage_std)
    pulled = np.full(len(a), kl_beta > 0 and bool(a.any()))
    if responses_used == "one_correct":
        best = np.arange(len(a)) == np.argmax(group.rewards)
        a, pulled = np.where(best, a, 0.0), pulled & best
    kept, coefficients, kl_weights, told = [], [], [], []
    whole = sum(float(w.sum()) for w in weights)
    recorded = _recorded(group)
    for response, weight, advantage, pull, logs in zip(group.responses, weights, a, pulled, recorded, strict=True):
        own = float(weight.sum())
        if own == 0 or (advantage == 0 and not pull):
            continue
        divisor = {"mean": own * len(a), "token": whole, "constant": len(a)}[weighting]
        kept.append(response)
        coefficients.append(advantage * weight / divisor)
        kl_weights.append(kl_beta * weight / divisor)
        if logs is not None:
            told.append(Told(logs, np.full(len(response), np.nan)))
    return Weighted(group.prompt, kept, coefficients, kl_weights, told)


def _recorded(group: Group) -> list[np.ndarray] | list[None]:
    """Log-probabilities of every response, float64, checked."""
    if group.log_probabilities is None:
        return [None] * len(group.responses)
    logs = [np.asarray(one, dtype=np.float64) for one in group.log_probabilities]
    if [len(one) for one in logs] != [len(response) for response in group.responses]:
        raise ArrayError(
            f"log_probabilities must have one number a response token, {[len(r) for r in group.responses]}, "
            f"found {[len(one) for one in logs]}"
        )
    return logs


def _token_weights(group: Group) -> list[np.ndarray]:
    """Checked weights, float64, one array a response."""
    responses = group.responses
    if not len(group.prompt) or not len(responses):
        raise ArrayError("a group needs a prompt of at least one token and at least one response")
    if len(group.rewards) != len(responses):
        raise ArrayError(f"a group needs one reward a response, found {len(group.rewards)} for {len(responses)}")
    if not np.isfinite(np.asarray(group.rewards, dtype=np.float64)).all():
        raise ArrayError(f"rewards must be finite, found {list(group.rewards)}")
    if group.token_weights is None:
        return [np.ones(len(response)) for response in responses]
    weights = [np.asarray(w, dtype=np.float64) for w in group.token_weights]
    if [len(w) for w in weights] != [len(response) for response in responses]:
        raise ArrayError(
            f"token_weights must have one number a response token, {[len(r) for r in responses]}, "
            f"found {[len(w) for w in weights]}"
        )
    if not all(np.isfinite(w).all() and (w >= 0).all() for w in weights):
        raise ArrayError("token_weights must be finite and at least 0")
    return weights
