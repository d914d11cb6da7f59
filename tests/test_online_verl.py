"""Online selection inside verl: on verl's own classes where verl is installed (`make verl-test`), else on a stand-in.

What is verl's own then: the classes that ours extend, how the trainer loads them from its configuration, the data
loader and its state, the collation of batches, and TransferQueue in Ray. Sampling and training are left out in both.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import verl_standin

from learnalign.errors import ConfigError, RunError

REAL = importlib.util.find_spec("verl") is not None
if not REAL:
    verl_standin.install()

import transfer_queue  # noqa: E402
from verl.trainer.ppo.v1.trainer_base import PPOTrainer  # noqa: E402

from learnalign.online import verl as online_verl  # noqa: E402

ROWS, BATCH, GROUP = 20, 4, 4
CHANCE = np.random.default_rng(0).choice([0.0, 0.5, 1.0], ROWS)
PLACE = "pkg://learnalign.online.verl"


class Trainer(PPOTrainer):
    """verl's trainer without models: a step takes a batch, samples by chance, and takes it from the replay buffer."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.trainer_mode = config.trainer.v1.trainer_mode
        self.tokenizer = self.processor = None
        self.parameter_sync_step, self.global_steps = 1, 0
        self.replay_buffer = self._build_replay_buffer()
        self._init_dataloader()

    def on_step_end(self) -> None: ...

    def on_sample_end(self) -> None: ...

    def step(self) -> list[int]:
        """The rows of a training step."""
        self.global_steps += 1
        batch = self._next_train_batch()
        rows = [int(getattr(index, "data", index)) for index in batch["index"]]
        kept = [int(getattr(row, "data", row)) for row in batch[online_verl.ROW]]
        assert kept == rows
        for row, uid in zip(rows, [str(getattr(uid, "data", uid)) for uid in batch["uid"]], strict=True):
            self.generate(row, uid, "train")
        sampled, _ = self.replay_buffer.sample(
            global_steps=self.global_steps, partition_id="train", batch_size=len(rows)
        )
        assert len(sampled.keys) == len(rows) * (GROUP + 1)
        transfer_queue.kv_clear(keys=sampled.keys, partition_id="train")
        return rows

    def generate(self, row: int, uid: str, partition: str) -> None:
        """A group of responses. The first has two trajectories, of which the last has the reward."""
        rng = np.random.default_rng([self.global_steps, row])
        tag = {"is_prompt": True, "status": "finished", "global_steps": self.global_steps}
        transfer_queue.kv_batch_put(keys=[uid], partition_id=partition, tags=[tag])
        keys, fields = list[str](), list[dict[str, Any]]()
        for session in range(GROUP):
            correct = bool(rng.random() < CHANCE[row])
            keys.append(f"{uid}_{session}_{1 if session == 0 else 0}")
            fields.append(response(row, correct, 0.75 if correct else -0.25))
        keys, fields = [*keys, f"{uid}_0_0"], [*fields, response(row, True, 9.0)]
        tags = [{"status": "success"} for _ in keys]
        transfer_queue.kv_batch_put(keys=keys, partition_id=partition, tags=tags, fields=collated(fields))


def response(row: int, correct: bool, reward: float) -> dict[str, Any]:
    """The fields of a response that are read: the reward is that of its last token."""
    tokens = torch.zeros(2 + row % 3)
    tokens[-1] = reward
    said = {"reward_extra_info": {"acc": correct}}
    return {online_verl.ROW: row, "rm_scores": tokens, "extra_fields": said}


def collated(fields: list[dict[str, Any]]) -> Any:
    if not REAL:
        return fields
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    return list_of_dict_to_tensordict(fields)


@pytest.fixture(scope="module", autouse=True)
def queue() -> Iterator[None]:
    """TransferQueue, running."""
    if not REAL:
        yield
        return
    import ray

    ray.init(num_cpus=8, include_dashboard=False, logging_level="ERROR")
    transfer_queue.init()
    yield
    transfer_queue.close()
    ray.shutdown()


@pytest.fixture(autouse=True)
def empty_queue() -> None:
    for partition, items in transfer_queue.kv_list().items():
        if items:
            transfer_queue.kv_clear(keys=list(items), partition_id=partition)


