"""The parts of verl 0.9.1 that `learnalign.online.verl` stands on, by their documented interfaces, without verl.

`install` puts them into `sys.modules`; `make verl-test` runs the same tests on verl. TransferQueue is a dictionary.
The data loader is torch's, with the state of torchdata's `StatefulDataLoader` without workers: the dataset's own and
how many batches of the epoch are out.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
from torch.utils.data import DataLoader, Dataset


class Tree(dict[str, Any]):
    """A configuration: attributes and `get`, as OmegaConf's."""

    def __getattr__(self, name: str) -> Any:
        value = self[name]
        return Tree(value) if isinstance(value, dict) else value


class Queue:
    """TransferQueue's key-value interface."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, Any]] = {"train": {}, "val": {}}
        self.fields: dict[str, dict[str, Any]] = {}

    def kv_list(self) -> dict[str, dict[str, Any]]:
        return {name: dict(tags) for name, tags in self.tags.items()}

    def kv_batch_put(
        self, keys: list[str], partition_id: str, tags: list[dict[str, Any]], fields: list[dict[str, Any]] | None = None
    ) -> None:
        self.tags[partition_id].update(zip(keys, tags, strict=True))
        self.fields.update(zip(keys, fields or [{} for _ in keys], strict=True))

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, list[Any]]:
        return {
            name: [self.fields[key][name] for key in keys]
            for name in select_fields
            if all(name in self.fields[key] for key in keys)
        }

    def kv_clear(self, keys: list[str], partition_id: str) -> None:
        for key in keys:
            self.tags[partition_id].pop(key, None)


class RLHFDataset(Dataset[dict[str, Any]]):
    def __init__(
        self, data_files: Any, tokenizer: Any, config: Any, processor: Any = None, max_samples: int = -1
    ) -> None:
        files = [data_files] if isinstance(data_files, str) else data_files
        lines = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
        self.prompt_key, self.dataframe = "prompt", datasets.Dataset.from_list(lines)

    def __len__(self) -> int:
        return int(self.dataframe.num_rows)

    def __getitem__(self, item: int) -> dict[str, Any]:
        row = dict(self.dataframe[item])
        return {**row, "raw_prompt": row["prompt"], "index": row["extra_info"]["index"]}


class ReplayBuffer:
    def __init__(
        self,
        trainer_mode: str,
        trainer_config: Any,
        max_off_policy_threshold: int | None,
        max_off_policy_strategy: str,
        sampler_kwargs: Any,
        poll_interval: float = 2.0,
        refill_fn: Callable[[int], int] | None = None,
    ) -> None:
        self.trainer_mode = trainer_mode

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        import transfer_queue as tq

        items = tq.kv_list()[partition_id]
        uids = [key for key, tag in items.items() if tag.get("is_prompt")][:batch_size]
        tq.kv_clear(partition_id=partition_id, keys=uids)
        keys = [key for key, tag in items.items() if not tag.get("is_prompt") and key.split("_")[0] in uids]
        return types.SimpleNamespace(partition_id=partition_id, keys=keys), {}


class ReplayBufferAsync(ReplayBuffer):
    pass


class Loader:
    def __init__(self, dataset: Any, batch_size: int) -> None:
        self.dataset, self.batch_size, self.out, self.skip = dataset, batch_size, 0, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows = range(self.skip * self.batch_size, len(self.dataset))
        self.out, self.skip = self.skip, 0
        columns = DataLoader(
            self.dataset, self.batch_size, sampler=rows, drop_last=True, collate_fn=lambda rows: rows, num_workers=0
        )
        for batch in columns:
            self.out += 1
            yield {name: [row[name] for row in batch] for name in batch[0]}

    def state_dict(self) -> dict[str, Any]:
        return {"dataset": self.dataset.state_dict(), "out": self.out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.dataset.load_state_dict(state["dataset"])
        self.skip = state["out"]


class PPOTrainer:
    """What the trainer does with its dataset and its replay buffer."""

    config: Any

    def _load(self, at: Any) -> Any:
        return getattr(importlib.import_module(at.path.removeprefix("pkg://")), at.name)

    def _build_replay_buffer(self) -> Any:
        sampler = self.config.trainer.v1.sampler
        return self._load(sampler.custom_sampler)(
            trainer_mode=self.config.trainer.v1.trainer_mode,
            trainer_config={},
            max_off_policy_threshold=sampler.max_off_policy_threshold,
            max_off_policy_strategy=sampler.max_off_policy_strategy,
            sampler_kwargs={},
            refill_fn=self._add_prompts_to_generate,
        )

    def _add_prompts_to_generate(self, num_prompts: int) -> int:
        raise NotImplementedError

    def _init_dataloader(self) -> None:
        data = self.config.data
        self.train_dataset, self.val_dataset = (
            self._load(data.custom_cls)(data_files=files, tokenizer=None, config=data, processor=None, max_samples=-1)
            for files in (data.train_files, data.val_files)
        )
        self.train_dataloader = Loader(self.train_dataset, data.train_batch_size)
        self.val_dataloader = Loader(self.val_dataset, len(self.val_dataset))
        self.train_dataloader_it: Any = None

    def _next_train_batch(self) -> dict[str, Any]:
        self.train_dataloader_it = self.train_dataloader_it or iter(self.train_dataloader)
        try:
            batch = next(self.train_dataloader_it)
        except StopIteration:
            self.train_dataloader_it = iter(self.train_dataloader)
            batch = next(self.train_dataloader_it)
        return {**batch, "uid": [f"{row}-{self.global_steps}" for row in batch["index"]]}

    global_steps: int


def install() -> None:
    """Make `import verl` find these."""
    queue = Queue()
    names = {
        "verl.utils.dataset.rl_dataset": {"RLHFDataset": RLHFDataset},
        "verl.trainer.ppo.v1.replay_buffer": {"ReplayBuffer": ReplayBuffer, "ReplayBufferAsync": ReplayBufferAsync},
        "verl.trainer.ppo.v1.trainer_base": {"PPOTrainer": PPOTrainer},
        "transfer_queue": {name: getattr(queue, name) for name in dir(queue) if name.startswith("kv_")},
    }
    for name, content in names.items():
        parts = name.split(".")
        for k in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:k]), types.ModuleType(".".join(parts[:k])))
        vars(sys.modules[name]).update(content)
