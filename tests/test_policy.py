"""A policy samples as training will: whatever else lies in its folder changes nothing, or is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import PolicyError
from learnalign.logs.parts import out_of_range
from learnalign.policy import Policy, load_policy, load_renderer, policy_digest
from learnalign.rollout.engine import Response, Task
from learnalign.rollout.transformers import LocalEngine
from learnalign.runs import pipeline

PROBLEMS = ["12+7", "sort 3241", "reverse 4726"]
LEAKS = {
    "use_cache": False,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": [5, 6, 7],
    "begin_suppress_tokens": [4, 8],
    "bad_words_ids": [[9]],
    "min_length": 30,
    "min_new_tokens": 6,
    "sequence_bias": [[[10], 5.0]],
    "guidance_scale": 2.0,
    "exponential_decay_length_penalty": [1, 2.0],
    "max_time": 1e-6,
    "repetition_penalty": 2.0,
    "stop_strings": ["1"],
    "return_dict_in_generate": True,
    "num_return_sequences": 2,
    "cache_implementation": "static",
    "prompt_lookup_num_tokens": 3,
    "penalty_alpha": 0.6,
}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the demo policy that a test may damage."""
    return Path(shutil.copytree(POLICY, tmp_path / "policy"))


def edit(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    held = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in held.items() if value is not None}))


def loaded(folder: Path) -> Policy:
    return load_policy(PolicyConfig(model=str(folder), dtype="float32"))


def samples(policy: Policy, most: int = 12) -> list[Response]:
    tasks = [Task(text, policy.encode(text, None), 4) for text in PROBLEMS]
    return LocalEngine(policy, RolloutConfig(max_new_tokens=most)).sample(tasks)


def test_nothing_of_a_generation_configuration_changes_samples(copied: Path) -> None:
    """Fields that bend the distribution or the control flow of `generate`, in both of the files that hold them."""
    plain = samples(loaded(POLICY))
    edit(copied / "generation_config.json", **LEAKS)
    assert samples(loaded(copied)) == plain
    edit(copied / "config.json", use_cache=False, return_dict=False)
    assert samples(loaded(copied)) == plain


@pytest.mark.parametrize("field", LEAKS)
def test_no_single_field_changes_samples(copied: Path, field: str) -> None:
    edit(copied / "generation_config.json", **{field: LEAKS[field]})
    assert samples(loaded(copied)) == samples(loaded(POLICY))


def ends_in_tokenizer(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=5)
    edit(folder / "config.json", eos_token_id=6)