def config(folder: Path, **changed: Any) -> Any:
    """verl's configuration, as far as it is read; keys such as `data.seed` are changed."""
    for name, count in (("train", ROWS), ("val", 6)):
        rows = [
            {"prompt": [{"role": "user", "content": f"{name} {k}"}], "extra_info": {"index": k}} for k in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({**row, "data_source": "s"}) + "\n" for row in rows))
    tree: dict[str, Any] = {
        "data": {
            "train_files": str(folder / "train.jsonl"),
            "val_files": str(folder / "val.jsonl"),
            "train_batch_size": BATCH,
            "val_batch_size": None,
            "dataloader_num_workers": 0,
            "validation_shuffle": False,
            "shuffle": False,
            "seed": 7,
            "filter_overlong_prompts": False,
            "cache_dir": str(folder / "cache"),
            "custom_cls": {"path": PLACE, "name": "OnlineDataset"},
            "learnalign": {"metric": "acc"},
        },
        "trainer": {
            "total_epochs": 3,
            "total_training_steps": None,
            "v1": {
                "trainer_mode": "sync",
                "sampler": {
                    "max_off_policy_threshold": 8,
                    "max_off_policy_strategy": "drop",
                    "sync_refill_failed_groups": False,
                    "custom_sampler": {"path": PLACE, "name": "ObservingReplayBuffer"},
                    "sampler_kwargs": {},
                },
            },
        },
        "algorithm": {"filter_groups": {"enable": False}},
        "reward": {"reward_model": {"enable": False, "enable_resource_pool": False}},
    }
    for key, value in changed.items():
        at = tree
        *above, last = key.split("__")
        for name in above:
            at = at[name]
        at[last] = value
    if not REAL:
        return verl_standin.Tree(tree)
    from omegaconf import OmegaConf

    made = OmegaConf.create(tree)
    OmegaConf.set_struct(made, True)
    return made


MODES = [("sync", "ObservingReplayBuffer"), ("colocate_async", "ObservingReplayBufferAsync")]


def in_mode(folder: Path, mode: str, name: str) -> Any:
    """The configuration of a trainer mode; the asynchronous ones fetch prompts one by one."""
    custom = {"path": PLACE, "name": name}
    return config(folder, trainer__v1__trainer_mode=mode, trainer__v1__sampler__custom_sampler=custom)


