"""Laws of the sketcher: batches, padding, order and sharing do not matter; weightings are their definitions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gradient_oracle import SEED, D, exact_sketch, random_groups, tiny

from learnalign.config import SketchConfig
from learnalign.errors import ArrayError, PolicyError
from learnalign.gradient import Costs, Group, Sketcher, advantages, batches, layer_keys, weighted
from learnalign.gradient.batching import pack

TOGETHER = Costs(share=True, token=1.0, pair=0.0)
SHARED_ROUNDING = 1e-6
"""Llama takes its norms in float32 whatever the weights are; sharing changes the order of additions before them."""


def test_temperature_divides_the_logits() -> None:
    model, group = tiny(), random_groups(1)[0]
    phi = Sketcher(model, SketchConfig(dimension=D, seed=SEED, share_prompts=False), temperature=0.7).sketch([group])[0]
    np.testing.assert_allclose(phi, exact_sketch(model, group, temperature=0.7), rtol=0, atol=1e-11)


def test_batch_composition_order_and_sharing_do_not_matter() -> None:
    model, groups = tiny(), random_groups(5, seed=1)
    sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED))
    alone = np.concatenate([sketcher.sketch([group]) for group in groups])
    scale = np.abs(alone).max()
    for costs in (Costs(), TOGETHER, Costs(share=True, token=1.0, pair=0.2)):
        sketcher.costs = costs
        for order in (slice(None), slice(None, None, -1)):
            phi = sketcher.sketch(groups[order])[order]
            np.testing.assert_allclose(phi, alone, rtol=0, atol=SHARED_ROUNDING * scale)


def test_float32_is_near_float64() -> None:
    groups = random_groups(4, seed=2)
    exact = Sketcher(tiny(), SketchConfig(dimension=D, seed=SEED)).sketch(groups)
    single = Sketcher(tiny().float(), SketchConfig(dimension=D, seed=SEED)).sketch(groups)
    assert single.dtype == np.float32
    assert np.linalg.norm(single - exact) / np.linalg.norm(exact) < 1e-5


def test_sketches_are_linear_in_the_rewards() -> None:
    group = random_groups(1, seed=4)[0]
    first, second = np.array([0.3, -1.0, 2.0, 0.7])[: len(group.rewards)], np.arange(len(group.rewards))
    sketcher = Sketcher(tiny("gpt2"), SketchConfig(dimension=D, seed=SEED, advantage_std=False))
    phi = sketcher.sketch([replace(group, rewards=list(r)) for r in (first, second, 2 * first - 3 * second)])
    np.testing.assert_allclose(phi[2], 2 * phi[0] - 3 * phi[1], rtol=0, atol=1e-11)
    assert np.linalg.norm(phi[2]) > 1e-3


@pytest.mark.parametrize("weighting", ["mean", "token", "constant"])
@pytest.mark.parametrize("std", [True, False])
def test_weightings_are_their_definitions(weighting: str, std: bool) -> None:
    model = tiny()
    group = Group([1, 2, 3], [[4], [5, 6, 7, 8, 9], [10, 11]], [1.0, 0.0, 0.0], [[1.0], [1, 0, 0.5, 2, 1], [0, 1]])
    a = np.array([2 / 3, -1 / 3, -1 / 3]) / (np.std(group.rewards) + 1e-4 if std else 1.0)
    m = [np.array(w, dtype=float) for w in group.token_weights]
    n = {"mean": [3 * 1.0, 3 * 4.5, 3 * 1.0], "token": [6.5] * 3, "constant": [3.0] * 3}[weighting]
    coefficients = [a_g * m_g / n_g for a_g, m_g, n_g in zip(a, m, n, strict=True)]
    sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED, weighting=weighting, advantage_std=std))
    truth = exact_sketch(model, group, coefficients=coefficients)
    np.testing.assert_allclose(sketcher.sketch([group])[0], truth, rtol=0, atol=1e-7 * np.abs(truth).max())


def test_one_correct_response_is_the_first_of_the_best() -> None:
    group = Group([1, 2], [[3], [4, 5], [6, 7]], [0.0, 1.0, 1.0])
    part = weighted(group, responses_used="one_correct")
    assert [list(y) for y in part.responses] == [[4, 5]]
    np.testing.assert_allclose(part.coefficients[0], advantages(group.rewards)[1] / 3 / 2)


def test_equal_rewards_have_no_gradient_and_take_no_pass() -> None:
    group = random_groups(1)[0]
    same = replace(group, rewards=[1.0] * len(group.responses))
    model = tiny()
    sketcher = Sketcher(model, SketchConfig(dimension=D))
    model.forward = None  # type: ignore[assignment]
    assert not sketcher.sketch([same]).any()


def test_an_empty_response_counts_in_the_group_and_adds_nothing() -> None:
    model = tiny()
    sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED))
    with_empty = sketcher.sketch([Group([1, 2], [[3, 4], []], [1.0, 0.0])])[0]
    # The same advantage for the one real response, whose loss is the same mean over its tokens.
    opposite = sketcher.sketch([Group([1, 2], [[3, 4], [3, 4]], [1.0, 0.0])])[0]
    assert np.linalg.norm(with_empty) > 1e-3
    assert np.abs(opposite).max() < 1e-12, "two equal responses with opposite advantages cancel"


def test_no_groups_give_no_rows() -> None:
    assert Sketcher(tiny(), SketchConfig(dimension=D)).sketch([]).shape == (0, D)


def test_non_finite_weights_show_in_their_rows() -> None:
    model = tiny()
    with torch.no_grad():
        model.get_output_embeddings().weight[3] = float("nan")
    assert not np.isfinite(Sketcher(model, SketchConfig(dimension=D)).sketch(random_groups(1))).all()


class TestTheModelIsGivenBack:
    """What was on the caller's model is there after every call."""

    @pytest.mark.parametrize("kind", ["qwen3-moe", "gemma2"])
    def test_as_it_was(self, kind: str) -> None:
        model = tiny(kind).train()
        model.model.layers[0].eval()
        model.model.layers[1].self_attn.q_proj.weight.requires_grad_(False)
        weight = model.model.norm.weight
        weight.grad = torch.ones_like(weight)
        model.model.layers[0].forward = block = model.model.layers[0].forward
        before = self.state(model)
        sketcher = Sketcher(model, SketchConfig(dimension=D, checkpointing=True))
        assert self.state(model) == before
        sketcher.sketch(random_groups(2))
        assert self.state(model) == before
        assert vars(model.model.layers[0])["forward"] is block
        assert weight.grad is not None
        assert bool((weight.grad == 1).all())

    def test_after_an_error_too(self) -> None:
        model = tiny().train()
        sketcher, before = Sketcher(model, SketchConfig(dimension=D)), self.state(model)
        with pytest.raises(IndexError):
            sketcher.sketch([Group([99_999], [[1], [2, 3]], [0.0, 1.0])])
        assert self.state(model) == before

    @staticmethod
    def state(model: Any) -> dict[str, object]:
        modules = {
            name: (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)))
            for name, m in model.named_modules()
        }
        weights = {name: (p.requires_grad, p.grad is None) for name, p in model.named_parameters()}
        return {"modules": modules, "weights": weights, "experts": model.config._experts_implementation}

    def test_training_mode_between_calls_brings_no_noise(self) -> None:
        model, groups = tiny("gpt2"), random_groups(2)
        sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED))
        before = sketcher.sketch(groups)
        model.train()
        np.testing.assert_array_equal(sketcher.sketch(groups), before)
        assert model.training


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (Group([], [[1]], [1.0]), "at least one token"),
        (Group([1], [], []), "at least one response"),
        (Group([1], [[1], [2]], [1.0]), "one reward a response, found 1 for 2"),
        (Group([1], [[1, 2]], [1.0], [[1.0]]), r"\[2\], found \[1\]"),
        (Group([1], [[1]], [1.0], [[-1.0]]), "at least 0"),
        (Group([1], [[1], [2]], [1.0, float("nan")]), "rewards must be finite"),
    ],
)
def test_malformed_groups_are_refused(group: Group, message: str) -> None:
    with pytest.raises(ArrayError, match=message):
        weighted(group)


