"""Online selection inside verl (0.9, its V1 trainer), by the two hooks that verl has for it.

    OnlineDataset               `data.custom_cls`: the dataset, which gives the prompts that the selector wants next
    ObservingReplayBuffer       `trainer.v1.sampler.custom_sampler`: verl's replay buffer, which also tells the selector
                                the rewards of every batch that is trained on
    ObservingReplayBufferAsync  the same for verl's asynchronous modes

    data.custom_cls.path=pkg://learnalign.online.verl data.custom_cls.name=OnlineDataset data.dataloader_num_workers=0
    trainer.v1.sampler.custom_sampler.path=pkg://learnalign.online.verl
    trainer.v1.sampler.custom_sampler.name=ObservingReplayBuffer

Settings of the selection are those of `[online]`, as `+data.learnalign.floor=0.5`, with `threshold` (the reward from
which on a response is correct, 1.0) and `metric` (which value that is: `reward`, or a key of verl's
reward_extra_info such as `acc`) among them; the seed is `data.seed`. verl's checkpoints hold the selection
in data.pt, as the state of the dataset. This module takes no gradients: see `learnalign.online.next`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.utils.dataset.rl_dataset import RLHFDataset

from learnalign.config import Config, with_values
from learnalign.errors import ConfigError, RunError
from learnalign.online.selector import OnlineSelector

ROW = "learnalign_row"
"""Field of every prompt and its responses: the row of the dataset."""
REWARD = "reward"
UNHEARD_PASSES = 2
"""Passes of the pool that may be given out before a reward must have come back."""


class OnlineDataset(RLHFDataset):  # type: ignore[misc]
    """verl's dataset, whose batches are the selector's next prompts whatever rows are asked for.

    A batch of n rows is `selector.next(n)`; ids are row numbers of what verl keeps of the files. A pass still has as
    many prompts as there are rows. verl makes its validation set of the same class: that one gives the rows asked for
    and has no selector (None). Arguments are those of verl's own.

    Raises `ConfigError` for workers of the data loader, which could not hear of rewards, for the same files for
    training and validation, and for unknown settings.
    """

    def __init__(
        self, data_files: Any, tokenizer: Any, config: Any, processor: Any = None, max_samples: int = -1
    ) -> None:
        if config.get("dataloader_num_workers", 0):
            raise ConfigError(
                f"data.dataloader_num_workers is {config.get('dataloader_num_workers')}: prompts are picked in the "
                "trainer's own process, set it to 0"
            )
        settings = dict(config.get("learnalign") or {})
        self.metric: str = settings.pop("metric", REWARD)
        threshold = settings.pop("threshold", 1.0)
        if not isinstance(threshold, int | float):
            raise ConfigError(f"data.learnalign.threshold must be a number, found {threshold!r}")
        online = with_values(Config(), {"online": settings}, where="data.learnalign").online
        training = _is_training(data_files, config)
        super().__init__(
            data_files=data_files, tokenizer=tokenizer, config=config, processor=processor, max_samples=max_samples
        )
        self._unheard = 0
        self.selector: OnlineSelector | None = None
        if training:
            rows, seed = range(len(self)), config.get("seed") or 0
            self.selector = OnlineSelector(rows, settings=online, seed=seed, threshold=threshold)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of a batch, as the data loader asks for them. Raises `RunError` where no rewards come back."""
        if self.selector is None:
            return [self[row] for row in rows]
        if self._unheard > UNHEARD_PASSES * len(self):
            raise RunError(
                f"{self._unheard:,} prompts were given to train on and no reward came back: set "
                "trainer.v1.sampler.custom_sampler to learnalign's replay buffer (and use verl's V1 trainer)"
            )
        self._unheard += len(rows)
        return [{**self[int(prompt_id)], ROW: int(prompt_id)} for prompt_id in self.selector.next(len(rows))]

    def observe(self, rows: Sequence[int], values: Sequence[float]) -> None:
        """Count responses of a training step: the row that each was sampled for, and its reward or metric."""
        if self.selector is None:
            raise ConfigError("the validation set learns nothing: observe belongs to the training set")
        self._unheard = 0
        self.selector.observe(rows, values)

    def state_dict(self) -> dict[str, Any]:
        """All that is known, for verl's data.pt; nothing for validation."""
        return {} if self.selector is None else {**self.selector.state_dict(), "prompts": self._prompts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. Raises `RunError` for one of another pool, or of other prompts at its rows."""
        if self.selector is None:
            return
        if state.get("prompts") != self._prompts:
            raise RunError(
                "this checkpoint's selection is of another pool, or of other prompts in another order: go on with the "
                "same files, data.max_prompt_length and filters, or begin anew without its data.pt"
            )
        self.selector.load_state_dict(dict(state))

    @cached_property
    def _prompts(self) -> str:
        """A digest of all prompts in their order: rows are numbers, and those of another file are the same.

        Of what is no JSON (an image), its type alone: how it is shown may differ from process to process.
        """
        digest = hashlib.sha256()
        for prompt in self.dataframe[self.prompt_key]:
            digest.update(json.dumps(prompt, sort_keys=True, default=_type_name).encode() + b"\0")
        return digest.hexdigest()


class _Observing:
    """What both replay buffers add to verl's: after each training batch the dataset is told its rewards."""

    def __init__(self, **given: Any) -> None:
        trainer = getattr(given.get("refill_fn"), "__self__", None)
        if trainer is None:
            raise ConfigError(
                "verl's trainer is not to be found behind refill_fn: this needs the V1 trainer of verl 0.9"
            )
        algorithm, sampler = trainer.config.algorithm, trainer.config.trainer.v1.sampler
        if (algorithm.get("filter_groups") or {}).get("enable") or sampler.get("sync_refill_failed_groups"):
            raise ConfigError(
                "verl leaves algorithm.filter_groups and sync_refill_failed_groups out where a custom sampler is set: "
                "switch them off (the selector comes back later to prompts without a signal)"
            )
        model = trainer.config.reward.reward_model
        if model.get("enable") and not model.get("enable_resource_pool"):
            raise ConfigError(
                "a reward model that shares the policy's devices judges after a batch is taken: set "
                "reward.reward_model.enable_resource_pool=True"
            )
        self._trainer = trainer
        super().__init__(**given)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """As verl's. Raises `ConfigError` where the dataset is not ours, or nothing says what `metric` is."""
        batch, metrics = super().sample(  # type: ignore[misc]
            global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
        )
        if partition_id == "train":
            dataset = self._trainer.train_dataset
            if not isinstance(dataset, OnlineDataset):
                raise ConfigError(
                    f"the training set is a {type(dataset).__name__}: set data.custom_cls.path="
                    "pkg://learnalign.online.verl and data.custom_cls.name=OnlineDataset as well"
                )
            dataset.observe(*_sampled(batch, dataset.metric))
        return batch, metrics


class ObservingReplayBuffer(_Observing, ReplayBuffer):  # type: ignore[misc]
    """For `trainer.v1.trainer_mode=sync`."""


class ObservingReplayBufferAsync(_Observing, ReplayBufferAsync):  # type: ignore[misc]
    """For verl's asynchronous modes."""


def _is_training(files: Any, config: Any) -> bool:
    """Whether these are the files to train on. Raises `ConfigError` where they are also those to validate on."""
    own, train, val = (_listed(some) for some in (files, config.get("train_files"), config.get("val_files")))
    if train == val:
        raise ConfigError(
            "data.train_files and data.val_files are the same, so that training and validation cannot be told apart: "
            "name another file (or a copy) for validation"
        )
    return own == train


def _type_name(value: object) -> str:
    return type(value).__name__


def _listed(files: Any) -> list[str]:
    return [files] if isinstance(files, str) else [str(file) for file in files or ()]


def _sampled(batch: Any, metric: str) -> tuple[list[int], list[float]]:
    """The row and the reward (or metric) of every response; of several trajectories of one, the last."""
    last: dict[tuple[str, str], tuple[int, str]] = {}
    for key in batch.keys:
        uid, session, number = key.rsplit("_", 2)
        last[uid, session] = max(last.get((uid, session), (-1, "")), (int(number), key))
    keys = [key for _, key in last.values()]
    field = "rm_scores" if metric == REWARD else "extra_fields"
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=[ROW, field])
    absent = [name for name in (ROW, field) if name not in data.keys()]  # noqa: SIM118 (of a TensorDict)
    if absent:
        raise ConfigError(
            f"the responses hold no {' and no '.join(absent)}: prompts that were sent out before OnlineDataset was set "
            "cannot be counted, begin anew or from another checkpoint"
        )
    rows = [int(getattr(row, "data", row)) for row in data[ROW]]
    return rows, [_value(value, metric) for value in data[field]]


def _value(stored: Any, metric: str) -> float:
    """Of one response: the sum of its token rewards, or what its reward function says beside them."""
    if metric == REWARD:
        return float(stored.sum())
    said = getattr(stored, "data", stored).get("reward_extra_info") or {}
    if metric not in said:
        raise ConfigError(
            f"data.learnalign.metric is {metric!r}, and the reward function says {', '.join(said) or 'nothing'} "
            "beside the reward: name one of these, or reward"
        )
    return float(said[metric])
