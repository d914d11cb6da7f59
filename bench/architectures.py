"""Every causal language model of the installed transformers, built small: exact, covered in part, or refused?

For each family a model of a few thousand weights is made from its configuration, and its sketches are held against
the fold of autograd's own gradients: one response at a time, no padding, float64. The grid: float64 with prompts not
shared, shared wherever possible, and as chosen by default; rows that are packed longer than the position buffer;
windows cut to 8; two groups of different lengths together; LoRA adapters in both spaces; bfloat16, where the
yardstick is autograd's own error in bfloat16. The verdicts:

    exact         every matrix that takes part is sketched, and every row of the grid agrees
    in part       what is sketched agrees; the share of the squared gradient that matrices left out is given
    refused       one line says why, in every row of the grid or in the one that is named
    not built     this script's small configuration does not fit the family: it says nothing about the package
    WRONG, CRASH  a fault of the package

One process; a family's verdict is appended to FOLDER/verdicts.jsonl, and what is there is not done again.

    python -m bench.architectures [FOLDER] [--only FAMILY ...] [--wrappers] [--quick] [--probe]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from learnalign.kernels.fold import fold_matrices
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers.models.auto import modeling_auto

from learnalign.config import SketchConfig
from learnalign.errors import LearnAlignError
from learnalign.gradient import Group, Sketcher
from learnalign.gradient.forward import takes
from learnalign.gradient.hooks import Hooks
from learnalign.gradient.layers import Layer
from learnalign.gradient.lent import lent

D, SEED, VOCABULARY = 1024, 5, 64
ROUNDING = 1e-9
"""Of float64 sketches, relative."""
HALF = (2.0, 0.03)
"""A bfloat16 sketch may be so many times, plus so much, as far off as autograd's own gradient in bfloat16."""
SECONDS = 300
"""For one family."""
SMALL: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "word_embed_proj_dim", "embedding_size"), 32
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "kv_n_heads", "num_query_groups"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_inner", "ffn_hidden_size", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "intermediate_size_mlp", "shared_expert_intermediate_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size"), 24),
    **dict.fromkeys(("head_dim", "kv_channels", "v_head_dim", "qk_nope_head_dim", "attention_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "d_head", "global_head_dim", "swa_head_dim", "d_kv"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts"), 4
    ),
    **dict.fromkeys(("num_experts_per_tok", "moe_top_k", "num_experts_per_token", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_shared_experts", "moe_num_shared_experts", "n_group", "topk_group", "num_shared_experts"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "first_k_dense"), 1),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_state_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "text_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size_per_layer_input", "laurel_rank", "lru_width", "attention_hidden_size"), 32),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1),
    **dict.fromkeys(("image_token_id", "image_token_index", "video_token_id", "audio_token_id"), 60),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"), 64),
    **dict.fromkeys(("initializer_range", "init_std", "initializer_factor"), 0.2),
    **dict.fromkeys(("num_nextn_predict_layers", "num_kv_shared_layers"), 0),
    "is_decoder": True,
    "patch_size": 4,
    "image_size": 8,
    "num_memory_blocks": 2,
    "mamba_expand": 2,
    "mamba_dt_rank": 4,
    "time_step_rank": 4,
    "kv_n_heads": 2,
}
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size", "local_attention", "attention_window_size")
OWN: dict[str, dict[str, Any]] = {
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "llama4_text": {"num_experts_per_tok": 1},
    "gpt_oss": {"head_dim": 8},
    "ernie4_5_moe": {"moe_k": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "zaya": {"num_experts_per_tok": 1},
    "xlm": {"n_words": VOCABULARY},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8}
    | {"indexer_compress_ratio": 2},
    "xmod": {"default_language": "en_XX"},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"], "is_decoder": True},
}
"""What the general table does not get right."""


class Widened(TorchFunctionMode):
    """Float64 throughout: models cast norms, rotations and softmax to float32 whatever their weights are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def double(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*map(double, args), **{name: double(value) for name, value in (kwargs or {}).items()})


def families(wrappers: bool) -> list[str]:
    """Model types with a class for causal language modeling, and those of vision-language wrappers if asked for."""
    names = dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    if wrappers:
        names |= dict(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    return sorted(names)


def small(config: Any) -> dict[str, Any]:
    """Settings that make a configuration small: known names, nested configurations, one layer of every kind."""
    own = {f.name for f in dataclasses.fields(config)}
    result: dict[str, Any] = {name: value for name, value in SMALL.items() if name in own}
    chosen = _kinds(config)
    for name in own:
        value = setting(config, name)
        if isinstance(value, transformers.PretrainedConfig):
            result[name] = {"model_type": value.model_type, **small(value)}
        elif isinstance(value, list) and chosen and len(value) == _layers(config) and name not in SMALL:
            result[name] = [value[i] for i in chosen]
    if chosen:
        result |= {name: len(chosen) for name in LAYERS if name in own}
    if "kv_lora_rank" in own:  # latent attention has keys and values for every head
        result |= {"num_key_value_heads": 4}
    return result | OWN.get(config.model_type, {})


def setting(config: Any, name: str) -> Any:
    """One setting; None where a configuration has another for every layer, or none."""
    try:
        return getattr(config, name, None)
    except Exception:
        return None


def _layers(config: Any) -> int:
    return next((value for name in LAYERS if isinstance(value := setting(config, name), int)), 0)


def _kinds(config: Any) -> list[int]:
    """The first layer of every kind, at least two layers; empty where layers have no kinds."""
    count = _layers(config)
    lists = [v for v in vars(config).values() if isinstance(v, list) and len(v) == count and count > 2]
    if not lists:
        return []
    first: dict[str, int] = {}
    for i in range(count):
        first.setdefault(repr([values[i] for values in lists]), i)
    return sorted([*first.values(), 1] if len(first) == 1 else list(first.values()))[:4]


def build(family: str, dtype: torch.dtype = torch.float64, settings: Mapping[str, Any] | None = None) -> Any:
    """A small model of a family, with weights large enough for gradients far from zero."""
    config_class = type(transformers.AutoConfig.for_model(family))
    wanted = small(config_class())
    fits = {
        name: value
        for name, value in (settings or {}).items()
        if name in wanted or setting(config_class(), name) is not None
    }
    config = config_class(**(wanted | fits))
    torch.manual_seed(0)
    causal = family in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForImageTextToText
    model = kind.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and parameter.std() < 0.1:
                parameter.normal_(0, 0.15)
    return model.to(dtype)


def groups_of(lengths: list[tuple[int, list[int]]], seed: int = 0) -> list[Group]:
    """Groups with prompts and responses of so many tokens."""
    rng = np.random.default_rng(seed)

    def some(length: int) -> list[int]:
        return [int(t) for t in rng.integers(2, 56, length)]

    return [Group(some(p), [some(n) for n in ns], [1.0, *([0.0] * (len(ns) - 1))]) for p, ns in lengths]


@dataclasses.dataclass
class Seeing(Hooks):
    """Remembers which part of which weight every matrix is."""

    seen: dict[str, tuple[Any, Tensor]] = dataclasses.field(default_factory=dict)

    def _tap(self, layer: Layer, matrix: str, view: Tensor, *rest: Any) -> Any:
        self.seen[matrix] = (layer.parameter, view.detach())
        return super()._tap(layer, matrix, view, *rest)


def see(sketcher: Sketcher) -> None:
    own = {field.name: getattr(sketcher.hooks, field.name) for field in dataclasses.fields(Hooks)}
    sketcher.hooks = Seeing(**own)


def oracle(sketcher: Sketcher, group: Group) -> Tensor:
    """The fold of autograd's gradients of what the sketcher covers, response by response, without padding."""
    model, hooks = sketcher.model, sketcher.hooks
    rewards = np.array(group.rewards)
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4) / len(rewards)
    weights = list({id(layer.parameter): layer.parameter for layer in hooks.layers}.values())
    handle = model.get_input_embeddings().register_forward_hook(lambda m, i, o: o.detach().requires_grad_().clone())
    try:
        with lent(model):
            for weight in weights:
                weight.requires_grad_(True)
            for response, advantage in zip(group.responses, advantages, strict=True):
                ids = torch.tensor([[*group.prompt, *response]])
                logits = logits_of(model, ids)[0, len(group.prompt) - 1 : -1]
                wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
                log_p = logits.to(wide).log_softmax(-1).gather(1, ids[0, len(group.prompt) :, None])
                (log_p.sum() * advantage / len(response)).backward()
            return _folded(hooks)
    finally:
        handle.remove()


