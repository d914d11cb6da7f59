"""The sketch of a group equals the fold of its exact float64 policy gradient, however groups are batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learnalign.kernels.fold import fold_matrices
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from learnalign.errors import PolicyError
from learnalign.gradient import Group, Sketcher, advantages, batches, layer_keys

D, SEED = 1024, 5
VOCABULARY = 37


def tiny(kind: str = "llama") -> nn.Module:
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "initializer_range": 0.2}
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=2, n_head=4, **common)
        return GPT2LMHeadModel(config).double().eval()
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, **shape, **common)).double().eval()
    tied = kind == "llama-tied"
    config = LlamaConfig(num_key_value_heads=2, tie_word_embeddings=tied, **shape, **common)
    return LlamaForCausalLM(config).double().eval()


def random_groups(count: int, seed: int = 0) -> list[Group]:
    rng = np.random.default_rng(seed)

    def tokens(length: int) -> list[int]:
        return rng.integers(0, VOCABULARY, length).tolist()

    groups = []
    for _ in range(count):
        size = int(rng.integers(2, 5))
        rewards = rng.permutation([1.0, 0.0, *rng.integers(0, 2, size - 2)]).tolist()
        responses = [tokens(int(rng.integers(1, 7))) for _ in range(size)]
        groups.append(Group(tokens(int(rng.integers(1, 9))), responses, rewards))
    return groups


def exact_sketch(model: nn.Module, group: Group, temperature: float = 1.0) -> np.ndarray:
    """Autograd's own full weight gradients of the definition, response by response, without padding; then folded."""
    sketcher = Sketcher(model, dimension=D, seed=SEED)
    layers, keys = sketcher.layers, sketcher.keys
    total = {name: torch.zeros_like(module.weight) for name, module in layers.items()}
    inputs_of_tied = model.get_input_embeddings()
    rewards = np.array(group.rewards)
    scale = (rewards - rewards.mean()) / (rewards.std() + 1e-4) / len(rewards)
    for response, a in zip(group.responses, scale, strict=True):
        # A copy of the embedding keeps the tied head's gradient apart from the table's.
        ids = torch.tensor([[*group.prompt, *response]])
        embedded = inputs_of_tied(ids).detach()
        for module in layers.values():
            module.weight.requires_grad_(True)
        logits = model(inputs_embeds=embedded).logits[0] / temperature
        log_probabilities = logits.log_softmax(-1)
        first = len(group.prompt)
        picked = [log_probabilities[first + t - 1, token] for t, token in enumerate(response)]
        (a * torch.stack(picked).mean()).backward()
        for name, module in layers.items():
            total[name] += module.weight.grad
            module.weight.grad = None
            module.weight.requires_grad_(False)
    phi = torch.zeros(1, D, dtype=torch.float64)
    for name, gradient in total.items():
        matrix = gradient.T if type(layers[name]).__name__ == "Conv1D" else gradient
        fold_matrices(phi, matrix[None].contiguous(), layer=keys[name], seed=SEED)
    return phi[0].numpy()


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2", "qwen2"])
def test_sketch_is_the_fold_of_the_exact_gradient(kind: str) -> None:
    model = tiny(kind)
    groups = random_groups(4)
    phi = Sketcher(model, dimension=D, seed=SEED).sketch(groups)
    assert phi.dtype == np.float64
    for row, group in zip(phi, groups, strict=True):
        truth = exact_sketch(model, group)
        assert np.linalg.norm(truth) > 1e-3
        np.testing.assert_allclose(row, truth, rtol=0, atol=1e-12 * max(1.0, np.abs(truth).max()))


def test_temperature_divides_the_logits() -> None:
    model, group = tiny(), random_groups(1)[0]
    phi = Sketcher(model, dimension=D, seed=SEED, temperature=0.7).sketch([group])[0]
    np.testing.assert_allclose(phi, exact_sketch(model, group, temperature=0.7), rtol=0, atol=1e-11)


