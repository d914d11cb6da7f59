"""The bench of the outcome: its GRPO is TRL's, its shortcuts change nothing, its figures are what they claim."""

from __future__ import annotations

import os
from collections.abc import Sequence
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

from bench.outcome import grpo, jobs, measures, table
from bench.outcome.__main__ import same_size
from bench.outcome.arms import ARMS
from bench.outcome.choosers import Chooser, skipping, thompson
from bench.outcome.choosers.oracle import Oracle, both_verdicts
from bench.outcome.choosers.passes import MOST_TRIES, Batch, Passes, dynamic_batch, one_batch
from bench.outcome.measuring import Cost, Integers, Trained
from bench.outcome.policies import embedded, jittered
from bench.outcome.pools import COINS, HOPELESS, HOPELESS_BELOW, WRONG, Prompt, make_pool
from bench.outcome.regimes import REGIMES, quick
from bench.outcome.runs import described
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
    """Equal prefixes run as one; every response must still follow the exact probabilities, by itself."""
    model = embedded().eval()
    exact, greedy = grpo.success(model, encoded)
    groups = grpo.rollout(model, encoded, 64, torch.Generator().manual_seed(2))
    rate = torch.tensor([np.mean(group.rewards) for group in groups])
    error = (exact * (1 - exact) / 64).sqrt()
    assert ((rate - exact).abs() < 4.5 * error + 1e-3).all()
    variance = torch.tensor([np.var(group.rewards, ddof=1) for group in groups])
    assert float((variance - exact * (1 - exact)).abs().mean()) < 0.02
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


def test_two_thirds_of_a_hard_pool_are_hopeless_for_its_policy() -> None:
    model = embedded()

    def success(prompts: Sequence[Prompt]) -> np.ndarray[Any, Any]:
        return grpo.success(model, [grpo.encode(prompt) for prompt in prompts])[0].numpy()

    pool, held_out = make_pool("hard", 60, 56, 3, success)
    assert len({prompt.text for prompt in pool}) == 60
    assert not {prompt.text for prompt in pool} & {prompt.text for prompt in held_out}
    assert (success(pool) < HOPELESS_BELOW).sum() == round(HOPELESS * 60)
    assert (success(pool)[:30] < HOPELESS_BELOW).sum() not in (0, 30)
    assert held_out == make_pool("hard", 60, 56, 3, success)[1]


def test_the_oracle_knows_the_right_answers_and_the_policy() -> None:
    pool, _ = make_pool("noisy", 200, 1, 3)
    cell: Any = SimpleNamespace(pool=pool, encoded=[grpo.encode(prompt) for prompt in pool], seed=0)
    model = embedded()
    p = grpo.success(model, cell.encoded)[0].double().numpy()
    oracle = Oracle(cell)
    oracle.prepare(model, 0)
    drawn = np.concatenate([oracle.next(16) for _ in range(100)])
    assert all(pool[k].right and pool[k].family != "coin" for k in drawn)
    usable = np.array([prompt.right and prompt.family != "coin" for prompt in pool])
    rarely = usable & ((p < 0.01) | (p > 0.99))
    assert rarely.sum() > 20
    assert np.isin(drawn, np.flatnonzero(rarely)).mean() < 0.1
    assert both_verdicts(np.array([0.0, 0.5, 1.0])) == pytest.approx([0.0, 1 - 2 / 2**8, 0.0])


def test_habit_rates_stay_rates() -> None:
    rates = [rate for seed in range(20) for levels in jittered(Random(seed)).values() for rate in levels]
    assert min(rates) == 0
    assert 0.9 < max(rates) < 1


def group(*rewards: float) -> grpo.Group:
    return grpo.Group((1,), [(5, 2)] * len(rewards), list(rewards))


class Listed(Chooser):
    """Says what it was told, and remembers what it is told."""

    def __init__(self, *batches: list[int]) -> None:
        self.batches, self.seen = list(batches), list[int]()

    def next(self, n: int) -> Integers:
        return np.array(self.batches.pop(0)[:n])

    def observe(self, prompts: Integers, groups: Sequence[grpo.Group]) -> None:
        self.seen += prompts.tolist()