def logits_of(model: Any, ids: Tensor) -> Tensor:
    """The model's own, without a cache."""
    more = {"use_cache": False} if takes(model, "use_cache") else {}
    logits: Tensor = model(input_ids=ids, **more).logits
    return logits


def _folded(hooks: Any) -> Tensor:
    phi = torch.zeros(1, D, dtype=torch.float64)
    done: set[int] = set()
    plain = {layer.name for layer in hooks.layers if layer.kind in ("linear", "autograd")}
    for name, (weight, view) in hooks.seen.items():
        if weight.grad is None or hooks.key(name) in done or name in plain:
            continue
        done.add(hooks.key(name))
        gradient = torch.empty_like(weight).copy_(weight.grad)
        matrix = gradient.as_strided(view.shape, view.stride(), view.storage_offset() - weight.storage_offset())
        fold_matrices(phi, matrix.double()[None].contiguous(), layer=hooks.key(name), seed=SEED)
    for layer in hooks.layers:
        if layer.name not in plain or layer.parameter.grad is None or hooks.key(layer.name) in done:
            continue
        done.add(hooks.key(layer.name))
        for name, matrix in zip(layer.matrices, layer.stack(layer.parameter.grad), strict=True):
            fold_matrices(phi, matrix.double()[None].contiguous(), layer=hooks.key(name), seed=SEED)
    return phi[0]