@pytest.mark.parametrize(("mode", "name"), MODES)
def test_batches_are_the_selectors_and_it_hears_every_response_once(tmp_path: Path, mode: str, name: str) -> None:
    trainer = Trainer(in_mode(tmp_path, mode, name))
    assert type(trainer.replay_buffer).__name__ == name
    first = [row for _ in range(ROWS // BATCH) for row in trainer.step()]
    assert sorted(first) == list(range(ROWS))  # a pass over the pool ...
    assert first != sorted(first)  # ... in random order
    assert trainer.train_dataset.selector.known.history.responses.tolist() == pytest.approx([GROUP] * ROWS)
    later = [row for _ in range(60) for row in trainer.step()]
    visits = np.bincount(later, minlength=ROWS)
    assert visits[CHANCE == 0.5].mean() > 1.5 * visits[CHANCE != 0.5].mean()


def test_rewards_and_a_threshold_in_place_of_the_metric(tmp_path: Path) -> None:
    """Rewards are 0.75 where an answer is right: correct from a threshold of 0.7 on."""
    heard = {}
    for threshold in (0.7, 1.0):
        trainer = Trainer(config(tmp_path, data__learnalign={"threshold": threshold}))
        for _ in range(ROWS // BATCH):
            trainer.step()
        heard[threshold] = trainer.train_dataset.selector.known.history.success_rate(np.arange(ROWS))
    assert np.corrcoef(heard[0.7], CHANCE)[0, 1] > 0.8
    assert heard[1.0].max() < heard[0.7].max()


@pytest.mark.parametrize("stop", [3, ROWS // BATCH, ROWS // BATCH + 1])
@pytest.mark.parametrize(("mode", "name"), MODES)
def test_a_resumed_training_sees_the_rows_of_an_uninterrupted_one(
    tmp_path: Path, mode: str, name: str, stop: int
) -> None:
    """Within a pass, at its end and after it; what came after the checkpoint is forgotten."""
    whole = Trainer(in_mode(tmp_path, mode, name))
    expected = [whole.step() for _ in range(40)]
    begun = Trainer(in_mode(tmp_path, mode, name))
    assert [begun.step() for _ in range(stop)] == expected[:stop]
    torch.save(begun.train_dataloader.state_dict(), tmp_path / "data.pt")
    begun.step()  # killed here
    resumed = Trainer(in_mode(tmp_path, mode, name))
    resumed.global_steps = stop
    resumed.train_dataloader.load_state_dict(torch.load(tmp_path / "data.pt", weights_only=False))
    assert [resumed.step() for _ in range(40 - stop)] == expected[stop:]


def test_validation_gives_its_own_rows_and_teaches_nothing(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path))
    before = trainer.train_dataset.state_dict()
    (batch,) = list(trainer.val_dataloader)
    assert [int(k) for k in batch["index"]] == list(range(6))
    assert online_verl.ROW not in batch
    for row in range(3):
        trainer.generate(row, f"v{row}", "val")
    trainer.replay_buffer.sample(global_steps=0, partition_id="val", batch_size=3)
    assert trainer.train_dataset.state_dict() == before
    assert trainer.val_dataset.state_dict() == {}
    with pytest.raises(ConfigError, match="validation set learns nothing"):
        trainer.val_dataset.observe([0], [1.0])


def test_a_checkpoint_of_another_pool_is_refused(tmp_path: Path) -> None:
    state = Trainer(config(tmp_path)).train_dataset.state_dict()
    other = Trainer(config(tmp_path)).train_dataset
    (tmp_path / "more").mkdir()
    settings = config(tmp_path / "more", data__train_files=[str(tmp_path / "train.jsonl"), str(tmp_path / "val.jsonl")])
    with pytest.raises(RunError, match="another pool"):
        Trainer(settings).train_dataset.load_state_dict(state)
    other.load_state_dict(state)


def test_a_checkpoint_of_other_prompts_at_the_same_rows_is_refused(tmp_path: Path) -> None:
    """Rows are known by number: another file, or another order, of as many rows would take the verdicts of these."""
    state = Trainer(config(tmp_path)).train_dataset.state_dict()
    settings = config(tmp_path)
    lines = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    for changed in ([*lines[1:], lines[0]], [*lines[:-1], lines[-1].replace("train 19", "train 91")]):
        assert len(changed) == ROWS
        assert changed != lines
        (tmp_path / "train.jsonl").write_text("".join(changed))
        with pytest.raises(RunError, match="other prompts in another order: go on with the same files"):
            Trainer(settings).train_dataset.load_state_dict(state)
    (tmp_path / "train.jsonl").write_text("".join(lines))
    Trainer(settings).train_dataset.load_state_dict(state)


def test_without_our_replay_buffer_it_stops_after_two_passes(tmp_path: Path) -> None:
    dataset = Trainer(config(tmp_path)).train_dataset
    for _ in range(2 * ROWS // BATCH + 1):
        dataset.__getitems__(range(BATCH))
    with pytest.raises(RunError, match=r"no reward came back: set trainer\.v1\.sampler\.custom_sampler"):
        dataset.__getitems__(range(BATCH))


BAD = [
    ({"data__dataloader_num_workers": 8}, "data.dataloader_num_workers is 8: .* set it to 0"),
    ({"data__learnalign": {"flor": 0.5}}, "data.learnalign.*flor"),
    ({"data__learnalign": {"threshold": "high"}}, "data.learnalign.threshold must be a number, found 'high'"),
    ({"algorithm__filter_groups": {"enable": True}}, "algorithm.filter_groups and sync_refill_failed_groups"),
    ({"trainer__v1__sampler__sync_refill_failed_groups": True}, "switch them off"),
    ({"reward__reward_model__enable": True}, "enable_resource_pool=True"),
]


@pytest.mark.parametrize(("changed", "message"), BAD)
def test_what_cannot_work_is_refused_at_the_start(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Trainer(config(tmp_path, **changed))


def test_the_same_files_for_training_and_validation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are the same"):
        Trainer(config(tmp_path, data__val_files=[str(tmp_path / "train.jsonl")]))


def test_what_is_wrong_with_a_batch_is_said(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path, data__learnalign={"metric": "score"}))
    with pytest.raises(ConfigError, match="metric is 'score', and the reward function says acc beside"):
        trainer.step()
    trainer.train_dataset = list(range(3))
    trainer.generate(0, "u", "train")
    with pytest.raises(ConfigError, match=r"the training set is a list: set data\.custom_cls\.path"):
        trainer.replay_buffer.sample(global_steps=1, partition_id="train", batch_size=1)
    with pytest.raises(ConfigError, match="not to be found behind refill_fn"):
        online_verl.ObservingReplayBufferAsync(refill_fn=None)
