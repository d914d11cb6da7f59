"""Online selection inside TRL's GRPOTrainer: a sampler that asks for the next prompts, and a reward that tells.

    selector = OnlineSelector(dataset["prompt_id"], directory="online")
    trainer = GRPOTrainer(model, reward_funcs=right, args=args, train_dataset=dataset)
    attach(trainer, selector)
    trainer.train()

Nothing is sampled for it: the trainer's reward function also tells the selector what the policy answered. With `every`,
gradients are measured too, of the model where it is. The trainer's loader is a batch ahead, so that what is learned
comes into effect a batch later. Responses that TRL masks because they were cut (`mask_truncated_completions`) give no
gradient here either; trainers with tools or environments, whose masks are not followed, are refused. In several
processes (`accelerate launch`) all do the same: attach in each. Every checkpoint of the trainer holds the selection
too, and `trainer.train(resume_from_checkpoint=...)` goes back to it. This module does not train and does not choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from learnalign.errors import PolicyError
from learnalign.online import checkpoint
from learnalign.online.live import LivePolicy
from learnalign.online.measurer import Measurer
from learnalign.online.observing import Observer
from learnalign.online.pairs import Pairs
from learnalign.online.ranks import SplitPolicy, follow_main
from learnalign.online.sampler import PicksSampler
from learnalign.online.selector import OnlineSelector

NOT_FOLLOWED = ("tools", "environment_factories", "environments", "rollout_func")
"""What of a GRPOTrainer puts tokens into responses that the policy did not sample, or may."""
SPLIT = ("is_fsdp_enabled", "is_deepspeed_enabled")
"""What of it may leave a process without the whole weights."""


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

    selector: over the ids in `id_column` of the dataset, in any order. every: optimizer steps between two measurements
    of gradients; by default none are measured, and verdicts decide. correct: which of the reward functions says by
    `selector.threshold` whether a response is correct. dimension: of the sketches. An epoch has as many prompts as the
    pool. Raises `PolicyError` for a trainer that this does not fit, in one line.
    """
    _check(trainer, selector, every, id_column, correct)
    follow_main(selector, trainer.accelerator)
    row_of = {str(prompt_id): row for row, prompt_id in enumerate(trainer.train_dataset[id_column])}
    pairs = None if every is None else Pairs()
    observer = Observer(trainer, selector, pairs, id_column, trainer.reward_func_names[correct])
    trainer.reward_funcs[correct] = observer.of(trainer.reward_funcs[correct])
    sampler = PicksSampler(
        selector,
        row_of,
        copies=trainer.num_generations,
        batch=trainer.args.generation_batch_size // trainer.num_generations,
        repeats=trainer.num_iterations * trainer.args.steps_per_generation,
    )
    trainer._get_train_sampler = lambda dataset=None: sampler
    policy = None if pairs is None else partial(_policy, trainer, selector, pairs, row_of, dimension)
    online = _Online(selector, pairs or Pairs(), sampler, policy, every)
    trainer.train = online.knowing_checkpoint(trainer.train)
    trainer.add_callback(online)


class _Online(TrainerCallback):  # type: ignore[misc]
    """Measures gradients of `policy()` after every `every` steps, and keeps checkpoints complete."""

    def __init__(
        self,
        selector: OnlineSelector,
        pairs: Pairs,
        sampler: PicksSampler,
        policy: Callable[[], Measurer] | None,
        every: int | None,
    ) -> None:
        self.selector, self.pairs, self.sampler, self.policy, self.every = selector, pairs, sampler, policy, every
        self.resumed: str | bool | None = None

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

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.policy and self.every and state.global_step % self.every == 0 and state.global_step < state.max_steps:
            self.selector.measure(self.policy())
            self.pairs.clear()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            checkpoint.save(_checkpoint_of(args, state), self.selector, self.pairs, self.sampler)