def test_a_model_without_a_linear_head_is_refused() -> None:
    model = tiny()
    model.get_output_embeddings = lambda: None  # type: ignore[method-assign]
    with pytest.raises(PolicyError, match="output layer"):
        Sketcher(model)


def test_advantages_are_centered_and_scaled() -> None:
    a = advantages([1.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(a, np.array([1, -1, -1, 1]) * 0.5 / (0.5 + 1e-4))
    assert not advantages([0.3, 0.3]).any()
    np.testing.assert_allclose(advantages([1.0, 0.0, 0.0], std=False), [2 / 3, -1 / 3, -1 / 3])


def test_a_packed_row_holds_the_prompt_once_and_separates_responses() -> None:
    part = weighted(Group([7, 8], [[1, 2, 3], [4, 5]], [1.0, 0.0]))
    batch = pack([part], 2)
    assert batch.input_ids.tolist() == [[7, 8, 1, 2, 4]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2]]
    assert batch.predictors.tolist() == [1, 2, 3, 1, 4]
    assert batch.targets.tolist() == [1, 2, 3, 4, 5]
    sees = batch.attention_mask[0, 0].int().tolist()
    assert sees == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]


@pytest.mark.parametrize("costs", [Costs(), TOGETHER], ids=["alone", "shared"])
def test_batches_hold_every_group_once_within_the_budget(costs: Costs) -> None:
    groups = [weighted(group) for group in random_groups(60, seed=3)]
    for budget in (1, 60, 200, 10_000):
        made = batches(groups, budget, costs)
        assert sorted(i for batch in made for i in batch) == list(range(len(groups)))
        for batch in made:
            some = [groups[i] for i in batch]
            packed = pack(some, costs.together(some)).input_ids.numel()
            assert packed == costs.padded(some)
            assert packed <= budget or len(batch) == 1
        assert made == batches(groups, budget, costs)
    assert len(made) == 1
    assert made == Sketcher(tiny(), SketchConfig(dimension=D)).batches(random_groups(60, seed=3), 10_000)


