"""The model in front of us is measured: what is odd about it is found out, and made right, named, or refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gradient_oracle import SEED, VOCABULARY, AllDouble, D, exact_sketch, random_groups, tiny
from torch import nn
from torch.nn.utils import parametrize
from transformers import JambaConfig, JambaForCausalLM

from bench import architectures, families
from learnalign.config import SketchConfig
from learnalign.errors import PolicyError
from learnalign.gradient import Group, Sketcher
from learnalign.gradient.checks import broken_tree, mixes_rows, sample
from learnalign.gradient.probe import number_of
from learnalign.gradient.sketcher import headroom

CONFIG = SketchConfig(dimension=D, seed=SEED)
FAMILIES = {
    "falcon": "writes to its query's output in place",
    "llama4_text": "a router that returns a tuple, experts in one product",
    "phimoe": "a router that returns a tuple",
    "gpt_oss": "experts transposed, with biases",
    "dbrx": "experts that are slices of one matrix, clamped in place",
    "jetmoe": "experts whose tokens are sorted",
    "deepseek_v3": "a router in float32",
    "qwen3_next": "linear attention in three layers of four",
    "gpt_neo": "a window by another name",
    "gemma4_text": "settings that differ by layer",
    "ctrl": "writes to the embedding in place",
    "xlnet": "not causal",
    "paligemma": "causal only where rows are padded",
}
"""A family of every kind that was once wrong, or crashed."""
REFUSED = ("xlnet", "paligemma")


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_every_kind_are_exact_or_refused(family: str) -> None:
    verdict = architectures.verdict_of(family, quick=True)
    expected = "refused" if family in REFUSED else "exact"
    assert verdict["verdict"] == expected, verdict
    if family in REFUSED:
        assert all("not causal" in why for why in verdict["refused"].values())


@pytest.fixture
def _double() -> Iterator[None]:
    with AllDouble():
        yield


class Signs(nn.Linear):
    """A layer that computes something else than its class says, as layers of one-bit weights do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.tanh(), self.bias)


def replaced(model: Any, kind: type[nn.Linear]) -> Any:
    model.model.layers[0].mlp.up_proj.__class__ = kind
    return model


class TestOddLayers:
    """The gradient of a weight that no hook sees right is left to autograd, or the weight is named."""

    @pytest.mark.usefixtures("_double")
    def test_a_linear_layer_that_computes_something_else(self) -> None:
        model, groups = replaced(tiny(), Signs), random_groups(2)
        self.exact(model, groups, autograd=["model.layers.0.mlp.up_proj"])

    @pytest.mark.usefixtures("_double")
    def test_a_weight_that_is_used_directly_as_well(self) -> None:
        model, groups = tiny(), random_groups(2)
        layer = model.model.layers[0].mlp
        run = layer.forward
        layer.forward = lambda x: run(x) + 0.1 * layer.act_fn(x @ layer.up_proj.weight.T).mean(-1, keepdim=True)
        self.exact(model, groups, autograd=["model.layers.0.mlp.up_proj"])

    @pytest.mark.usefixtures("_double")
    def test_a_layer_without_weight_in_the_gradient_is_named(self) -> None:
        model = replaced(tiny(), Signs)
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight.mul_(1e-3)
        sketcher = Sketcher(model, CONFIG)
        name = "model.layers.0.mlp.up_proj.weight"
        assert not sketcher.alone
        assert name in sketcher.coverage.missing
        assert 0 < sketcher.coverage.shares[name] < 0.01

    def test_a_parametrized_weight_is_found_out(self) -> None:
        class Doubled(nn.Module):
            def forward(self, weight: torch.Tensor) -> torch.Tensor:
                return 2 * weight

        model = tiny()
        parametrize.register_parametrization(model.model.layers[0].mlp.up_proj, "weight", Doubled())
        groups = random_groups(2)
        sketcher = Sketcher(model, CONFIG)
        (name,) = (layer.name for layer in sketcher.hooks.layers if layer.kind == "autograd")
        assert name.endswith("up_proj.parametrizations.weight.original")
        plain = tiny()
        with torch.no_grad():
            plain.model.layers[0].mlp.up_proj.weight.mul_(2)
        same = [layer for layer in sketcher.hooks.layers if layer.name != name]
        sketcher.hooks = replace(sketcher.hooks, layers=same)
        other = Sketcher(plain, CONFIG)
        kept = [layer for layer in other.hooks.layers if not layer.name.endswith("0.mlp.up_proj")]
        other.hooks = replace(other.hooks, layers=kept)
        np.testing.assert_allclose(sketcher.sketch(groups), other.sketch(groups), rtol=0, atol=1e-6)

    @staticmethod
    def exact(model: Any, groups: list[Group], autograd: list[str]) -> None:
        sketcher = Sketcher(model, CONFIG)
        assert [layer.name for layer in sketcher.hooks.layers if layer.kind == "autograd"] == autograd
        assert sketcher.alone
        for row, group in zip(sketcher.sketch(groups), groups, strict=True):
            truth = exact_sketch(model, group)
            np.testing.assert_allclose(row, truth, rtol=0, atol=1e-11 * np.abs(truth).max())


