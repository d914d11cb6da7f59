"""TRL's GRPOTrainer trains on online picks of the embedded policy's pool, and selecting learns from its responses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
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
from learnalign.online import OnlineSelector, observing, ranks
from learnalign.online.live import LivePolicy
from learnalign.online.observing import MOST_SILENT, Told
from learnalign.online.pairs import Pairs
from learnalign.online.ranks import SplitPolicy
from learnalign.online.sampler import PicksSampler
from learnalign.online.trl import _Prompts, attach

pytestmark = pytest.mark.train

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
POOL, STEPS, EVERY = 14, 6, 2
"""A step takes 4 prompts, so that 3 are an epoch."""
ROOT = Path(__file__).parents[1]


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
        args=trl.GRPOConfig(str(folder), **asked),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(POLICY),
        **{"reward_funcs": right, **(given or {})},
    )


class Training(NamedTuple):
    """A training that was watched."""

    trainer: Any
    selector: OnlineSelector
    told: list[list[str]]
    """Of every generation the ids of its responses, as the selector was told."""
    measured: list[int]
    """How many gradients each measurement compared."""


def watched(folder: Path, checkpoint: Path | bool | None = None, **settings: Any) -> Training:
    """Train on online picks of the dataset, with a selector whose directory is in `folder`."""
    data = dataset(POOL)
    evaluated = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 8}
    grpo = trainer(folder, data, {"eval_dataset": data}, **evaluated, **settings)
    selector = OnlineSelector(data["prompt_id"], directory=folder / "online")
    training = Training(grpo, selector, [], [])
    observe, measure = selector.observe, selector.measure

    def observing(ids: Any, rewards: Any) -> bool:
        training.told.append(list(ids))
        return observe(ids, rewards)

    def measuring(policy: Any) -> int:
        training.measured.append(measure(policy))
        return training.measured[-1]

    selector.observe, selector.measure = observing, measuring  # type: ignore[method-assign, assignment]
    attach(grpo, selector, every=EVERY, dimension=512)
    grpo.train(resume_from_checkpoint=checkpoint)
    return training


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training with checkpoints within an epoch and at its end, and evaluations."""
    return watched(tmp_path_factory.mktemp("whole"), save_strategy="steps", save_steps=1)


def test_training_runs_on_the_selectors_prompts_and_tells_it_all_but_evaluations(whole: Training) -> None:
    selector, told = whole.selector, whole.told
    assert any("eval_reward" in line for line in whole.trainer.state.log_history)
    assert len(told) == STEPS
    for ids in told:
        assert [len(ids), len(set(ids))] == [16, 4]
        assert all(ids.count(prompt_id) == 4 for prompt_id in ids)
    assert len({prompt_id for ids in told[:3] for prompt_id in ids}) == 12, "an epoch repeats nothing"
    known = selector.known
    assert known.history.visits.sum() == STEPS * 4
    assert known.history.responses.sum() > 0
    assert known.schedule.taken == STEPS * 4, "the loader is not ahead at the end of an epoch"
    again = OnlineSelector(selector.ids, directory=Path(whole.trainer.args.output_dir) / "online")
    assert again.state_dict() == selector.state_dict()


def test_gradients_are_of_pairs_that_training_sampled(whole: Training) -> None:
    known = whole.selector.known
    assert len(whole.measured) == STEPS // EVERY - 1, "not after the last step"
    assert sum(whole.measured) > 0
    measured = {whole.selector.ids[k] for k in np.flatnonzero(known.measured)}
    assert measured <= {prompt_id for ids in whole.told for prompt_id in ids}
    assert all(weight.requires_grad for weight in whole.trainer.model.parameters())


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_resumed_training_is_the_uninterrupted_one(whole: Training, tmp_path: Path, step: int) -> None:
    """It was rolled back from step 6, whose verdicts its own directory holds, to the end of an epoch or within one."""
    folder = Path(whole.trainer.args.output_dir)
    shutil.copytree(folder / "online", tmp_path / "online")
    resumed = watched(tmp_path, folder / f"checkpoint-{step}")
    assert resumed.told == whole.told[step:]
    assert resumed.selector.state_dict() == whole.selector.state_dict()
    again = OnlineSelector(whole.selector.ids, directory=tmp_path / "online")
    assert again.state_dict() == whole.selector.state_dict()