def test_batch_composition_and_order_do_not_matter() -> None:
    model, groups = tiny(), random_groups(5, seed=1)
    sketcher = Sketcher(model, dimension=D, seed=SEED)
    together = sketcher.sketch(groups)
    alone = np.concatenate([sketcher.sketch([group]) for group in groups])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)
    np.testing.assert_allclose(sketcher.sketch(groups[::-1])[::-1], alone, rtol=0, atol=1e-12)


def test_float32_is_near_float64() -> None:
    groups = random_groups(4, seed=2)
    exact = Sketcher(tiny(), dimension=D, seed=SEED).sketch(groups)
    single = Sketcher(tiny().float(), dimension=D, seed=SEED).sketch(groups)
    assert single.dtype == np.float32
    assert np.linalg.norm(single - exact) / np.linalg.norm(exact) < 1e-5


def test_equal_rewards_have_no_gradient() -> None:
    group = random_groups(1)[0]
    same = Group(group.prompt, group.responses, [1.0] * len(group.responses))
    assert not Sketcher(tiny(), dimension=D).sketch([same]).any()


def test_an_empty_response_counts_in_the_group_and_adds_nothing() -> None:
    model = tiny()
    sketcher = Sketcher(model, dimension=D, seed=SEED)
    with_empty = sketcher.sketch([Group([1, 2], [[3, 4], []], [1.0, 0.0])])[0]
    # The same advantage for the one real response, whose loss is the same mean over its tokens.
    twin = sketcher.sketch([Group([1, 2], [[3, 4], [3, 4]], [1.0, 0.0])])[0]
    assert np.linalg.norm(with_empty) > 1e-3
    assert np.abs(twin).max() < 1e-12, "two equal responses with opposite advantages cancel"


def test_no_groups_give_no_rows() -> None:
    assert Sketcher(tiny(), dimension=D).sketch([]).shape == (0, D)


def test_non_finite_weights_show_in_their_rows() -> None:
    model = tiny()
    with torch.no_grad():
        model.get_output_embeddings().weight[3] = float("nan")
    assert not np.isfinite(Sketcher(model, dimension=D).sketch(random_groups(1))).all()


def test_weights_stay_frozen_and_clean() -> None:
    model = tiny()
    sketcher = Sketcher(model, dimension=D)
    sketcher.sketch(random_groups(2))
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_coverage_counts_every_weight_once() -> None:
    for kind in ("llama", "llama-tied", "gpt2"):
        model = tiny(kind)
        coverage = Sketcher(model, dimension=D).coverage
        missing = sum(p.numel() for name, p in model.named_parameters() if name in coverage.missing)
        assert coverage.covered + missing == coverage.total == sum(p.numel() for p in model.parameters())
        assert ("the input side of the tied embedding" in coverage.missing) == (kind != "llama")


def test_advantages_are_centered_and_scaled() -> None:
    a = advantages([1.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(a, np.array([1, -1, -1, 1]) * 0.5 / (0.5 + 1e-4))
    assert not advantages([0.3, 0.3]).any()


def test_batches_hold_every_group_once_within_the_budget() -> None:
    groups = random_groups(60, seed=3)
    for budget in (1, 60, 200, 10_000):
        made = batches(groups, budget)
        assert sorted(i for batch in made for i in batch) == list(range(len(groups)))
        for batch in made:
            longest = max(len(groups[i].prompt) + max(map(len, groups[i].responses)) for i in batch)
            padded = longest * max(len(groups[i].responses) for i in batch) * len(batch)
            assert padded <= budget or len(batch) == 1
        assert made == batches(groups, budget)


def test_layer_keys_depend_on_the_name_alone() -> None:
    assert layer_keys(["a", "b"])["b"] == layer_keys(["b"])["b"]
    with pytest.raises(PolicyError, match="CRC-32"):
        layer_keys(["plumless", "buckeroo"])  # a well-known collision


def test_a_model_without_a_linear_head_is_refused() -> None:
    model = tiny()
    model.get_output_embeddings = lambda: None  # type: ignore[method-assign]
    with pytest.raises(PolicyError, match="output layer"):
        Sketcher(model)
