"""The transformers engine: samples groups of responses in batches of prompts of like length.

It does not write files, judge responses, or know about resuming.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from learnalign.config import RolloutConfig
from learnalign.errors import PolicyError
from learnalign.policy import Policy
from learnalign.rollout.sampling import Sampler, uniforms


class Task(NamedTuple):
    """A prompt that wants responses."""

    prompt_id: str
    tokens: list[int]


class Response(NamedTuple):
    """One sampled response, the end token included where the policy gave one."""

    prompt_id: str
    number: int
    prompt_tokens: list[int]
    tokens: list[int]
    log_probabilities: list[float]
    """Natural logarithms, one a token, at the sampling temperature."""
    text: str
    finish: str
    """`stop` (the policy ended it) or `length` (cut at max_new_tokens)."""


def plan(tasks: Sequence[Task], config: RolloutConfig) -> list[list[int]]:
    """Batches of prompts of like length, longest first (memory runs out at once or never), as positions in `tasks`.

    A pure function of its arguments, so that a resumed run makes the batches of an uninterrupted one.
    """
    order = sorted(range(len(tasks)), key=lambda i: (-len(tasks[i].tokens), i))
    size = max(1, config.batch_sequences // config.responses)
    return [order[k : k + size] for k in range(0, len(order), size)]


def sample(policy: Policy, tasks: Sequence[Task], config: RolloutConfig) -> list[Response]:
    """G responses for every task, in the tasks' order, in one batch."""
    jobs = [(task, number) for task in tasks for number in range(config.responses)]
    sampler = Sampler(
        [uniforms(config.seed, task.prompt_id, number, config.max_new_tokens) for task, number in jobs],
        config.temperature,
    )
    generated = policy.generate([task.tokens for task, _ in jobs], config.max_new_tokens, sampler)
    log_probabilities = sampler.log_probabilities()
    return [
        _response(policy, task, number, generated[row].tolist(), log_probabilities[row].tolist())
        for row, (task, number) in enumerate(jobs)
    ]


def _response(policy: Policy, task: Task, number: int, tokens: list[int], log_probabilities: list[float]) -> Response:
    end = next((t for t, token in enumerate(tokens) if token in policy.eos_ids), None)
    finish = "length" if end is None else "stop"
    kept = len(tokens) if end is None else end + 1
    if not all(map(math.isfinite, log_probabilities[:kept])):
        raise PolicyError(
            f"the policy's probabilities for prompt {task.prompt_id!r} are not finite: its weights are damaged, "
            "or overflow in their dtype (see policy.dtype)"
        )
    return Response(
        task.prompt_id,
        number,
        task.tokens,
        tokens[:kept],
        log_probabilities[:kept],
        policy.decode(tokens[:kept]),
        finish,
    )