def test_layer_keys_depend_on_the_name_alone() -> None:
    assert layer_keys(["a", "b"])["b"] == layer_keys(["b"])["b"]
    with pytest.raises(PolicyError, match="CRC-32"):
        layer_keys(["plumless", "buckeroo"])  # a well-known collision


class TestOutOfMemory:
    """A model that has no memory for more than so many tokens."""

    @staticmethod
    def limited(most: int) -> tuple[Sketcher, list[str], list[int]]:
        model, said, seen = tiny(), [], []
        sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED, share_prompts=False), say=said.append)
        run = model.model.forward

        def forward(input_ids: torch.Tensor, **kwargs: object) -> object:
            seen.append(input_ids.numel())
            if input_ids.numel() > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return run(input_ids=input_ids, **kwargs)

        model.model.forward = forward
        return sketcher, said, seen

    def test_the_batch_is_halved_and_nothing_is_lost(self) -> None:
        groups = random_groups(6, seed=5)
        truth = Sketcher(tiny(), SketchConfig(dimension=D, seed=SEED, share_prompts=False)).sketch(groups)
        sketcher, said, seen = self.limited(most=60)
        first = sketcher.sketch(groups)
        np.testing.assert_allclose(first, truth, rtol=0, atol=1e-11)
        assert "out of memory" in said[0]
        assert "halves" in said[0]
        tries, found = len(seen), sketcher.sketch(groups)
        np.testing.assert_array_equal(found, first)
        assert len(seen) == 2 * tries, "no batch is cut by what another one taught"
        assert len(said) == 1

    def test_one_group_is_halved_by_its_responses(self) -> None:
        group = Group([1, 2, 3], [[4, 5], [6], [7, 8, 9], [3]], [1.0, 0.0, 0.0, 1.0])
        truth = Sketcher(tiny(), SketchConfig(dimension=D, seed=SEED, share_prompts=False)).sketch([group])
        sketcher, said, _ = self.limited(most=6)
        np.testing.assert_allclose(sketcher.sketch([group]), truth, rtol=0, atol=1e-11)
        assert len(said) >= 1

    def test_a_response_that_never_fits_is_an_error(self) -> None:
        sketcher, _, _ = self.limited(most=3)
        with pytest.raises(PolicyError, match="single response of 5 tokens"):
            sketcher.sketch([Group([1, 2, 3], [[4, 5, 6], [4, 1, 6]], [1.0, 0.0])])
        assert not sketcher.model.model.layers[0].self_attn.q_proj._forward_hooks


def test_batches_are_those_of_counting_every_batch_anew() -> None:
    random = np.random.default_rng(0)

    def some(low: int, high: int) -> list[int]:
        return [0] * int(random.integers(low, high))

    for _ in range(100):
        groups = [
            Group(some(1, 60), responses, [0.0] * len(responses))
            for responses in ([some(0, 40) for _ in some(0, 9)] for _ in some(1, 30))
        ]
        limit = int(random.choice([10, 100, 1000]))
        share, window = bool(random.random() < 0.8), int(random.choice([0, 50]))
        costs = Costs(share, pair=float(random.choice([0.0, 0.02])), window=window, honored=lambda step: step % 3 > 0)
        paths = [len(g.prompt) + max(map(len, g.responses), default=0) for g in groups]
        expected: list[list[int]] = []
        for i in sorted(range(len(groups)), key=lambda i: (paths[i], i)):
            if expected and costs.padded([groups[j] for j in [*expected[-1], i]]) <= limit:
                expected[-1].append(i)
            else:
                expected.append([i])
        assert batches(groups, limit, costs) == expected
