"""What people put around a model, or do to its weights: neither names nor gradients change, or one line refuses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from gradient_oracle import SEED, AllDouble, D, random_groups, tiny
from torch import nn

from bench import architectures
from learnalign.config import SketchConfig
from learnalign.errors import PolicyError
from learnalign.gradient import Group, Sketcher

CONFIG = SketchConfig(dimension=D, seed=SEED)


def error_of(sketcher: Sketcher) -> float:
    """The largest relative error of a group's sketch."""
    groups = random_groups(2)
    found = torch.from_numpy(sketcher.sketch(groups))
    truth = architectures.truths_of(sketcher, groups)
    return float(((found - truth).norm(dim=1) / truth.norm(dim=1)).max())


@pytest.fixture
def _double() -> Iterator[None]:
    with AllDouble():
        yield


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

    @pytest.mark.usefixtures("_double")
    @pytest.mark.parametrize("space", ["full", "lora"])
    @pytest.mark.parametrize("kind", ["dora", "adalora"])
    def test_adapters_of_other_kinds_are_exact(self, kind: str, space: str) -> None:
        """DoRA scales its layer's output, and uses the base weight in its own way; AdaLoRA writes to it in place."""
        peft = pytest.importorskip("peft", reason="needs peft (in the dev extra)")
        targets = ["q_proj", "down_proj"]
        config = peft.LoraConfig(r=3, target_modules=targets, use_dora=True)
        if kind == "adalora":
            config = peft.AdaLoraConfig(init_r=3, target_r=2, target_modules=targets, total_step=10)
        model = peft.get_peft_model(tiny(), config).double()
        generator = torch.Generator().manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        sketcher = architectures.sketcher_of(model, space=space)
        assert error_of(sketcher) < architectures.ROUNDING
        named = {name.removesuffix(".weight") for name in sketcher.coverage.missing}
        assert not {f"model.layers.{i}.self_attn.{p}_proj" for i in (0, 1) for p in "qkvo"} & named

    def test_the_hooks_of_accelerate_stay(self) -> None:
        hooks = pytest.importorskip("accelerate.hooks", reason="needs accelerate (in the dev extra)")
        groups, model = random_groups(2), tiny("mixtral")
        plain = Sketcher(model, replace(CONFIG, checkpointing=True)).sketch(groups)
        there = [model.model.layers[0], model.model.layers[0].mlp.experts, model.model.layers[1].self_attn.q_proj]
        for module in there:
            hooks.add_hook_to_module(module, hooks.AlignDevicesHook(execution_device="cpu"))
        before = [vars(module)["forward"] for module in there]
        found = Sketcher(model, replace(CONFIG, checkpointing=True)).sketch(groups)
        np.testing.assert_allclose(found, plain, rtol=0, atol=1e-12)
        assert [vars(module)["forward"] for module in there] == before
        assert all(hasattr(module, "_hf_hook") for module in there)

    def test_sharded_weights_are_refused(self) -> None:
        from torch.distributed.fsdp import fully_shard

        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
            model = fully_shard(tiny(), mesh=mesh)
            with pytest.raises(PolicyError, match=r"embed_tokens.weight is sharded over processes"):
                Sketcher(model, CONFIG)
        finally:
            torch.distributed.destroy_process_group()

    def test_weights_that_another_process_holds_are_refused(self) -> None:
        """As DeepSpeed's third stage leaves them between passes."""
        model = tiny()
        weight = model.model.layers[0].mlp.up_proj.weight
        weight.data, weight.ds_id = weight.data.new_empty(0), 7
        with pytest.raises(PolicyError, match=r"up_proj.weight is sharded"):
            Sketcher(model, CONFIG)

    def test_a_part_in_fully_sharded_data_parallel_is_refused(self) -> None:
        """The wrapper itself needs a GPU: only its class is here."""
        from torch.distributed.fsdp import FullyShardedDataParallel

        class Part(nn.Module):
            pass

        model = tiny()
        model.part = Part()
        Part.__name__ = FullyShardedDataParallel.__name__
        with pytest.raises(PolicyError, match="module part is sharded"):
            Sketcher(model, CONFIG)

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


class Packed(nn.Module):
    """A linear layer in int8 whose weight is no parameter."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.scale = float(layer.weight.abs().max()) / 127
        self.register_buffer("packed", (layer.weight / self.scale).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        packed: Any = self.packed
        return nn.functional.linear(x, packed.to(x.dtype) * self.scale)


class TestPacked:
    """Weights that are no parameters."""

    @pytest.mark.usefixtures("_double")
    def test_they_are_counted_and_named_and_the_rest_is_exact(self) -> None:
        model = tiny()
        layer = model.model.layers[0].mlp.up_proj
        total = Sketcher(model, CONFIG).coverage.total
        model.model.layers[0].mlp.up_proj = Packed(layer)
        sketcher = architectures.sketcher_of(model)
        assert "model.layers.0.mlp.up_proj.weight" in sketcher.coverage.missing
        assert sketcher.coverage.total == total
        assert sketcher.coverage.covered < total
        assert error_of(sketcher) < architectures.ROUNDING

    def test_layers_that_scale_all_tokens_together_are_refused(self) -> None:
        """Dynamic int8: the largest activation of a batch decides on the rounding of every token."""
        kinds = {"model.layers.0.mlp.up_proj"}
        model = torch.ao.quantization.quantize_dynamic(tiny().float(), kinds, torch.qint8)
        with pytest.raises(PolicyError, match="without int8 activations"):
            Sketcher(model, CONFIG)
        whole = torch.ao.quantization.quantize_dynamic(tiny().float(), {nn.Linear}, torch.qint8)
        with pytest.raises(PolicyError, match=r"torch\.nn\.Linear, found torch\.ao"):
            Sketcher(whole, CONFIG)
