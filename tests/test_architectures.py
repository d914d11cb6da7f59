"""The sketch equals the fold of the exact float64 gradient for every architecture, prompts shared or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gradient_oracle import ARCHITECTURES, SEED, AllDouble, D, exact_sketch, random_groups, tiny
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from learnalign.config import SketchConfig
from learnalign.errors import PolicyError
from learnalign.gradient import Costs, Group, Sketcher
from learnalign.gradient.experts import by_expert, run

ALWAYS = {"token": 1.0, "pair": 0.0}
"""Costs under which sharing a prompt is always worth it."""


@pytest.fixture
def _double() -> Iterator[None]:
    """Not for checkpointing: its backward pass leaves the mode."""
    with AllDouble():
        yield


def sketcher_of(model: nn.Module, **options: Any) -> Sketcher:
    """A sketcher that shares the prompt of every group that it can."""
    sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED, **options))
    sketcher.costs = replace(sketcher.costs, **ALWAYS)
    return sketcher


def assert_exact(sketcher: Sketcher, model: Any, groups: list[Group], adapters: bool = False) -> None:
    """The sketches are the folds of autograd's gradients."""
    for row, group in zip(sketcher.sketch(groups), groups, strict=True):
        truth = exact_sketch(model, group, adapters=adapters)
        assert np.linalg.norm(truth) > 1e-3
        np.testing.assert_allclose(row, truth, rtol=0, atol=1e-11 * max(1.0, np.abs(truth).max()))


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_sketch_is_the_fold_of_the_exact_gradient(kind: str, share: bool) -> None:
    model, groups = tiny(kind), random_groups(2)
    sketcher = sketcher_of(model, share_prompts=share)
    assert bool(sketcher.unshared) != share
    assert (sketcher.costs.together(groups) > 1) == share
    phi = sketcher.sketch(groups)
    assert phi.dtype == np.float64
    assert_exact(sketcher, model, groups)


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_coverage_counts_every_weight_once(kind: str) -> None:
    model = tiny(kind)
    coverage = Sketcher(model, SketchConfig(dimension=D)).coverage
    missing = sum(p.numel() for name, p in model.named_parameters() if name in coverage.missing)
    assert coverage.covered + missing == coverage.total == sum(p.numel() for p in model.parameters())
    tied = model.config.tie_word_embeddings
    assert ("the input side of the tied embedding" in coverage.missing) == tied
    assert not [name for name in coverage.missing if "proj" in name and not name.endswith("bias")]


class TestExperts:
    """Experts are what the probe finds them to be, whatever they look like."""

    @staticmethod
    def scaled(model: Any) -> None:
        experts = model.model.layers[0].mlp.experts
        known = type(experts).forward

        class ScaledExperts(type(experts)):  # type: ignore[misc]
            def forward(self, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
                return 1.3 * known(self, hidden_states, top_k_index, top_k_weights)

        ScaledExperts.forward.__wrapped__ = known  # type: ignore[attr-defined]
        experts.__class__ = ScaledExperts

    @pytest.mark.usefixtures("_double")
    def test_a_layout_that_only_looks_known_is_seen_by_its_products(self) -> None:
        model, groups = tiny("mixtral"), random_groups(2)
        self.scaled(model)
        sketcher = sketcher_of(model)
        assert sketcher.alone
        assert_exact(sketcher, model, groups)

    @pytest.mark.usefixtures("_double")
    def test_a_forward_that_somebody_put_on_the_instance_is_run_and_stays(self) -> None:
        model, groups = tiny("mixtral"), random_groups(2)
        experts = model.model.layers[0].mlp.experts
        known = experts.forward
        experts.forward = patched = lambda *args: 1.3 * known(*args)
        sketcher = sketcher_of(model)
        assert_exact(sketcher, model, groups)
        assert vars(experts)["forward"] is patched


class TestChoices:
    """Tokens sorted by expert once a layer."""

    OFFSETS = (0, 3, 3, 11)

    @staticmethod
    def chosen() -> torch.Tensor:
        """Of 11 tokens; none for expert 2, some for no expert, one token twice for the same."""
        generator = torch.Generator().manual_seed(2)
        choices = torch.randint(0, 5, (11, 3), generator=generator)
        choices[choices == 2] = 5
        choices[4], choices[6, 1] = 1, -1
        return choices

    def test_every_expert_gets_what_a_search_for_it_finds(self) -> None:
        chosen = self.chosen()
        tokens, slots, bounds = by_expert(chosen, 5, list(self.OFFSETS))
        for e, own in enumerate(bounds):
            right_tokens, right_slots = torch.where(chosen == e)
            assert torch.equal(tokens[own[0] : own[-1]], right_tokens)
            assert torch.equal(slots[own[0] : own[-1]], right_slots)
            right = torch.searchsorted(right_tokens, torch.tensor(self.OFFSETS))
            assert [bound - own[0] for bound in own] == right.tolist()

    def test_the_device_is_waited_for_once_whatever_the_number_of_experts(self) -> None:
        class Waits(TorchDispatchMode):
            """Counts what needs a tensor's values to go on."""

            count = 0

            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                self.count += func.overloadpacket in (torch.ops.aten.nonzero, torch.ops.aten._local_scalar_dense)
                return func(*args, **(kwargs or {}))

        experts = tiny("mixtral").model.layers[0].mlp.experts
        names = ("gate_up_proj", "down_proj")
        hidden, weights = torch.randn(11, 32, dtype=torch.float64), torch.rand(11, 3, dtype=torch.float64)
        with Waits() as waits:
            run(experts, names, hidden, self.chosen() % 4, weights, list(self.OFFSETS), lambda *given: given[3])
            assert waits.count == 0  # the list of bounds is the one time, and does not show here
            torch.where(self.chosen() == 1)
        assert waits.count == 1, "the test has teeth"


def test_a_layer_that_is_never_called_is_named() -> None:
    model = tiny()
    model.spare = nn.Linear(3, 3).double()
    assert "spare.weight" in Sketcher(model, SketchConfig(dimension=D)).coverage.missing


@pytest.mark.usefixtures("_double")
def test_a_window_shorter_than_the_sequence_is_not_shared() -> None:
    """Beyond a sliding window the tree mask would be wrong; the rows are then computed one by one, and right."""
    for kind in ("mistral", "gemma2", "gemma3"):
        model = tiny(kind, sliding_window=6)
        group = Group([1, 2, 3, 4], [[5, 6, 7, 8, 9], [3, 2]], [1.0, 0.0])
        sketcher = sketcher_of(model)
        assert sketcher.costs.window == 6
        assert not sketcher.unshared
        assert sketcher.costs.together([group]) == 1
        truth = exact_sketch(model, group)
        np.testing.assert_allclose(sketcher.sketch([group])[0], truth, rtol=0, atol=1e-11 * np.abs(truth).max())
        sketcher.costs = replace(sketcher.costs, window=0)
        assert sketcher.costs.together([group]) == 1, "a window that no name tells of is found at this length"
        sketcher.costs = replace(sketcher.costs, window=0, honored=None)
        assert np.abs(sketcher.sketch([group])[0] - truth).max() > 1e-6 * np.abs(truth).max(), "the test has teeth"


@pytest.mark.usefixtures("_double")
def test_a_model_that_ignores_the_tree_mask_is_found_out() -> None:
    model = tiny()
    run = model.model.forward

    def ignoring(attention_mask: Any = None, **kwargs: Any) -> Any:
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = None
        return run(attention_mask=attention_mask, **kwargs)

    model.model.forward = ignoring
    sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED))
    assert "does not honor a 4-D attention mask" in sketcher.unshared
    group = random_groups(1)[0]
    np.testing.assert_allclose(sketcher.sketch([group])[0], exact_sketch(model, group), rtol=0, atol=1e-11)