SHORT = [(3, [4, 6, 1]), (7, [2, 5])]
LONG = [(20, [18, 16, 15]), (5, [9, 4])]


def error_of(model: Any, share: str = "default", lengths: list[tuple[int, list[int]]] = SHORT, **options: Any) -> float:
    """The largest relative error of a group's sketch."""
    groups = groups_of(lengths)
    sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED, share_prompts=share != "off", **options))
    if share == "always":
        sketcher.costs = dataclasses.replace(sketcher.costs, token=1.0, pair=0.0)
    see(sketcher)
    found = torch.from_numpy(sketcher.sketch(groups)).double()
    truths = torch.stack([oracle(sketcher, group) for group in groups])
    return _relative(found, truths)


def _relative(found: Tensor, truth: Tensor) -> float:
    return float(((found - truth).norm(dim=1) / truth.norm(dim=1)).max())


def half_error(family: str) -> float:
    """What a bfloat16 sketch is off beyond what it may be; 0 or less is fine."""
    model, groups = build(family, torch.bfloat16), groups_of(SHORT)
    sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED))
    see(sketcher)
    found = torch.from_numpy(sketcher.sketch(groups)).double()
    plain = torch.stack([oracle(sketcher, group) for group in groups])
    wide = build(family).to(torch.bfloat16).double()
    names = {layer.name for layer in sketcher.hooks.layers}
    exact = Sketcher(wide, SketchConfig(dimension=D, seed=SEED, share_prompts=False))
    if names != {layer.name for layer in exact.hooks.layers}:
        exact.hooks = dataclasses.replace(exact.hooks, layers=[y for y in exact.hooks.layers if y.name in names])
    see(exact)
    exact.sketch(groups)
    truth = torch.stack([oracle(exact, group) for group in groups])
    times, plus = HALF
    return _relative(found, truth) - times * _relative(plain, truth) - plus