class TestConditions:
    """Causality, rows that do not mix, branches that do not see each other."""

    def test_a_model_that_looks_ahead_is_refused(self) -> None:
        model = tiny()
        for layer in model.model.layers:
            layer.self_attn.is_causal = False
        run = model.model.forward

        def ahead(attention_mask: Any = None, **kwargs: Any) -> Any:
            count = kwargs["input_ids"].shape
            return run(attention_mask=torch.zeros(count[0], 1, count[1], count[1], dtype=torch.float64), **kwargs)

        model.model.forward = ahead
        with pytest.raises(PolicyError, match="not causal"):
            Sketcher(model, CONFIG)

    def test_rows_that_mix_are_refused(self) -> None:
        model = tiny()
        run = model.model.norm.forward
        model.model.norm.forward = lambda x: run(x) + x.mean(0, keepdim=True).cumsum(1)
        assert mixes_rows(model, [sample(model), sample(model, 4, 2, 5)])
        with pytest.raises(PolicyError, match="beside shorter ones"):
            Sketcher(model, CONFIG)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_hybrid_with_small_weights_does_not_share(self, dtype: torch.dtype) -> None:
        """One recurrent layer in four whose branches leak by less than half precision's rounding."""
        torch.manual_seed(0)
        config = JambaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            num_experts=1,
            mamba_dt_rank=4,
        )
        model = JambaForCausalLM(config).to(dtype).eval()
        assert Sketcher(model, CONFIG).unshared

    def test_whatever_fails_in_the_probe_is_a_reason(self) -> None:
        model = tiny()
        run = model.model.forward

        def picky(attention_mask: Any = None, **kwargs: Any) -> Any:
            if attention_mask is not None and attention_mask.ndim == 4:
                raise KeyError("no such mask")
            return run(attention_mask=attention_mask, **kwargs)

        model.model.forward = picky
        assert "KeyError" in broken_tree(model)
        assert "KeyError" in Sketcher(model, CONFIG).unshared

    def test_the_reference_is_probed_too(self) -> None:
        policy, reference = tiny(), tiny("mistral", sliding_window=64)
        run = reference.model.forward

        def ignoring(attention_mask: Any = None, **kwargs: Any) -> Any:
            mask = None if attention_mask is not None and attention_mask.ndim == 4 else attention_mask
            return run(attention_mask=mask, **kwargs)

        reference.model.forward = ignoring
        sketcher = Sketcher(policy, replace(CONFIG, kl_beta=0.1), reference=reference)
        assert sketcher.unshared.startswith("the reference: ")
        assert not Sketcher(policy, CONFIG).unshared

    @pytest.mark.usefixtures("_double")
    def test_stretched_positions_do_not_reach_shorter_rows(self) -> None:
        """longrope takes other frequencies as soon as any row of a batch is longer than the original context."""
        rope = {
            "rope_type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [3.0] * 4,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 8,
        }
        settings = {"rope_parameters": rope, "original_max_position_embeddings": 8, "max_position_embeddings": 64}
        model = tiny("phi3", **settings)
        groups = [Group([1, 2], [[3, 4], [5] * 12], [1.0, 0.0]), Group([4, 5], [[6, 7], [8]], [0.0, 1.0])]
        sketcher = Sketcher(model, CONFIG)
        assert sketcher.costs.boundary == 8
        for row, group in zip(sketcher.sketch(groups), groups, strict=True):
            truth = exact_sketch(model, group)
            np.testing.assert_allclose(row, truth, rtol=0, atol=1e-11 * np.abs(truth).max())

    def test_positions_that_depend_on_earlier_rows_are_refused(self) -> None:
        rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
        model = tiny("llama", rope_parameters=rope, max_position_embeddings=16)
        sketcher = Sketcher(model, CONFIG)
        assert sketcher.sketch([Group([1, 2], [[3] * 14, [4]], [1.0, 0.0])]).any()
        with pytest.raises(PolicyError, match="17 tokens is longer than the 16 positions"):
            sketcher.sketch([Group([1, 2], [[3] * 15, [4]], [1.0, 0.0])])

    def test_an_estimate_of_costs_never_raises(self) -> None:
        class PerLayer:
            heads = (8, 16)

            @property
            def head_dim(self) -> int:
                raise RuntimeError("has another value in every layer")

        assert number_of(PerLayer(), "heads", 1) == 16
        assert number_of(PerLayer(), "head_dim", 3) == 3
        assert number_of(PerLayer(), "absent", 3) == 3


