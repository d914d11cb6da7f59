"""The bench of the outcome: its GRPO is TRL's, its shortcuts change nothing, its figures are what they claim."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from bench.outcome import grpo, table
from bench.outcome.arms import _know
from bench.outcome.measuring import Cost, Trained
from bench.outcome.policies import embedded, jittered
from bench.outcome.pools import COINS, WRONG, make_pool
from learnalign.demo.arithmetic import distinct
from learnalign.demo.run import POLICY
from learnalign.online.pairs import Pairs

pytestmark = pytest.mark.slow

BATCH, STEPS = 6, 3


@pytest.fixture(scope="module")
def encoded() -> list[grpo.Encoded]:
    return [grpo.encode(prompt) for prompt in make_pool("clean", 56, 28, seed=1)[0]]


def weights(model: Any) -> torch.Tensor:
    return torch.cat([w.detach().flatten() for w in model.parameters()])


def test_steps_are_those_of_trl(tmp_path: Path) -> None:
    """TRL trains on responses that the bench sampled from TRL's policy; the bench then repeats the steps alone."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import trl

    generator = torch.Generator().manual_seed(0)
    pool = make_pool("clean", 56, 28, seed=1)[0]
    by_text = {prompt.text: grpo.encode(prompt) for prompt in pool}
    batches: list[list[grpo.Group]] = []

    def sample(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        asked = [by_text[chat[0]["content"]] for chat in prompts[:: grpo.RESPONSES]]
        batches.append(grpo.rollout(trainer.model.eval(), asked, grpo.RESPONSES, generator))
        trainer.model.train()
        texts = [list(text) for group in batches[-1] for text in group.responses]
        return {
            "prompt_ids": [list(group.prompt) for group in batches[-1] for _ in group.responses],
            "completion_ids": texts,
            "logprobs": [[0.0] * len(text) for text in texts],
        }

    def right(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
        return [float(c[0]["content"] == a) for c, a in zip(completions, answer, strict=True)]

    start = embedded()
    trainer = trl.GRPOTrainer(
        deepcopy(start),
        right,
        trl.GRPOConfig(
            str(tmp_path),
            optim="sgd",  # Adam divides by a gradient's size: where that is near 0, rounding decides the sign of a step
            learning_rate=0.1,
            lr_scheduler_type="constant",
            max_grad_norm=grpo.CLIP_NORM,
            num_generations=grpo.RESPONSES,
            per_device_train_batch_size=BATCH * grpo.RESPONSES,
            max_completion_length=grpo.MAX_NEW_TOKENS,
            max_steps=STEPS,
            loss_type="grpo",
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        Dataset.from_list([{"prompt": [{"role": "user", "content": p.text}], "answer": p.answer} for p in pool]),
        processing_class=AutoTokenizer.from_pretrained(POLICY),
        rollout_func=sample,
    )
    trainer.train()
    ours = deepcopy(start).train()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    for groups in batches[:STEPS]:
        assert any(group.mixed for group in groups)
        grpo.train_step(ours, optimizer, groups)
    moved = (weights(trainer.model) - weights(start)).norm()
    assert moved > 0.05
    assert (weights(trainer.model) - weights(ours)).norm() < 1e-3 * moved


def test_a_step_has_the_gradient_of_every_response_run_by_itself(encoded: list[grpo.Encoded]) -> None:
    model = embedded()
    groups = grpo.rollout(model, encoded[:8], 8, torch.Generator().manual_seed(1))
    assert any(len(set(group.responses)) < len(group.responses) for group in groups if group.mixed)
    loss = torch.zeros(())
    for group in groups:
        rewards = torch.tensor(group.rewards)
        advantage = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        for a, text in zip(advantage, group.responses, strict=True):
            ids = torch.tensor([group.prompt + text])
            logits = model(input_ids=ids).logits[0, len(group.prompt) - 1 : -1]
            loss -= a * logits.log_softmax(-1)[torch.arange(len(text)), list(text)].mean() / 64
    loss.backward()
    expected = torch.cat([w.grad.flatten() for w in model.parameters()])
    expected *= min(1.0, grpo.CLIP_NORM / float(expected.norm()))
    grpo.train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), groups)
    found = torch.cat([w.grad.flatten() for w in model.parameters()])
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_sampling_draws_from_the_policy(encoded: list[grpo.Encoded]) -> None:
    """Sequences that ended leave the batch early; what is left must still follow the exact probabilities."""
    model = embedded().eval()
    exact, greedy = grpo.success(model, encoded)
    groups = grpo.rollout(model, encoded, 64, torch.Generator().manual_seed(2))
    rate = torch.tensor([np.mean(group.rewards) for group in groups])
    error = (exact * (1 - exact) / 64).sqrt()
    assert ((rate - exact).abs() < 4.5 * error + 1e-3).all()
    assert greedy[exact > 0.5].all()
    assert 0.1 < float(exact.mean()) < 0.9


def test_the_noisy_pool_has_wrong_answers_that_the_habit_gives_and_coins() -> None:
    clean, held_out = make_pool("clean", 280, 56, seed=3)
    noisy, same = make_pool("noisy", 280, 56, seed=3)
    problems = {problem.text: problem for problem in distinct(280, 3)}
    wrong = [prompt for prompt in noisy if not prompt.right]
    assert len(wrong) == round(WRONG * 280)
    assert all(prompt.answer == problems[prompt.text].habit != problems[prompt.text].answer for prompt in wrong)
    assert sum(prompt.family == "coin" for prompt in noisy) == round(COINS * 280)
    assert held_out == same
    assert all(prompt.right for prompt in clean + held_out)
    assert not {prompt.text for prompt in clean} & {prompt.text for prompt in held_out}


def test_the_oracle_knows_the_right_answers_and_the_policy() -> None:
    pool, _ = make_pool("noisy", 200, 1, 3)
    cell = SimpleNamespace(pool=pool, encoded=[grpo.encode(prompt) for prompt in pool])
    model = embedded()
    p = grpo.success(model, cell.encoded)[0].double().numpy()
    drawn = np.concatenate([_know(cell, model, 20, seed) for seed in range(50)])
    assert all(pool[k].right and pool[k].family != "coin" for k in drawn)
    usable = np.array([prompt.right and prompt.family != "coin" for prompt in pool])
    rarely = usable & ((p < 0.01) | (p > 0.99))
    assert rarely.sum() > 20
    assert np.isin(drawn, np.flatnonzero(rarely)).mean() < 0.1


def test_habit_rates_stay_rates() -> None:
    rates = [rate for seed in range(20) for levels in jittered(Random(seed)).values() for rate in levels]
    assert min(rates) == 0
    assert 0.9 < max(rates) < 1


def curve(*points: tuple[int, float, int, int]) -> dict[str, Any]:
    """(step, passed, tokens of training, tokens of selecting)."""
    return {
        "curve": [
            {
                "step": step,
                "passed": passed,
                "greedy": passed,
                "training": {"sampled": training, "back": 0},
                "selecting": {"sampled": 0, "back": selecting},
            }
            for step, passed, training, selecting in points
        ],
        "mixed": 0.5,
        "choices": [],
        "overlap": None,
    }


def test_equal_compute_charges_selecting_before_the_steps_that_it_serves() -> None:
    own = curve((0, 0.2, 0, 0), (10, 0.4, 100, 50), (20, 0.6, 200, 50))
    assert table.at_compute(own, 50) == pytest.approx(0.2)
    assert table.at_compute(own, 100) == pytest.approx(0.3)
    assert table.at_compute(own, 250) == pytest.approx(0.6)
    assert table.at_compute(own, 900) == pytest.approx(0.6)


def test_errors_are_over_pairs_and_differences_are_paired() -> None:
    def runs(first: float, second: float) -> dict[int, list[dict[str, Any]]]:
        return {0: [curve((0, 0.1, 0, 0), (4, p, 8, 0)) for p in (first - 0.05, first + 0.05)]} | {
            1: [curve((0, 0.1, 0, 0), (4, p, 8, 0)) for p in (second - 0.01, second + 0.01)]
        }

    results = {("clean", "full"): runs(0.3, 0.5), ("clean", "online"): runs(0.4, 0.6)}
    found = table.row(results, "clean", "online")
    assert found.passed == pytest.approx((0.5, 0.1))
    assert found.over_full == pytest.approx((0.1, 0.0))
    assert found.over_full_compute == pytest.approx((0.1, 0.0))
    assert table.differences(results, "clean", "online", "full") == pytest.approx(np.full((2, 2), 0.1))
    said = table.online_over_others(results, "clean", ["full"])
    assert said == "online over full +0.100 ± 0.000; single runs over full +0.100 to +0.100"


def test_staged_selection_is_charged_for_the_pairs_that_it_propagates_back(encoded: list[grpo.Encoded]) -> None:
    pairs, cost = Pairs(), Cost()
    pairs.observe(1, [(5, 6), (7,), (8, 9, 10)], [False, False, True])
    found, phi = Trained(embedded(), encoded, pairs, cost).sketch(np.arange(3))
    assert found.tolist() == [1]
    assert phi.shape == (1, 8192)
    assert phi.any()
    assert (cost.sampled, cost.back) == (0, 2 + 3)
