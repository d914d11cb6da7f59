"""The transformers engine: in this process, reproducible to the bit, for any model that transformers loads.

Several times slower than vLLM; the engine for CPUs, tests, and models that nothing else serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch

from learnalign.config import RolloutConfig
from learnalign.errors import PolicyError
from learnalign.policy import Policy
from learnalign.rollout.engine import Response, Task, require_finite, response
from learnalign.rollout.sampling import Sampler, uniforms


class LocalEngine:
    """Samples with a loaded policy: a prompt is computed once, its key-value cache copied to its responses."""

    def __init__(self, policy: Policy, config: RolloutConfig) -> None:
        self.policy, self.config = policy, config

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def sample(self, tasks: Sequence[Task]) -> list[Response]:
        """All tasks in one batch. Raises `PolicyError` when GPU memory runs out."""
        jobs = [(task, number) for task in tasks for number in range(task.first, task.first + task.responses)]
        most = self.config.max_new_tokens
        draws = [uniforms(self.config.seed, task.prompt_id, number, most) for task, number in jobs]
        sampler = Sampler(draws, self.config.temperature)
        try:
            generated = self.policy.generate([t.tokens for t in tasks], [t.responses for t in tasks], most, sampler)
        except torch.OutOfMemoryError as error:
            raise PolicyError(
                f"out of GPU memory with {len(jobs)} sequences: set a smaller rollout.batch_sequences and delete "
                "the folder rollouts (longest prompts come first)"
            ) from error
        log_probabilities = sampler.log_probabilities()
        return require_finite(
            [
                response(self.policy, task, number, generated[row].tolist(), log_probabilities[row].tolist())
                for row, (task, number) in enumerate(jobs)
            ]
        )

    def facts(self) -> dict[str, Any]:
        """Device, dtype, parameters."""
        parameter = next(self.policy.model.parameters())
        return {
            "parameters": sum(p.numel() for p in self.policy.model.parameters()),
            "device": str(parameter.device),
            "dtype": str(parameter.dtype).removeprefix("torch."),
        }
