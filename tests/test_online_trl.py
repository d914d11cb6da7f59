"""TRL's GRPOTrainer trains on online picks of the embedded policy's pool, and selecting learns from its responses."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from learnalign.config import SketchConfig
from learnalign.demo.arithmetic import distinct
from learnalign.demo.run import POLICY
from learnalign.errors import PolicyError, RunError
from learnalign.gradient import Group, Sketcher
from learnalign.online import OnlineSelector
from learnalign.online.live import LivePolicy
from learnalign.online.pairs import Pairs
from learnalign.online.sampler import PicksSampler
from learnalign.online.trl import attach

pytestmark = pytest.mark.train

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
PICKED, STEPS, EVERY = 8, 6, 2
"""A step takes 4 prompts, so that 2 are a pass."""


def right(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    return [float(c[0]["content"] == a) for c, a in zip(completions, answer, strict=True)]


def dataset(size: int) -> Dataset:
    rows = [
        {"prompt": [{"role": "user", "content": p.text}], "answer": p.answer, "prompt_id": f"p{k}"}
        for k, p in enumerate(distinct(size, seed=5))
    ]
    return Dataset.from_list(rows)


def trainer(folder: Path, data: Dataset, given: dict[str, Any] | None = None, **settings: Any) -> Any:
    import trl

    asked = {
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 14,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        **settings,
    }
    return trl.GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(POLICY),
        reward_funcs=right,
        args=trl.GRPOConfig(str(folder), **asked),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(POLICY),
        **(given or {}),
    )


class Training(NamedTuple):
    """A training that was watched."""

    trainer: Any
    selector: OnlineSelector
    met: list[tuple[int, set[str]]]
    """Of every step: updates before it, and its prompts."""
    allowed: dict[int, set[str]]
    """The picks of every update."""


def watched(folder: Path, checkpoint: Path | bool | None = None, **settings: Any) -> Training:
    """Train on online picks of 84 prompts, with a selector whose directory is in `folder`."""
    data = dataset(84)
    selector = OnlineSelector(data["prompt_id"], PICKED, directory=folder / "online")
    grpo = trainer(folder, data, **settings)
    training = Training(grpo, selector, [], {})
    update, observe = selector.update, selector.observe

    def updating(policy: Any) -> list[str]:
        picks = update(policy)
        training.allowed[selector.updates] = set(picks)
        return picks

    def observing(ids: Any, rewards: Any) -> bool:
        training.met.append((selector.updates, set(ids)))
        return observe(ids, rewards)

    selector.update, selector.observe = updating, observing  # type: ignore[method-assign]
    attach(grpo, selector, dimension=512)
    grpo.train(resume_from_checkpoint=checkpoint)
    return training


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training with a checkpoint in the middle of a pass."""
    return watched(tmp_path_factory.mktemp("whole"), save_strategy="steps", save_steps=3)