def _policy(
    trainer: Any, selector: OnlineSelector, pairs: Pairs, row_of: Mapping[str, int], dimension: int
) -> Measurer:
    """The trainer's model as it is."""
    prompts = _Prompts(trainer, [row_of[prompt_id] for prompt_id in selector.ids])
    model = trainer.accelerator.unwrap_model(trainer.model)
    live = LivePolicy(model, prompts, pairs, temperature=trainer.temperature, dimension=dimension)
    return SplitPolicy(live, trainer.accelerator)


class _Prompts(Sequence[list[int]]):
    """Token ids of a trainer's prompts, encoded when they are asked for. rows: of the pool's prompts."""

    def __init__(self, trainer: Any, rows: Sequence[int]) -> None:
        self.tokenizer, self.options, self.rows = trainer.processing_class, trainer.chat_template_kwargs, rows
        self.dataset = trainer.train_dataset

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        prompt = self.dataset[self.rows[place]]["prompt"]
        if isinstance(prompt, str):
            return list(self.tokenizer(prompt)["input_ids"])
        text = self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **self.options)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _checkpoint_of(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _check(trainer: Any, selector: OnlineSelector, every: int | None, id_column: str, correct: int) -> None:
    """Raise `PolicyError` for the first thing that does not fit."""
    if any(isinstance(callback, _Online) for callback in trainer.callback_handler.callbacks):
        raise PolicyError("this trainer has an online selection already: attach one selector, once")
    _check_measuring(trainer, every)
    outside = next((name for name in NOT_FOLLOWED if getattr(trainer, name, None)), None)
    if outside is not None:
        raise PolicyError(
            f"the trainer has {outside}, whose tokens are not the policy's: no online selection knows them"
        )
    _check_dataset(trainer.train_dataset, selector, id_column)
    _check_reward(trainer, correct)
    batch = trainer.args.generation_batch_size // trainer.num_generations
    if batch > len(selector.ids):
        raise PolicyError(f"a generation batch has {batch} prompts and the pool {len(selector.ids)}: make it smaller")


def _check_measuring(trainer: Any, every: int | None) -> None:
    if every is None:
        return
    if every < 1:
        raise PolicyError(f"every must be at least 1 step, found {every}")
    split = next((name for name in SPLIT if getattr(trainer, name, False)), None)
    if split is not None:
        raise PolicyError(
            f"{split}: a process need not have the whole weights, so that no gradients are measured: leave out every="
        )


def _check_dataset(dataset: Any, selector: OnlineSelector, id_column: str) -> None:
    if not hasattr(dataset, "__len__"):
        raise PolicyError(f"an online selection draws rows by number: give a Dataset, found {type(dataset).__name__}")
    if id_column not in dataset.column_names:
        raise PolicyError(f"the training dataset needs a column {id_column!r} with the selector's ids")
    ids = {str(prompt_id) for prompt_id in dataset[id_column]}
    missing = next((prompt_id for prompt_id in selector.ids if prompt_id not in ids), None)
    if missing is not None:
        raise PolicyError(f"prompt {missing!r} of the selector is not in the training dataset")


def _check_reward(trainer: Any, correct: int) -> None:
    """The reward function that says what is correct must be one that can."""
    names = trainer.reward_func_names
    if not 0 <= correct < len(names):
        raise PolicyError(f"correct must be the number of a reward function, 0 to {len(names) - 1}, found {correct}")
    reward = trainer.reward_funcs[correct]
    advice = "add a plain function that does, with 0 among reward_weights if it is not to be trained on, and name it"
    if isinstance(reward, nn.Module):
        raise PolicyError(
            f"reward {correct}, {names[correct]!r}, is a model, whose scores do not say what is correct: {advice} "
            f"(attach: correct={len(names)})"
        )
    if iscoroutinefunction(reward) or iscoroutinefunction(type(reward).__call__):
        raise PolicyError(
            f"reward {correct}, {names[correct]!r}, is asynchronous, and what it says cannot be followed: {advice} "
            f"(attach: correct={len(names)})"
        )