class TestPrecision:
    """Half precision and casts."""

    def test_a_router_that_casts_its_weight_is_covered_in_bfloat16(self) -> None:
        names = [
            {layer.name for layer in Sketcher(families.build("deepseek_v3", dtype), CONFIG).hooks.layers}
            for dtype in (torch.float64, torch.bfloat16)
        ]
        assert names[0] == names[1]
        assert any(name.endswith("mlp.gate") for name in names[1])

    @pytest.mark.parametrize("biased", [False, True])
    def test_small_gradients_survive_float16(self, biased: bool) -> None:
        model = tiny()
        if biased:
            model.lm_head.bias = nn.Parameter(torch.zeros(VOCABULARY, dtype=torch.float64))
        group = Group([1, 2, 3], [[4, 5], [6] * 9], [1e-4, 0.0])
        config = replace(CONFIG, advantage_std=False)
        half = Sketcher(copy.deepcopy(model).half(), config).sketch([group])[0]
        exact = Sketcher(copy.deepcopy(model).half().double(), config).sketch([group])[0]
        assert np.linalg.norm(half - exact) < 0.02 * np.linalg.norm(exact)

    def test_headroom_is_a_power_of_two_for_float16_only(self) -> None:
        gradient = torch.tensor([3e-5, -1e-6])
        assert headroom(gradient, torch.bfloat16) == 1.0
        assert headroom(gradient, torch.float16) == 2.0**15
        assert headroom(torch.zeros(3), torch.float16) == 1.0

    def test_the_callers_autocast_is_not_ours(self) -> None:
        model, groups = tiny().float(), random_groups(2)
        sketcher = Sketcher(model, CONFIG)
        with torch.autocast("cpu", torch.bfloat16):
            np.testing.assert_array_equal(sketcher.sketch(groups), Sketcher(model, CONFIG).sketch(groups))


class TestWrappers:
    """What people put around a model changes neither names nor gradients, or is refused."""

    @contextmanager
    def same_as_plain(self, groups: list[Group]) -> Iterator[list[Any]]:
        wrapped: list[Any] = []
        yield wrapped
        plain, other = Sketcher(tiny(), CONFIG), Sketcher(wrapped[0], CONFIG)
        assert other.hooks.keys == plain.hooks.keys
        np.testing.assert_allclose(other.sketch(groups), plain.sketch(groups), rtol=0, atol=1e-12)

    def test_compiled(self) -> None:
        with self.same_as_plain(random_groups(2)) as wrapped:
            wrapped.append(torch.compile(tiny()))
        with self.same_as_plain(random_groups(2)) as wrapped:
            model = tiny()
            for layer in model.model.layers:
                layer.compile()
            wrapped.append(model)

    def test_data_parallel(self) -> None:
        with self.same_as_plain(random_groups(2)) as wrapped:
            wrapped.append(nn.DataParallel(tiny()))

    def test_a_saved_copy_of_the_head(self) -> None:
        peft = pytest.importorskip("peft", reason="needs peft (in the dev extra)")
        config = peft.LoraConfig(r=3, target_modules=["q_proj"], modules_to_save=["lm_head"])
        with self.same_as_plain(random_groups(2)) as wrapped:
            wrapped.append(peft.get_peft_model(tiny(), config).double())

    def test_prefix_tuning_keeps_the_names(self) -> None:
        peft = pytest.importorskip("peft", reason="needs peft (in the dev extra)")
        config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        sketcher = Sketcher(peft.get_peft_model(tiny(), config).double(), CONFIG)
        assert "tree attention mask fails" in sketcher.unshared
        assert {layer.name for layer in sketcher.hooks.layers} == {
            layer.name for layer in Sketcher(tiny(), CONFIG).hooks.layers
        }

    def test_offloaded_weights_are_refused(self) -> None:
        model = tiny()
        model.model.layers[0].mlp.up_proj.to("meta")
        with pytest.raises(PolicyError, match=r"layers.0.mlp.up_proj.weight is offloaded"):
            Sketcher(model, CONFIG)

    @pytest.mark.parametrize("how", ["merged", "disabled"])
    def test_adapters_that_do_nothing_have_no_gradient_to_sketch(self, how: str) -> None:
        peft = pytest.importorskip("peft", reason="needs peft (in the dev extra)")
        model = peft.get_peft_model(tiny(), peft.LoraConfig(r=3, target_modules=["q_proj"])).double()
        model.merge_adapter() if how == "merged" else model.base_model.disable_adapter_layers()
        with pytest.raises(PolicyError, match=how):
            Sketcher(model, replace(CONFIG, space="lora"))

    @pytest.mark.usefixtures("_double")
    def test_adapters_of_experts_are_covered_one_by_one(self) -> None:
        peft = pytest.importorskip("peft", reason="needs peft (in the dev extra)")
        names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], target_parameters=names)
        model = peft.get_peft_model(tiny("mixtral"), config).double()
        generator = torch.Generator().manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        sketcher = architectures.sketcher_of(model, space="lora")
        assert sketcher.coverage.covered == sketcher.coverage.total
        assert len({layer.name for layer in sketcher.hooks.layers}) == len(sketcher.hooks.layers)
        group = random_groups(1)[0]
        found = torch.from_numpy(sketcher.sketch([group])[0])
        torch.testing.assert_close(found, architectures.truths_of(sketcher, [group])[0], rtol=0, atol=1e-11)
        full = architectures.sketcher_of(model)
        found = torch.from_numpy(full.sketch([group])[0])
        torch.testing.assert_close(found, architectures.truths_of(full, [group])[0], rtol=0, atol=1e-11)
