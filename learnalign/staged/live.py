"""A model in this process as the policy of a stage: it is sampled and sketched where it stands, in training or not.

Inside its `with` block the model is in evaluation mode and its weights are frozen; leaving it puts everything back.
This module does not choose prompts and does not judge: the caller's function does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from learnalign.config import RolloutConfig
from learnalign.gradient import Group, Sketcher
from learnalign.policy import Policy
from learnalign.rollout import batch_sequences
from learnalign.rollout.engine import Task, plan
from learnalign.rollout.local import LocalEngine
from learnalign.rows import Integers

Judge = Callable[[Sequence[int], Sequence[str], Sequence[Sequence[int]]], Sequence[float]]
"""(position in the pool, text and token ids) of some responses to a reward for each."""
BATCH_TOKENS = 16384


@dataclass
class _Answers:
    """The responses of one prompt, and their rewards."""

    responses: list[list[int]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


class LivePolicy:
    """A `Measurer` over a loaded model.

    policy: model and tokenizer. prompts: [N] token ids of the pool's prompts. judge: gives rewards. rollout: length,
    temperature, batch and seed of the responses; another seed a stage, or a prompt answers as it did. threshold: the
    reward from which on a response is correct. dimension, sketch_seed: of the sketches; the same in all stages.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        judge: Judge,
        *,
        rollout: RolloutConfig,
        threshold: float = 1.0,
        dimension: int = 8192,
        sketch_seed: int = 0,
    ) -> None:
        self.policy, self.prompts, self.judge, self.rollout = policy, prompts, judge, rollout
        self.threshold, self.dimension, self.sketch_seed = threshold, dimension, sketch_seed
        self._answers: dict[int, _Answers] = {}
        self._before: list[tuple[Any, bool]] = []

    def __enter__(self) -> Self:
        model = self.policy.model
        self._training = model.training
        self._before = [(weight, weight.requires_grad) for weight in model.parameters()]
        model.eval().requires_grad_(False)
        return self

    def __exit__(self, *error: object) -> None:
        self.policy.model.train(self._training)
        for weight, wanted in self._before:
            weight.requires_grad_(wanted)

    def respond(self, prompts: Integers, responses: int) -> Integers:
        """See `Measurer.respond`. Raises what sampling and judging raise."""
        engine = LocalEngine(self.policy, self.rollout)
        tasks = [
            Task(str(k), list(self.prompts[k]), responses, len(self._answers.setdefault(k, _Answers()).responses))
            for k in prompts.tolist()
        ]
        wanted = [responses] * len(tasks)
        correct = np.zeros(len(tasks), np.int64)
        for batch in plan([len(task.tokens) for task in tasks], wanted, batch_sequences(self.rollout)):
            made = engine.sample([tasks[i] for i in batch])
            at = [int(one.prompt_id) for one in made]
            rewards = self.judge(at, [one.text for one in made], [one.tokens for one in made])
            for k, one, reward in zip(at, made, rewards, strict=True):
                self._answers[k].responses.append(one.tokens)
                self._answers[k].rewards.append(float(reward))
            right = np.reshape(np.asarray(rewards, np.float64) >= self.threshold, (len(batch), responses))
            correct[batch] = right.sum(axis=1)
        return correct

    def sketch(self, prompts: Integers) -> tuple[Integers, npt.NDArray[Any]]:
        """See `Measurer.sketch`."""
        differ = np.array([k for k in prompts.tolist() if len(set(self._answers[k].rewards)) > 1], np.int64)
        groups = [Group(self.prompts[k], self._answers[k].responses, self._answers[k].rewards) for k in differ.tolist()]
        sketcher = Sketcher(
            self.policy.model,
            dimension=self.dimension,
            seed=self.sketch_seed,
            temperature=self.rollout.temperature,
        )
        phi = np.zeros((len(groups), self.dimension), np.float32)
        for batch in sketcher.batches(groups, BATCH_TOKENS):
            phi[batch] = sketcher.sketch([groups[i] for i in batch])
        return differ, phi