def test_training_runs_on_the_picks_of_every_update(whole: Training) -> None:
    selector, met, allowed = whole.selector, whole.met, whole.allowed
    assert selector.updates == STEPS // EVERY, "an update a pass"
    assert selector.state.shared.gradients > 0, "pairs that training sampled gave gradients"
    known = {selector.ids[k] for k in np.flatnonzero(~np.isnan(selector.state.agreement))}
    assert known <= set().union(*(ids for _, ids in met))
    assert all(weight.requires_grad for weight in whole.trainer.model.parameters())
    assert len(met) == STEPS
    for step, (_, ids) in enumerate(met):
        assert len(ids) == 4
        # the loader looks one batch ahead, so that the first step of an update may use the last choice
        assert ids <= allowed[1 + step // EVERY] or (step % EVERY == 0 and step and ids <= allowed[step // EVERY])
    assert met[-1][1] <= allowed[STEPS // EVERY]
    again = OnlineSelector(selector.ids, PICKED, directory=Path(whole.trainer.args.output_dir) / "online")
    assert again.picks == selector.picks
    assert again.state.history.responses.sum() == selector.state.history.responses.sum()


def test_a_resumed_training_is_the_uninterrupted_one(whole: Training, tmp_path: Path) -> None:
    """It was rolled back from step 6, whose verdicts its own directory holds, to step 3."""
    folder = Path(whole.trainer.args.output_dir)
    shutil.copytree(folder / "online", tmp_path / "online")
    resumed = watched(tmp_path, str(folder / "checkpoint-3"))
    assert [ids for _, ids in resumed.met] == [ids for _, ids in whole.met[3:]]
    assert resumed.selector.picks == whole.selector.picks
    for name in ("correct", "responses", "visits"):
        now, then = (getattr(one.selector.state.history, name) for one in (resumed, whole))
        np.testing.assert_array_equal(now, then)
    again = OnlineSelector(whole.selector.ids, PICKED, directory=tmp_path / "online")
    assert again.state.history.visits.sum() == whole.selector.state.history.visits.sum()


def test_a_checkpoint_without_the_selection_is_refused(whole: Training, tmp_path: Path) -> None:
    folder = shutil.copytree(Path(whole.trainer.args.output_dir) / "checkpoint-3", tmp_path / "checkpoint-3")
    (folder / "online" / "training.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        watched(tmp_path, True)
    shutil.rmtree(folder / "online")
    with pytest.raises(RunError, match="checkpoint-3 holds no online selection"):
        watched(tmp_path, True)


def test_a_sampler_goes_on_where_it_was(tmp_path: Path) -> None:
    """At every batch of a pass and after it, also where the selector picks anew in between."""

    def begun() -> PicksSampler:
        selector = OnlineSelector([f"p{k}" for k in range(20)], 6)
        selector.state = selector.state._replace(updates=1, picked=np.arange(6))
        return PicksSampler(selector, {f"p{k}": k for k in range(20)}, copies=1, batch=2, repeats=1, seed=3)

    def taken(sampler: PicksSampler, stream: Iterator[int], rows: int) -> list[int]:
        if rows == 4:
            sampler.selector.state = sampler.selector.state._replace(updates=2, picked=np.arange(10, 16))
        return list(islice(stream, 1))

    for stop in range(1, 7):
        one, two = begun(), begun()
        stream = iter(one)
        first = [row for rows in range(stop) for row in taken(one, stream, rows)]
        position = json.loads(json.dumps(one.position()))
        rest = [row for rows in range(stop, 6) for row in taken(one, stream, rows)] + list(one)
        two.selector.state = one.selector.state._replace(updates=1 + (stop > 4), picked=np.arange(6) + 10 * (stop > 4))
        two.go_on(position, within=stop < 6)
        again = iter(two)
        if stop < 6:
            assert list(islice(again, stop)) == first
        for rows in range(stop, 6):
            first += taken(two, again, rows)
        assert first[stop:] + list(again if stop == 6 else two) == rest


def test_an_epoch_is_a_pass_over_the_picks_in_the_trainers_order() -> None:
    selector = OnlineSelector([f"p{k}" for k in range(20)], 6)
    row_of = {f"p{k}": 100 + k for k in range(20)}
    selector.state = selector.state._replace(updates=1, picked=selector.state.picked.__class__((6,), "int64"))
    selector.state.picked[:] = [3, 1, 4, 15, 9, 2]
    sampler = PicksSampler(selector, row_of, copies=3, batch=2, repeats=2, seed=0)
    rows = list(sampler)
    assert len(rows) == len(sampler) == 6 * 3 * 2
    assert sorted(set(rows)) == [101, 102, 103, 104, 109, 115]
    for first in range(0, 36, 12):
        a, b = rows[first], rows[first + 3]
        assert rows[first : first + 12] == [a] * 3 + [b] * 3 + [a] * 3 + [b] * 3
        assert a != b


@pytest.mark.parametrize(
    ("settings", "picked", "options", "message"),
    [
        ({}, 1, {}, "a generation batch has 4 prompts and the selector picks 1"),
        ({}, 8, {"id_column": "id"}, "needs a column 'id'"),
        ({}, 8, {"every": 0}, "at least 1 step"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, settings: dict[str, Any], picked: int, options: dict[str, Any], message: str
) -> None:
    data = dataset(28)
    with pytest.raises(PolicyError, match=message):
        attach(trainer(tmp_path, data, **settings), OnlineSelector(data["prompt_id"], picked), **options)
    with pytest.raises(PolicyError, match="'x' of the selector is not in"):
        attach(trainer(tmp_path, data), OnlineSelector(["p0", "x"], 1))


def test_a_live_policys_sketches_are_those_of_pairs_and_the_model_stays_as_it_was() -> None:
    model = AutoModelForCausalLM.from_pretrained(POLICY).train()
    model.lm_head.weight.requires_grad_(False)
    wanted = [weight.requires_grad for weight in model.parameters()]
    prompts, pairs = [[5, 6, 7], [8, 9], [4]], Pairs()
    pairs.observe(0, [[10, 11], [12], [13]], [False, False, True])
    pairs.observe(2, [[10], [12]], [True, False])
    found, phi = LivePolicy(model, prompts, pairs, dimension=256).sketch(np.array([0, 1, 2]))
    assert model.training
    assert [weight.requires_grad for weight in model.parameters()] == wanted
    assert found.tolist() == [0, 2]
    frozen = AutoModelForCausalLM.from_pretrained(POLICY).eval()
    groups = [Group([5, 6, 7], [[13], [10, 11]], [1.0, 0.0]), Group([4], [[10], [12]], [1.0, 0.0])]
    np.testing.assert_allclose(phi, Sketcher(frozen, SketchConfig(dimension=256)).sketch(groups), rtol=1e-4, atol=1e-6)


def observed(folder: Path, rewards: list[Any], tokens: list[list[int]], **settings: Any) -> OnlineSelector:
    """A selector that has seen one batch of one prompt."""
    grpo = trainer(folder, dataset(28), **settings)
    grpo.reward_funcs = [lambda **_: rewards]
    selector = OnlineSelector(grpo.train_dataset["prompt_id"], PICKED)
    attach(grpo, selector)
    grpo.model.train()
    grpo.reward_funcs[0](prompt_id=["p3"] * len(tokens), completion_ids=tokens)
    selector.pairs = grpo.callback_handler.callbacks[-1].pairs  # type: ignore[attr-defined]
    return selector


def test_rewards_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    selector = observed(tmp_path, [1.0, None, float("nan"), 0.0], [[4, 1], [5, 1], [6, 1], [7, 1]])
    assert selector.state.history.responses.sum() == 2
    assert selector.pairs.of([3])[3] == ([4, 1], [7, 1])  # type: ignore[attr-defined]


def test_a_cut_response_is_no_part_of_a_pair_where_trl_masks_it(tmp_path: Path) -> None:
    responses = [[4, 5], [5, 1], [6, 1]]
    plain = observed(tmp_path, [1.0, 1.0, 0.0], responses)
    masked = observed(tmp_path, [1.0, 1.0, 0.0], responses, mask_truncated_completions=True)
    assert plain.pairs.of([3])[3].correct == [4, 5]  # type: ignore[attr-defined]
    assert masked.pairs.of([3])[3].correct == [5, 1]  # type: ignore[attr-defined]
    assert plain.state.history.responses.sum() == masked.state.history.responses.sum() == 3


def test_a_reward_that_says_nothing_is_noticed(tmp_path: Path) -> None:
    grpo = trainer(tmp_path, dataset(28))
    grpo.reward_funcs = [lambda **_: [None, None]]
    attach(grpo, OnlineSelector(grpo.train_dataset["prompt_id"], PICKED))
    grpo.model.train()
    batch = {"prompt_id": ["p3", "p3"], "completion_ids": [[4, 1], [5, 1]]}
    for _ in range(7):
        grpo.reward_funcs[0](**batch)
    with pytest.raises(PolicyError, match=r"gave no number for 8 batches in a row"):
        grpo.reward_funcs[0](**batch)


def test_integer_ids_are_ids(tmp_path: Path) -> None:
    data = dataset(28)
    numbered = data.remove_columns("prompt_id").add_column("prompt_id", list(range(28)))
    grpo, selector = trainer(tmp_path, numbered), OnlineSelector(numbered["prompt_id"], PICKED)
    grpo.reward_funcs = [lambda **_: [1.0, 0.0]]
    attach(grpo, selector)
    grpo.model.train()
    grpo.reward_funcs[0](prompt_id=[3, 3], completion_ids=[[4, 1], [5, 1]])
    assert selector.state.history.responses[3] == 2
    assert grpo.callback_handler.callbacks[-1].pairs.of([3]) == {3: ([4, 1], [5, 1])}


def test_what_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    data = dataset(28)
    grpo = trainer(tmp_path, data)
    attach(grpo, OnlineSelector(data["prompt_id"], PICKED))
    with pytest.raises(PolicyError, match="has an online selection already"):
        attach(grpo, OnlineSelector(data["prompt_id"], PICKED))
    own = trainer(tmp_path, data, {"rollout_func": lambda prompts, trainer: {}})
    with pytest.raises(PolicyError, match="the trainer has rollout_func"):
        attach(own, OnlineSelector(data["prompt_id"], PICKED))
    grpo = trainer(tmp_path, data)
    for name in ("tools", "environment_factories"):
        before = getattr(grpo, name)
        setattr(grpo, name, [print])
        with pytest.raises(PolicyError, match=f"the trainer has {name}"):
            attach(grpo, OnlineSelector(data["prompt_id"], PICKED))
        setattr(grpo, name, before)
    grpo.train_dataset = data.to_iterable_dataset()
    with pytest.raises(PolicyError, match="give a Dataset, found IterableDataset"):
        attach(grpo, OnlineSelector(data["prompt_id"], PICKED))