def test_passes_meet_every_prompt_once_a_pass() -> None:
    passes = Passes(np.arange(10), np.random.default_rng(0))
    met = np.concatenate([passes.next(4) for _ in range(5)])
    assert sorted(met[:10]) == sorted(met[10:]) == list(range(10))
    assert met[:10].tolist() != met[10:].tolist()


def test_dynamic_sampling_goes_on_until_a_batch_is_full_of_groups_with_both_verdicts() -> None:
    def sample(prompts: Integers) -> list[grpo.Group]:
        return [group(1, 0) if k % 2 else group(1, 1) for k in prompts]

    chooser = Listed([0, 1, 2, 3], [4, 5, 6, 8], [7, 9, 11, 13])
    batch = dynamic_batch(chooser, 4, sample)
    assert batch.prompts.tolist() == [1, 3, 5, 7]
    assert all(kept.mixed for kept in batch.groups)
    assert (len(batch.groups), len(batch.sampled), len(chooser.seen)) == (4, 12, 12)
    stuck = dynamic_batch(Listed(*[[2 * k, 2 * k + (k == 3)] for k in range(99)]), 2, sample)
    assert stuck.prompts.tolist() == [7]
    assert len(stuck.sampled) == 2 * MOST_TRIES
    plain = one_batch(Listed([0, 1]), 2, sample)
    assert plain.prompts.tolist() == [0, 1]
    assert plain.sampled == plain.groups


def test_mopps_keeps_a_discounted_posterior_and_takes_what_it_puts_near_a_half() -> None:
    chooser = thompson.Thompson(40, seed=0)
    chooser.observe(np.array([3]), [group(1, 1, 1, 0)])
    assert (chooser.right[3], chooser.wrong[3]) == (1 + 3, 1 + 1)
    chooser.observe(np.array([3]), [group(0, 0, 0, 0)])
    assert (chooser.right[3], chooser.wrong[3]) == (0.5 * 4 + 0.5, 0.5 * 2 + 0.5 + 4)
    assert set(np.delete(chooser.right, 3)) == {1.0}
    chooser.right[:], chooser.wrong[:] = 1.0, 1000.0
    chooser.right[10:14] = 1000.0
    for _ in range(20):
        assert sorted(chooser.next(4)) == [10, 11, 12, 13]


def test_mopps_chooses_among_some_candidates_only() -> None:
    chooser = thompson.Thompson(1000, seed=0)
    chooser.wrong[:] = 1000.0
    chooser.right[0] = 1000.0
    found = sum(0 in chooser.next(2) for _ in range(1000)) / 1000
    assert found == pytest.approx(thompson.CANDIDATES * 2 / 1000, abs=0.02)


def test_skipping_leaves_out_what_stays_without_a_signal() -> None:
    chooser = skipping.Skipping(4, seed=0)
    chooser.q = {"solved": 0.5, "hopeless": 0.2}
    for _ in range(2):
        chooser.observe(np.arange(4), [group(1, 1), group(0, 0), group(1, 0), group(1, 1)])
    chooser.observe(np.array([3]), [group(0, 1)])
    assert [chooser.keeps(k) for k in range(4)] == pytest.approx([0.5**2, 0.2**2, 1.0, 1.0])
    met = np.concatenate([chooser.next(4) for _ in range(2000)])
    often = np.bincount(met) / chooser.passes
    assert often == pytest.approx([0.25, 0.04, 1.0, 1.0], abs=0.03)