def ends_nowhere_else(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", eos_token=None)
    edit(folder / "generation_config.json", eos_token_id=[5, 6])
    edit(folder / "config.json", eos_token_id=999)


@pytest.mark.parametrize(("change", "ends"), [(ends_in_tokenizer, (1, 5, 6)), (ends_nowhere_else, (5, 6))])
def test_end_tokens_are_those_of_all_three_files(
    copied: Path, change: Callable[[Path], None], ends: tuple[int, ...]
) -> None:
    change(copied)
    policy = loaded(copied)
    assert policy.eos_ids == ends
    assert set(policy.model.generation_config.eos_token_id) == set(ends)
    for made in samples(policy):
        at = [token in ends for token in made.tokens]
        assert not any(at[:-1])
        assert (made.finish == "stop") == at[-1]


def test_a_class_default_is_no_end_token_where_the_checkpoint_says_better(copied: Path) -> None:
    """Llama's default end token is 2; with a generation configuration, config.json counts only for what it says."""
    edit(copied / "config.json", eos_token_id=None)
    assert load_renderer(PolicyConfig(model=str(copied))).eos_ids == (1,)
    (copied / "generation_config.json").unlink()
    assert load_renderer(PolicyConfig(model=str(copied))).eos_ids == (1, 2)


def renamed(prefix: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda weights: {prefix + key: value for key, value in weights.items()}


def without(text: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda weights: {key: value for key, value in weights.items() if text not in key}


DAMAGES = {
    "compiled": (renamed("_orig_mod."), r"lacks lm_head\.weight.*no place for _orig_mod\.lm_head\.weight"),
    "parallel": (renamed("module."), r"no place for module\.lm_head\.weight"),
    "no head": (without("lm_head"), r"lacks lm_head\.weight"),
    "no layer": (without("layers.1."), r"lacks model\.layers\.1\..* and 6 more"),
    "unmerged": (
        lambda weights: weights | {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(2, 128)},
        r"no place for model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight",
    ),
    "another shape": (
        lambda weights: weights | {"lm_head.weight": torch.zeros(50, 128)},
        r"other shapes of lm_head\.weight",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_does_not_fit_its_model_is_refused_by_key(copied: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    file = copied / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(PolicyError, match=message) as refusal:
        loaded(copied)
    assert "\n" not in str(refusal.value)


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    "change",
    [
        cut,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: edit(folder / "config.json", model_type="of-tomorrow"),
        lambda folder: edit(folder / "config.json", hidden_size="128"),
        lambda folder: edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        lambda folder: (folder / "generation_config.json").write_text("{"),
    ],
)
def test_whatever_is_wrong_with_a_folder_is_one_line(copied: Path, change: Callable[[Path], None]) -> None:
    change(copied)
    with pytest.raises(PolicyError, match=f"{copied}") as refusal:
        loaded(copied)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA adapter that does something, without a tokenizer, on a copy of the demo policy."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = shutil.copytree(POLICY, tmp_path / "base")
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "tokenizer.json").exists()
    return tmp_path / "adapter"


def test_an_adapter_has_its_bases_tokenizer_and_its_own_weights(adapter: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    policy = loaded(adapter)
    assert policy.encode("12+7", None) == loaded(POLICY).encode("12+7", None)
    expected = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(POLICY), adapter).eval()
    ids = torch.tensor([policy.encode("12+7", None)])
    torch.testing.assert_close(policy.model(ids).logits, expected(ids).logits)
    assert not torch.allclose(policy.model(ids).logits, loaded(POLICY).model(ids).logits)


@pytest.mark.parametrize(
    "change",
    [
        renamed("module."),
        without("layers.1."),
        lambda _: {"x": torch.zeros(1)},
        lambda weights: {key: value[:, :1].contiguous() for key, value in weights.items()},
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(adapter: Path, change: Callable[..., Any]) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(PolicyError, match=r"the adapter .* (lacks|no place for|other shapes of)"):
        loaded(adapter)


def test_an_adapters_base_must_be_whole_too(adapter: Path) -> None:
    file = adapter.parent / "base" / "model.safetensors"
    save_file(without("lm_head")(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(PolicyError, match=r"base' does not fit its model: it lacks lm_head\.weight"):
        loaded(adapter)


def test_an_adapters_digest_covers_its_base(adapter: Path) -> None:
    before = policy_digest(str(adapter))
    edit(adapter.parent / "base" / "generation_config.json", eos_token_id=3)
    assert policy_digest(str(adapter)) != before


def test_a_hub_models_digest_is_its_commit_in_the_cache(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the base of an adapter too: the cache is asked, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    edit(adapter / "adapter_config.json", base_model_name_or_path="someone/tiny")
    repository, digests = tmp_path / "hub" / "models--someone--tiny", set()
    (repository / "refs").mkdir(parents=True)
    for revision in ("a" * 40, "b" * 40):
        shutil.copytree(POLICY, repository / "snapshots" / revision)
        (repository / "refs" / "main").write_text(revision)
        assert policy_digest("someone/tiny") == f"someone/tiny@{revision}"
        digests.add(policy_digest(str(adapter)))
    assert len(digests) == 2
    assert loaded(adapter).encode("12+7", None) == loaded(POLICY).encode("12+7", None)
    with pytest.raises(PolicyError, match=r"cannot find the policy 'someone/other'") as refusal:
        policy_digest("someone/other")
    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_a_model_and_an_adapter_is_refused(adapter: Path) -> None:
    shutil.copy(POLICY / "config.json", adapter)
    with pytest.raises(PolicyError, match=r"holds a whole model .* and an adapter"):
        loaded(adapter)
    (adapter / "config.json").unlink()
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    with pytest.raises(PolicyError, match="names no base_model_name_or_path"):
        policy_digest(str(adapter))


def test_what_the_sketch_would_refuse_is_refused_before_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = tmp_path / "pool.jsonl"
    write_pool(pool, 28, seed=3)
    config = Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=8),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(space="lora"),
        select=SelectConfig(n=6),
    )
    with pytest.raises(PolicyError, match=r"sketch\.space is .lora., but the policy .* is no LoRA adapter"):
        pipeline.run(config, tmp_path / "run")
    other = Path(shutil.copytree(POLICY, tmp_path / "other"))
    edit(other / "config.json", vocab_size=60)
    config = replace(config, sketch=SketchConfig(kl_beta=0.1, reference=str(other)))
    with pytest.raises(PolicyError, match=r"the reference policy .* 60 tokens, and the policy 49"):
        pipeline.run(config, tmp_path / "run2")
    kept = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: kept(self, x.flip(1)))  # a look into the future
    with pytest.raises(PolicyError, match="makes something else of a row"):
        pipeline.run(replace(config, sketch=SketchConfig()), tmp_path / "run3")
    assert not any(path.name.startswith("part-") for path in tmp_path.rglob("*.parquet"))


def test_padded_embeddings_are_part_of_the_vocabulary(copied: Path) -> None:
    """Ids beyond the tokenizer are sampled from padded embeddings, so that a log may hold them."""
    weights = load_file(copied / "model.safetensors")
    padded = {
        key: torch.cat([value, value[:15]]) if key in ("lm_head.weight", "model.embed_tokens.weight") else value
        for key, value in weights.items()
    }
    save_file(padded, copied / "model.safetensors", metadata={"format": "pt"})
    edit(copied / "config.json", vocab_size=64)
    policy = loaded(copied)
    assert (policy.vocabulary, len(policy.tokenizer)) == (64, 49)
    assert any(token >= 49 for made in samples(policy) for token in made.tokens)
    assert out_of_range([np.array([5, 63], np.int32)], policy) == ""
    assert "token id 64 is beyond the 64 tokens" in out_of_range([np.array([64], np.int32)], policy)