def test_attention_without_masks_is_not_tried() -> None:
    model = tiny()
    model.config._attn_implementation_internal = "flash_attention_2"
    from learnalign.gradient.checks import static_obstacle

    assert "flash_attention_2" in static_obstacle(model)


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2", "gemma2", "mixtral"])
def test_checkpointing_folds_everything_once(kind: str) -> None:
    model, groups = tiny(kind), random_groups(3, seed=1)
    plain = sketcher_of(model).sketch(groups)
    again = sketcher_of(model, checkpointing=True).sketch(groups)
    np.testing.assert_allclose(again, plain, rtol=0, atol=1e-12 * np.abs(plain).max())
    assert not any("forward" in vars(module) for module in model.modules())


def test_checkpointing_keeps_fewer_activations() -> None:
    saved: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    amounts = []
    for checkpointing in (False, True):
        sketcher = sketcher_of(tiny(), checkpointing=checkpointing)
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            sketcher.sketch(random_groups(2))
        amounts.append(sum(saved))
    assert amounts[1] < amounts[0] / 2


class TestAdapters:
    """LoRA policies: the gradient of the adapters, or of the base weights where the adapters have moved them."""

    @staticmethod
    def wrapped(kind: str, zero: bool = False) -> Any:
        peft = pytest.importorskip("peft", reason="needs peft (in the dev extra)")
        targets = ["c_attn"] if kind == "gpt2" else ["q_proj", "down_proj", "lm_head"]
        config = peft.LoraConfig(r=3, target_modules=targets, fan_in_fan_out=kind == "gpt2")
        model = peft.get_peft_model(tiny(kind), config).double().eval()
        generator = torch.Generator().manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_B" in name and not zero:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        return model

    @pytest.mark.usefixtures("_double")
    @pytest.mark.parametrize("space", ["full", "lora"])
    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    def test_sketch_is_exact(self, kind: str, space: str) -> None:
        model, groups = self.wrapped(kind), random_groups(2)
        sketcher = sketcher_of(model, space=space)
        assert not sketcher.unshared
        assert_exact(sketcher, model, groups, adapters=space == "lora")

    @pytest.mark.usefixtures("_double")
    def test_fresh_adapters_do_not_change_the_full_gradient(self) -> None:
        groups = random_groups(2)
        plain = sketcher_of(tiny()).sketch(groups)
        fresh = sketcher_of(self.wrapped("llama", zero=True)).sketch(groups)
        np.testing.assert_allclose(fresh, plain, rtol=0, atol=1e-12 * np.abs(plain).max())

    def test_coverage_counts_the_space_only(self) -> None:
        model = self.wrapped("llama")
        coverage = Sketcher(model, SketchConfig(dimension=D, space="lora")).coverage
        adapters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
        assert (coverage.covered, coverage.total, coverage.missing) == (adapters, adapters, ())
        full = Sketcher(model, SketchConfig(dimension=D)).coverage
        assert replace(full, shares={}) == replace(Sketcher(tiny(), SketchConfig(dimension=D)).coverage, shares={})


def test_lora_without_adapters_is_refused() -> None:
    with pytest.raises(PolicyError, match="no LoRA adapters"):
        Sketcher(tiny(), SketchConfig(space="lora"))


def test_sharing_is_chosen_by_cost() -> None:
    group = Group(list(range(10)), [[1] * 10] * 8, [0.0, 1.0] * 4)
    assert Costs().together([group]) == 1
    assert Costs(True, 1.0, 0.0).together([group]) == 8
    assert Costs(True, 1.0, 10.0).together([group]) == 1
    between = Costs(True, 1.0, 0.02).together([group])
    assert 1 < between < 8