def test_skipping_looks_more_often_where_little_is_without_a_signal() -> None:
    chooser = skipping.Skipping(100, seed=0)
    chooser.observe(np.arange(2), [group(1, 1), group(1, 0)])
    assert chooser.q == {"solved": skipping.FIRST, "hopeless": skipping.FIRST}  # the first pass
    chooser.passes = 2
    chooser.observe(np.arange(2), [group(1, 1), group(1, 0)])
    assert chooser.q == pytest.approx({"solved": skipping.FIRST - 0.01, "hopeless": skipping.FIRST + 0.01})
    for _ in range(100):
        chooser.observe(np.arange(2), [group(0, 0), group(1, 0)])
    assert chooser.q == pytest.approx({"solved": skipping.MOST, "hopeless": skipping.LEAST})


def test_what_was_trained_on_is_described() -> None:
    pool = [Prompt("a", "1", "add", True), Prompt("b", "1", "add", False), Prompt("coin 1", "1", "coin", True)]
    groups = {0: group(1, 0), 1: group(0, 0), 2: group(1, 0)}
    batches = [Batch(np.array(ks), [groups[k] for k in ks], []) for ks in ([0, 1], [1, 2], [2, 2])]
    found = described(batches, pool)
    assert found == pytest.approx({"mixed": 4 / 6, "wrong": 2 / 6, "wrong_of_mixed": 0.0, "coins": 0.5, "distinct": 3})


def test_regimes_name_arms_that_there_are() -> None:
    for regime in (*REGIMES.values(), *quick().regimes.values()):
        assert set(regime.arms) <= set(ARMS)
        assert {"full", "oracle"} <= set(regime.arms)
    assert set().union(*(regime.arms for regime in REGIMES.values())) >= {"dynamic", "mopps", "skipping", "online"}


def test_a_folder_takes_more_arms_and_pairs_but_no_other_size(tmp_path: Path) -> None:
    scale = quick()
    same_size(tmp_path, scale, "long")
    more = scale.regimes["long"]._replace(arms=("full", "top"))
    same_size(tmp_path, scale._replace(regimes={"long": more}, pairs=(7,)), "long")
    with pytest.raises(SystemExit, match="another size"):
        same_size(tmp_path, scale._replace(regimes={"long": more._replace(steps=21)}), "long")


def test_a_stopped_bench_runs_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = quick()
    regime = scale.regimes["long"]._replace(arms=("full", "top", "oracle"), pools=("clean",))
    scale = scale._replace(regimes={"long": regime}, pairs=(5,))
    monkeypatch.setattr(jobs, "Cell", lambda *_: None)
    monkeypatch.setattr(jobs, "run", lambda arm, _: {"curve": [{"passed": 0.5}], "ran": arm is ARMS["top"]})
    (cell,) = jobs.jobs(scale)
    for arm in ("full", "oracle"):
        path = jobs.result_path(tmp_path, scale, cell, arm)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"before": true}')
    jobs.work(tmp_path, scale, cell)
    found = jobs.collect(tmp_path, scale, "long")
    assert [found["clean", arm][5] for arm in ("full", "oracle")] == [[{"before": True}]] * 2
    assert found["clean", "top"][5][0]["ran"]


def curve(*points: tuple[int, float, int, int]) -> dict[str, Any]:
    """(step, passed, tokens sampled to train, tokens propagated back to select)."""
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
        **dict.fromkeys(("mixed", "wrong", "wrong_of_mixed", "coins", "distinct"), 0.5),
    }


def test_equal_cost_charges_selecting_before_the_steps_that_it_serves() -> None:
    own = curve((0, 0.2, 0, 0), (10, 0.4, 100, 50), (20, 0.6, 200, 50))
    once = measures.over_cost(own, 1)
    assert [measures.at(once, spent) for spent in (50, 100, 250, 900)] == pytest.approx([0.2, 0.3, 0.6, 0.6])
    thrice = measures.over_cost(own, 3)
    assert [measures.at(thrice, spent) for spent in (150, 200, 350)] == pytest.approx([0.2, 0.3, 0.6])