def with_adapters(family: str) -> Any:
    """The model with LoRA on all linear layers, B not zero."""
    import peft

    base = build(family)
    model = peft.get_peft_model(base, peft.LoraConfig(r=3, target_modules="all-linear")).double().eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def grid(family: str, quick: bool) -> dict[str, Callable[[], float]]:
    """The rows of one family: name, and how to find its error."""
    windows = dict.fromkeys(WINDOWS, 8)
    rows: dict[str, Callable[[], float]] = {
        "not shared": lambda: error_of(build(family), "off"),
        "shared": lambda: error_of(build(family), "always"),
        "default": lambda: error_of(build(family)),
        "long packed rows": lambda: error_of(build(family), "always", LONG),
        "windows of 8": lambda: error_of(build(family, settings=windows), "always", LONG),
    }
    if not quick:
        rows["LoRA, full"] = lambda: error_of(with_adapters(family), space="full")
        rows["LoRA, lora"] = lambda: error_of(with_adapters(family), space="lora")
    return rows


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """`TimeoutError` after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict_of(family: str, quick: bool = False) -> dict[str, Any]:
    """One family's line of the table."""
    started = time.monotonic()
    try:
        with limited(SECONDS):
            model = build(family)
            ids = torch.tensor([[3, 4, 5, 6]])
            with torch.no_grad(), lent(model), Widened():
                finite = bool(torch.isfinite(logits_of(model, ids)).all())
            if not finite:
                raise ValueError("logits are not finite")
    except Exception as error:
        return {"family": family, "verdict": "not built", "why": _line(error), "seconds": time.monotonic() - started}
    errors: dict[str, float] = {}
    refused: dict[str, str] = {}
    facts: dict[str, Any] = {}
    try:
        with limited(SECONDS), Widened():
            for name, row in grid(family, quick).items():
                try:
                    errors[name] = row()
                except LearnAlignError as error:
                    refused[name] = _line(error)
            if "not shared" in errors:
                facts = facts_of(model)
        with limited(SECONDS):
            if not quick and "not shared" in errors:
                errors["bfloat16"] = half_error(family)
    except Exception as error:
        return {"family": family, "verdict": "CRASH", "why": _line(error), "trace": traceback.format_exc()[-1500:]}
    wrong = {k: v for k, v in errors.items() if not v <= (0.0 if k == "bfloat16" else ROUNDING)}
    verdict = "WRONG" if wrong else "exact" if errors else "refused"
    if verdict == "exact" and facts.get("left_out"):
        verdict = "in part"
    seconds = round(time.monotonic() - started, 1)
    return {"family": family, "verdict": verdict, "errors": errors, "refused": refused, **facts, "seconds": seconds}


def facts_of(model: Any) -> dict[str, Any]:
    """What a default sketcher says about the model."""
    sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED))
    sizes = {name: p.ndim for name, p in model.named_parameters()}
    table = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    named = {name: id(p) for name, p in model.named_parameters()}
    matrices = {
        name: share
        for name, share in sketcher.shares.items()
        if sizes.get(name, 0) >= 2 and named[name] not in table and not name.endswith("bias")
    }
    left = sum(share for name, share in matrices.items() if name in sketcher.coverage.missing)
    return {
        "alone": sketcher.alone,
        "unshared": sketcher.unshared,
        "autograd": sum(layer.kind == "autograd" for layer in sketcher.hooks.layers),
        "left_out": float(f"{left / (sum(matrices.values()) or 1.0):.3g}"),
    }


def probe_seconds() -> float:
    """Processor time of taking up a float32 model of SmolLM2-135M's shape with one thread."""
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **heads))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.process_time()
    Sketcher(model)
    torch.set_num_threads(before)
    return time.process_time() - started


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


def main() -> None:
    """Go through the families that have no verdict yet; print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--only", nargs="*", default=[], help="these families, done again")
    parser.add_argument("--wrappers", action="store_true", help="vision-language wrappers too, with text alone")
    parser.add_argument("--quick", action="store_true", help="without LoRA and bfloat16")
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop after so many; the next call goes on")
    parser.add_argument("--probe", action="store_true", help="time the probe on a model of SmolLM2-135M's shape")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / "verdicts.jsonl"
    done = {v["family"]: v for v in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    started = time.monotonic()
    for family in options.only or [f for f in families(options.wrappers) if f not in done]:
        if time.monotonic() - started > options.seconds:
            print("time is up: call again to go on")
            break
        done[family] = verdict_of(family, options.quick)
        with file.open("a") as lines:
            lines.write(json.dumps(done[family]) + "\n")
        show(done[family])
    seconds = probe_seconds() if options.probe else None
    if seconds is not None:
        print(f"probing a model of SmolLM2-135M's shape: {seconds:.1f} s of one core")
    counts = Counter(v["verdict"] for v in done.values())
    print(
        json.dumps({"transformers": transformers.__version__, "torch": torch.__version__, "probe_s": seconds, **counts})
    )


def show(verdict: dict[str, Any]) -> None:
    """One line of the table."""
    worst = max((e for k, e in verdict.get("errors", {}).items() if k != "bfloat16"), default=float("nan"))
    why = verdict.get("why") or next(iter(verdict.get("refused", {}).values()), "") or verdict.get("unshared", "")
    more = f"left out {verdict['left_out']:.3g}; " if verdict.get("left_out") else ""
    alone = "one prompt a pass; " if verdict.get("alone") else ""
    print(f"{verdict['family']:28} {verdict['verdict']:10} {worst:8.1e}  {more}{alone}{why}"[:220], flush=True)


if __name__ == "__main__":
    main()