@pytest.mark.parametrize(
    ("settings", "generations", "prompts"),
    [
        ({"num_iterations": 2}, 3, 4),
        ({"steps_per_generation": 4}, 3, 8),
        ({"steps_per_generation": 4, "num_iterations": 2, "max_steps": 8}, 2, 8),
        ({"steps_per_generation": 1}, 11, 2),  # an epoch of 7 has 4 steps
    ],
)
def test_a_generation_is_told_once_however_often_it_is_trained_on(
    tmp_path: Path, settings: dict[str, Any], generations: int, prompts: int
) -> None:
    data = dataset(POOL)
    grpo = trainer(tmp_path, data, **settings)
    selector = OnlineSelector(data["prompt_id"])
    attach(grpo, selector)
    grpo.train()
    assert selector.known.history.visits.sum() == generations * prompts
    assert selector.known.measured.sum() == 0, "no gradients unless they are asked for"


def test_a_checkpoint_without_the_selection_is_refused(whole: Training, tmp_path: Path) -> None:
    folder = shutil.copytree(Path(whole.trainer.args.output_dir) / "checkpoint-3", tmp_path / "checkpoint-3")
    (folder / "online" / "training.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        watched(tmp_path, True)
    shutil.rmtree(folder / "online")
    with pytest.raises(RunError, match="checkpoint-3 holds no online selection"):
        watched(tmp_path, True)


def sampler(selector: OnlineSelector, copies: int = 1, repeats: int = 1) -> PicksSampler:
    row_of = {prompt_id: 100 + k for k, prompt_id in enumerate(selector.ids)}
    return PicksSampler(selector, row_of, copies=copies, batch=2, repeats=repeats)


def test_a_sampler_goes_on_where_it_was() -> None:
    """At every row of an epoch and after it, also where the selector learns in between."""
    ids = [f"p{k}" for k in range(7)]
    for stop in range(1, 7):
        one, two = OnlineSelector(ids), OnlineSelector(ids)
        first = sampler(one)
        stream = iter(first)
        before = list(islice(stream, stop))
        one.observe(["p1"] * 4, [0.0] * 4)
        position, state = json.loads(json.dumps(first.position())), one.state_dict()
        after = [*stream, *first]
        second = sampler(two)
        two.load_state_dict(state)
        second.go_on(position, within=stop < 6)
        again = iter(second)
        if stop < 6:
            assert list(islice(again, stop)) == before
            assert [*again, *second] == after
        else:
            assert [*again, *second][: len(after)] == after


def test_an_epoch_has_the_pools_size_and_the_trainers_order() -> None:
    selector = OnlineSelector([f"p{k}" for k in range(7)])
    rows, picks = list(sampler(selector, copies=3, repeats=2)), OnlineSelector(selector.ids).next(6)
    assert len(rows) == len(sampler(selector, copies=3, repeats=2)) == 6 * 3 * 2
    expected = [100 + int(prompt_id[1:]) for prompt_id in picks]
    for k in range(3):
        a, b = expected[2 * k : 2 * k + 2]
        assert rows[12 * k : 12 * k + 12] == [a] * 3 + [b] * 3 + [a] * 3 + [b] * 3


@pytest.mark.parametrize(
    ("settings", "size", "options", "message"),
    [
        ({}, 3, {}, "a generation batch has 4 prompts and the pool 3: make it smaller"),
        ({}, 28, {"id_column": "id"}, "needs a column 'id'"),
        ({}, 28, {"every": 0}, "at least 1 step"),
        ({}, 28, {"correct": 1}, "number of a reward function, 0 to 0, found 1"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, settings: dict[str, Any], size: int, options: dict[str, Any], message: str
) -> None:
    data = dataset(28)
    with pytest.raises(PolicyError, match=message):
        attach(trainer(tmp_path, data, **settings), OnlineSelector(data["prompt_id"][:size]), **options)
    with pytest.raises(PolicyError, match="'x' of the selector is not in"):
        attach(trainer(tmp_path, data), OnlineSelector(["p0", "x"]))


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
    selector = OnlineSelector(grpo.train_dataset["prompt_id"])
    attach(grpo, selector, every=1)
    grpo.model.train()
    grpo.reward_funcs[0](prompt_id=["p3"] * len(tokens), completion_ids=tokens)
    selector.pairs = grpo.callback_handler.callbacks[-1].pairs  # type: ignore[attr-defined]
    return selector


def test_rewards_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    selector = observed(tmp_path, [1.0, None, float("nan"), 0.0], [[4, 1], [5, 1], [6, 1], [7, 1]])
    assert selector.known.history.responses.sum() == 2
    assert selector.pairs.of([3])[3] == ([4, 1], [7, 1])  # type: ignore[attr-defined]


def test_a_cut_response_is_no_part_of_a_pair_where_trl_masks_it(tmp_path: Path) -> None:
    responses = [[4, 5], [5, 1], [6, 1]]
    plain = observed(tmp_path, [1.0, 1.0, 0.0], responses)
    masked = observed(tmp_path, [1.0, 1.0, 0.0], responses, mask_truncated_completions=True)
    assert plain.pairs.of([3])[3].correct == [4, 5]  # type: ignore[attr-defined]
    assert masked.pairs.of([3])[3].correct == [5, 1]  # type: ignore[attr-defined]
    assert plain.known.history.responses.sum() == masked.known.history.responses.sum() == 3


def test_a_reward_that_says_nothing_is_noticed(tmp_path: Path) -> None:
    grpo = trainer(tmp_path, dataset(28))
    grpo.reward_funcs = [lambda **_: [None, None]]
    attach(grpo, OnlineSelector(grpo.train_dataset["prompt_id"]))
    grpo.model.train()
    batch = {"prompt_id": ["p3", "p3"], "completion_ids": [[4, 1], [5, 1]]}
    for _ in range(MOST_SILENT - 1):
        grpo.reward_funcs[0](**batch)
    with pytest.raises(PolicyError, match=r"'right' gave no number for 8 batches in a row"):
        grpo.reward_funcs[0](**batch)


def test_a_pools_prompts_are_encoded_as_the_trainer_does(tmp_path: Path) -> None:
    grpo = trainer(tmp_path, dataset(28))
    chat = [grpo._tokenize_prompts([grpo.train_dataset[k]["prompt"]])[0][0] for k in (5, 3)]
    assert list(_Prompts(grpo, [5, 3])) == chat
    plain = grpo.train_dataset.remove_columns("prompt").add_column("prompt", ["1+1"] * 28)
    grpo.train_dataset = plain
    assert _Prompts(grpo, [5])[0] == grpo._tokenize_prompts(["1+1"])[0][0]


def test_integer_ids_are_ids(tmp_path: Path) -> None:
    data = dataset(28)
    numbered = data.remove_columns("prompt_id").add_column("prompt_id", list(range(28)))
    grpo, selector = trainer(tmp_path, numbered), OnlineSelector(numbered["prompt_id"])
    grpo.reward_funcs = [lambda **_: [1.0, 0.0]]
    attach(grpo, selector, every=1)
    grpo.model.train()
    grpo.reward_funcs[0](prompt_id=[3, 3], completion_ids=[[4, 1], [5, 1]])
    assert selector.known.history.responses[3] == 2
    assert grpo.callback_handler.callbacks[-1].pairs.of([3]) == {3: ([4, 1], [5, 1])}


def test_what_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    data = dataset(28)
    grpo = trainer(tmp_path, data)
    attach(grpo, OnlineSelector(data["prompt_id"]))
    with pytest.raises(PolicyError, match="has an online selection already"):
        attach(grpo, OnlineSelector(data["prompt_id"]))
    own = trainer(tmp_path, data, {"rollout_func": lambda prompts, trainer: {}})
    with pytest.raises(PolicyError, match="the trainer has rollout_func"):
        attach(own, OnlineSelector(data["prompt_id"]))
    grpo = trainer(tmp_path, data)
    for name in ("tools", "environment_factories"):
        before = getattr(grpo, name)
        setattr(grpo, name, [print])
        with pytest.raises(PolicyError, match=f"the trainer has {name}"):
            attach(grpo, OnlineSelector(data["prompt_id"]))
        setattr(grpo, name, before)
    grpo.train_dataset = data.to_iterable_dataset()
    with pytest.raises(PolicyError, match="give a Dataset, found IterableDataset"):
        attach(grpo, OnlineSelector(data["prompt_id"]))
    split = trainer(tmp_path, data)
    split.is_fsdp_enabled = True
    with pytest.raises(PolicyError, match=r"is_fsdp_enabled: .* leave out every="):
        attach(split, OnlineSelector(data["prompt_id"]), every=1)
    attach(split, OnlineSelector(data["prompt_id"]))


def test_a_reward_that_cannot_say_what_is_correct_is_named_and_another_may(tmp_path: Path) -> None:
    async def later(**_: Any) -> list[float]:
        return []

    data = dataset(28)
    model = AutoModelForCausalLM.from_pretrained(POLICY)
    for reward, reason in ((model, "is a model, whose scores"), (later, "is asynchronous")):
        grpo = trainer(tmp_path, data)
        grpo.reward_funcs = [reward]
        grpo.reward_func_names = ["first"]
        with pytest.raises(PolicyError, match=rf"reward 0, 'first', {reason}.* \(attach: correct=1\)"):
            attach(grpo, OnlineSelector(data["prompt_id"]))
        grpo.reward_funcs.append(lambda **_: [1.0, 0.0])
        grpo.reward_func_names.append("second")
        selector = OnlineSelector(data["prompt_id"])
        attach(grpo, selector, correct=1)
        grpo.model.train()
        grpo.reward_funcs[1](prompt_id=["p3", "p3"], completion_ids=[[4, 1], [5, 1]])
        assert selector.known.history.correct[3] == 1


def test_the_function_that_says_what_is_correct_may_weigh_nothing_in_the_reward(tmp_path: Path) -> None:
    """A trainer with a reward for length, trained on, and one for correctness, which is only told."""
    data = dataset(POOL)

    def short(completions: list[Any], **_: Any) -> list[float]:
        return [-float(len(c[0]["content"])) for c in completions]

    grpo = trainer(tmp_path, data, {"reward_funcs": [short, right]}, reward_weights=[1.0, 0.0])
    selector = OnlineSelector(data["prompt_id"])
    attach(grpo, selector, correct=1)
    grpo.train()
    shares = [line["rewards/right/mean"] for line in grpo.state.log_history if "rewards/right/mean" in line]
    history = selector.known.history
    assert history.visits.sum() == STEPS * 4
    assert history.correct.sum() > 0
    assert len(shares) == STEPS
    assert all(line["reward"] <= 0 for line in grpo.state.log_history if "reward" in line)


def test_processes_that_take_different_prompts_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grpo = trainer(tmp_path, dataset(28))
    grpo.reward_funcs = [lambda **_: [1.0, 0.0]]
    attach(grpo, OnlineSelector(grpo.train_dataset["prompt_id"]))
    grpo.model.train()
    grpo.accelerator = SimpleNamespace(num_processes=2)
    other = [Told("p3", None, None)] * 2
    monkeypatch.setattr(observing, "gather_object", lambda own: [*own, *other])
    grpo.reward_funcs[0](prompt_id=["p3"] * 2, completion_ids=[[4, 1]] * 2)
    other = [Told("p5", None, None)] * 2
    with pytest.raises(PolicyError, match="do not train on the same prompts: 'p3' has not 4 responses"):
        grpo.reward_funcs[0](prompt_id=["p3"] * 2, completion_ids=[[4, 1]] * 2)


def test_gradients_of_two_processes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs, prompts = AutoModelForCausalLM.from_pretrained(POLICY), Pairs(), [[k] for k in range(4, 9)]
    for k in (0, 1, 2, 4):
        pairs.observe(k, [[10 + k, 11], [12]], [True, False])
    live, asked = LivePolicy(model, prompts, pairs, dimension=256), np.arange(5)
    parts: list[Any] = []
    monkeypatch.setattr(ranks, "gather_object", lambda own: parts.extend(own) or parts)
    for rank in range(2):
        policy = SplitPolicy(live, SimpleNamespace(process_index=rank, num_processes=2))
        found, phi = policy.sketch(asked)
    assert [part[0].tolist() for part in parts] == [[0, 2, 4], [1]]
    assert found.tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(phi, live.sketch(asked)[1], rtol=1e-4, atol=1e-5)


def test_two_processes_pick_and_learn_as_one(tmp_path: Path) -> None:
    """Each samples half of every batch, one group across both; the first alone writes, and both know the same.
    Resumed from a checkpoint within an epoch they go on as before.
    """
    program = Path(__file__).with_name("online_ranks_program.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    results = []
    for name, resumed in (("whole", ""), ("resumed", str(tmp_path / "whole" / "checkpoint-2"))):
        command = [*launch, str(tmp_path / name), resumed]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        results.append([json.loads((tmp_path / name / f"{rank}.json").read_text()) for rank in (0, 1)])
    (first, second), again = results
    assert first == second
    assert again[0] == again[1]
    assert first["told"][2:] == again[0]["told"]
    assert first["state"]["taken"] == again[0]["state"]["taken"]
    for ids in first["told"]:
        assert [len(ids), len(set(ids))] == [12, 3], "all that both sampled"
        assert ids == sorted(ids, key=ids.index)
    assert sum(first["measured"]) > 0
    assert len(list((tmp_path / "whole" / "online").iterdir())) == 1
    kept = OnlineSelector(dataset(POOL)["prompt_id"], directory=tmp_path / "whole" / "online").state_dict()
    assert {name: value for name, value in kept.items() if not isinstance(value, bytes)} == first["state"]