def test_what_it_takes_to_reach_a_value() -> None:
    own = curve((0, 0.2, 0, 0), (10, 0.4, 100, 50), (20, 0.3, 200, 50), (30, 0.6, 300, 50))
    assert measures.to_reach(measures.over_steps(own), 0.3) == pytest.approx(5)
    assert measures.to_reach(measures.over_steps(own), 0.5) == pytest.approx(20 + 10 * 2 / 3)
    assert measures.to_reach(measures.over_cost(own, 1), 0.3) == pytest.approx(100)
    assert measures.to_reach(measures.over_cost(own, 3), 0.3) == pytest.approx(200)
    assert measures.to_reach(measures.over_steps(own), 0.7) is None


def test_the_ratio_is_a_geometric_mean_and_a_bound_where_a_run_never_gets_there() -> None:
    def to(step: int, end: float = 0.4) -> measures.Curve:
        return [0, step, 40], [0.2, end, end]

    twice = table.speedup([[(to(20), to(10))], [(to(20), to(10))]])
    assert twice == pytest.approx((2.0, 2.0, 2.0, 2, 2))
    spread = table.speedup([[(to(20), to(10)), (to(20), to(40))], [(to(40), to(10))]])  # pairs: 1/2 * 2 = 1, and 4
    assert spread is not None
    assert spread.ratio == pytest.approx(2.0)
    assert spread.high / spread.ratio == pytest.approx(2.0)
    assert spread.text() == "2.00 (1.00 to 4.00)"
    never = table.speedup([[(to(20), to(10))], [(to(20), to(10, end=0.39))]])
    assert never is not None
    assert never.text() == "< 1.00, 1 of 2 reached"
    assert table.speedup([[(([0, 10], [0.2, 0.1]), to(10))]]) is None


def test_errors_are_over_pairs_and_differences_are_paired() -> None:
    def runs(first: float, second: float) -> dict[int, list[dict[str, Any]]]:
        return {0: [curve((0, 0.1, 0, 0), (4, p, 8, 0)) for p in (first - 0.05, first + 0.05)]} | {
            1: [curve((0, 0.1, 0, 0), (4, p, 8, 0)) for p in (second - 0.01, second + 0.01)]
        }

    results = {("noisy", "full"): runs(0.3, 0.5), ("noisy", "oracle"): runs(0.4, 0.6)}
    rows = {arm: table.row(results, "noisy", arm) for arm in ("full", "oracle")}
    assert rows["oracle"].passed == pytest.approx((0.5, 0.1))
    assert rows["oracle"].over_full == pytest.approx((0.1, 0.0))
    assert [found == pytest.approx((0.1, 0.0)) for found in rows["oracle"].over_full_at_cost] == [True, True]
    said = table.gain(rows, "noisy")
    assert said.seen
    assert said.text() == "the bench sees a gain: yes; oracle over full, noisy: +0.100 ± 0.000"
    assert not table.gain({"oracle": rows["full"]}, "noisy").seen
    assert table.markdown(rows).count("\n") == 3


def test_a_cost_counts_what_ran_and_wrong_responses_as_often_as_a_regime_says() -> None:
    groups = [grpo.Group((1,), [(5, 2), (6, 7, 2)], [1.0, 0.0]), grpo.Group((1,), [(6, 7, 2)], [0.0])]
    for length, sampled, back in ((1, 2 + 3 + 3, 2 + 3), (4, 2 + 12 + 12, 2 + 12)):
        cost = Cost(length)
        cost.add_sampled(groups)
        cost.add_back(groups)
        assert cost.counted() == {"sampled": sampled, "back": back}


def test_staged_selection_is_charged_for_the_pairs_that_it_propagates_back(encoded: list[grpo.Encoded]) -> None:
    pairs, cost = Pairs(), Cost()
    pairs.observe(1, [(5, 6), (7,), (8, 9, 10)], [False, False, True])
    found, phi = Trained(embedded(), encoded, pairs, cost).sketch(np.arange(3))
    assert found.tolist() == [1]
    assert phi.shape == (1, 8192)
    assert phi.any()
    assert (cost.sampled, cost.back) == (0, 2 + 3)
