"""Online selection inside TRL's GRPOTrainer: a sampler that draws from today's picks, and a callback that renews them.

    selector = OnlineSelector(dataset["prompt_id"], n=256, directory="online")
    trainer = GRPOTrainer(model, reward_funcs=right, args=args, train_dataset=dataset)
    attach(trainer, selector)
    trainer.train()

Nothing is sampled for it: the trainer's reward function also tells the selector what the policy answered. Gradients are
of the model where it is. One process only. The trainer's loader is one batch ahead, so a new choice comes into effect a
step later. Responses that TRL masks because they were cut (`mask_truncated_completions`) give no gradient here either;
trainers with tools or environments, whose masks are not followed, are refused. Every checkpoint of the trainer holds
the selection too, and `trainer.train(resume_from_checkpoint=...)` goes back to it. This module does not train and does
not choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import iscoroutinefunction, isfunction
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from learnalign.errors import PolicyError
from learnalign.online import checkpoint
from learnalign.online.live import LivePolicy
from learnalign.online.pairs import Pairs
from learnalign.online.sampler import PicksSampler
from learnalign.online.selector import OnlineSelector
from learnalign.rewards.verdict import is_correct

MOST_SILENT = 8
"""Batches in a row without a reward after which the reward function is taken for the wrong one."""
NOT_FOLLOWED = ("tools", "environment_factories", "environments", "rollout_func")
"""What of a GRPOTrainer puts tokens into responses that the policy did not sample, or may."""


def attach(
    trainer: Any,
    selector: OnlineSelector,
    *,
    every: int | None = None,
    id_column: str = "prompt_id",
    correct: int = 0,
    dimension: int = 8192,
) -> None:
    """Let a GRPOTrainer train on an online selection of its dataset. Call it before `trainer.train()`.

    selector: over the ids in `id_column` of the dataset, in any order. every: optimizer steps between two updates; by
    default what one pass over n picks takes. correct: which of the reward functions says by `selector.threshold`
    whether a response is correct; it must be a plain function. dimension: of the sketches. An epoch is one pass.
    Raises `PolicyError` for a trainer that this does not fit, in one line.
    """
    _check(trainer, selector, every, id_column, correct)
    row_of = {str(prompt_id): row for row, prompt_id in enumerate(trainer.train_dataset[id_column])}
    batch = trainer.args.generation_batch_size // trainer.num_generations
    repeats = trainer.num_iterations * trainer.args.steps_per_generation
    pairs = Pairs()
    trainer.reward_funcs[correct] = _observing(trainer.reward_funcs[correct], trainer, selector, pairs, id_column)
    sampler = PicksSampler(
        selector, row_of, copies=trainer.num_generations, batch=batch, repeats=repeats, seed=trainer.args.seed
    )
    trainer._get_train_sampler = lambda dataset=None: sampler
    a_pass = selector.n // batch * repeats // trainer.args.gradient_accumulation_steps
    rows = [row_of[prompt_id] for prompt_id in selector.ids]
    updates = _Updates(trainer, selector, pairs, sampler, every or max(a_pass, 1), rows, dimension)
    trainer.train = updates.knowing_checkpoint(trainer.train)
    trainer.add_callback(updates)


class _Updates(TrainerCallback):  # type: ignore[misc]
    """Runs the updates: before the first step, and after every `every`; keeps checkpoints complete."""

    def __init__(
        self,
        trainer: Any,
        selector: OnlineSelector,
        pairs: Pairs,
        sampler: PicksSampler,
        every: int,
        rows: Sequence[int],
        dimension: int,
    ) -> None:
        self.trainer, self.selector, self.pairs, self.sampler = trainer, selector, pairs, sampler
        self.every, self.dimension = every, dimension
        self.resumed: str | bool | None = None
        self.dataset = trainer.train_dataset.select(rows)  # in the order of the selector's pool
        self.prompts: list[list[int]] = []

    def knowing_checkpoint(self, train: Callable[..., Any]) -> Callable[..., Any]:
        """The trainer's `train`, of which no callback learns from where it resumes."""

        @wraps(train)
        def training(resume_from_checkpoint: str | bool | None = None, *arguments: Any, **named: Any) -> Any:
            self.resumed = resume_from_checkpoint
            return train(resume_from_checkpoint, *arguments, **named)

        return training

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.resumed:
            path = _checkpoint_of(args, state) if self.resumed is True else Path(self.resumed)
            within = not float(state.epoch).is_integer() and not args.ignore_data_skip
            checkpoint.restore(path, self.selector, self.pairs, self.sampler, within)
        if not self.selector.picks:
            self._update()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every == 0 and state.global_step < state.max_steps:
            self._update()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint.save(_checkpoint_of(args, state), self.selector, self.pairs, self.sampler)

    def _update(self) -> None:
        trainer = self.trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        if not self.prompts:
            self.prompts = [_encode(trainer, prompt) for prompt in self.dataset["prompt"]]
        policy = LivePolicy(model, self.prompts, self.pairs, temperature=trainer.temperature, dimension=self.dimension)
        self.selector.update(policy)
        self.pairs.clear()


def _checkpoint_of(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _check(trainer: Any, selector: OnlineSelector, every: int | None, id_column: str, correct: int) -> None:
    """Raise `PolicyError` for the first thing that does not fit."""
    if trainer.accelerator.num_processes > 1:
        raise PolicyError("an online selection in TRL runs in one process: for several, use 'learnalign next' between")
    if every is not None and every < 1:
        raise PolicyError(f"every must be at least 1 step, found {every}")
    if any(isinstance(callback, _Updates) for callback in trainer.callback_handler.callbacks):
        raise PolicyError("this trainer has an online selection already: attach one selector, once")
    outside = next((name for name in NOT_FOLLOWED if getattr(trainer, name, None)), None)
    if outside is not None:
        raise PolicyError(
            f"the trainer has {outside}, whose tokens are not the policy's: no online selection knows them"
        )
    if not hasattr(trainer.train_dataset, "__len__"):
        raise PolicyError(
            f"an online selection draws rows by number: give a Dataset, found {type(trainer.train_dataset).__name__}"
        )
    if id_column not in trainer.train_dataset.column_names:
        raise PolicyError(f"the training dataset needs a column {id_column!r} with the selector's ids")
    ids = {str(prompt_id) for prompt_id in trainer.train_dataset[id_column]}
    missing = next((prompt_id for prompt_id in selector.ids if prompt_id not in ids), None)
    if missing is not None:
        raise PolicyError(f"prompt {missing!r} of the selector is not in the training dataset")
    if not isfunction(trainer.reward_funcs[correct]) or iscoroutinefunction(trainer.reward_funcs[correct]):
        raise PolicyError(f"reward function {correct} must be a plain function: name the one that says what is correct")
    batch = trainer.args.generation_batch_size // trainer.num_generations
    if batch > selector.n:
        raise PolicyError(f"a generation batch has {batch} prompts and the selector picks {selector.n}: pick more")


def _observing(
    reward: Callable[..., Any], trainer: Any, selector: OnlineSelector, pairs: Pairs, id_column: str
) -> Callable[..., Any]:
    """The reward function, whose rewards in training the selector also learns, with the responses that they are for."""
    place = {prompt_id: k for k, prompt_id in enumerate(selector.ids)}
    silent = 0

    @wraps(reward)
    def observed(**arguments: Any) -> Any:
        nonlocal silent
        rewards = reward(**arguments)
        if not trainer.model.training:
            return rewards
        ids = [str(prompt_id) for prompt_id in arguments[id_column]]
        given = [
            (i, list(tokens), float(r))
            for i, tokens, r in zip(ids, arguments["completion_ids"], rewards, strict=True)
            if r is not None and math.isfinite(r)
        ]
        silent = 0 if given else silent + 1
        if silent == MOST_SILENT:
            raise PolicyError(
                f"the reward function {reward.__name__!r} gave no number for {silent} batches in a row, so that "
                "nothing is learned about any prompt: name the one that says what is correct (attach: correct=)"
            )
        selector.observe([i for i, _, _ in given], [r for _, _, r in given])
        whole = [one for one in given if not (trainer.mask_truncated_completions and _cut(trainer, one[1]))]
        for prompt_id, group in groupby(whole, lambda one: one[0]):
            _, responses, values = zip(*group, strict=True)
            pairs.observe(place[prompt_id], responses, [is_correct(value, selector.threshold) for value in values])
        return rewards

    return observed


def _cut(trainer: Any, tokens: Sequence[int]) -> bool:
    """Whether TRL takes a response for one that was cut."""
    return not tokens or tokens[-1] not in (*trainer.eos_token_ids, trainer._tokenizer.pad_token_id)


def _encode(trainer: Any, prompt: Any) -> list[int]:
    tokenizer, options = trainer.processing_class, trainer.chat_template_kwargs
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **options)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
