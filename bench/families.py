"""Every causal language model of the installed transformers, built small.

A configuration is made small by the names of its settings, with one layer of every kind that it has. This module runs
no model and judges none (see `architectures`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

VOCABULARY = 64
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
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "text_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size_per_layer_input", "laurel_rank", "lru_width", "attention_hidden_size"), 32),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1),
    **dict.fromkeys(("image_token_id", "image_token_index", "video_token_id", "audio_token_id"), 60),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"), 64),
    **dict.fromkeys(("initializer_range", "init_std", "initializer_factor"), 0.2),
    **dict.fromkeys(("num_nextn_predict_layers", "num_kv_shared_layers"), 0),
    "is_decoder": True,
    **dict.fromkeys(("index_head_dim", "index_topk"), 8),
    "index_n_heads": 32,  # of few heads all may say 0, and which of equal keys are taken is then nobody's choice
    "shared_experts_intermediate_size": 48,
    "patch_size": 4,
    "image_size": 8,
    "num_memory_blocks": 2,
    "mamba_expand": 2,
    "mamba_dt_rank": 4,
    "time_step_rank": 4,
    "kv_n_heads": 2,
    **dict.fromkeys(("out_hidden_size", "text_hidden_size", "adapter_in_dim"), 32),  # of an image, for the text's model
    "video_temporal_patch_size": 2,
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
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8}
    | {"indexer_compress_ratio": 2},
    "dots3_note_text": {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 16}
    | {"swa_kv_lora_rank": 16, "swa_head_dim": 32, "swa_qk_nope_head_dim": 24, "swa_v_head_dim": 8},
    "glm5_next_text": {"index_topk": 16},
    "glm5_next": {"index_topk": 16},
    "xmod": {"default_language": "en_XX"},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"], "is_decoder": True},
}
"""What the general table does not get right."""
TURNED = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen2_5_omni",
    "glm4v",
    "glm_ocr",
    "glmga",
    "paddleocr_vl",
    "paddleocr",
    "cosmos3_edge",
)
SECTIONS = {f"{name}_text": [2, 1, 1] for name in TURNED} | {"glm4v_moe_text": [1, 1, 0]}
"""Rotary angles of time, height and width: half of a head of 8, or of the part of it that turns."""
MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")


def families(wrappers: bool) -> list[str]:
    """Model types with a class for causal language modeling, and those of vision-language wrappers if asked for."""
    names = dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    if wrappers:
        names |= dict(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    return sorted(names)


def small(config: Any) -> dict[str, Any]:
    """Settings that make a configuration small: known names, nested configurations, one layer of every kind."""
    own = {f.name for f in dataclasses.fields(config)}
    result: dict[str, Any] = {
        name: _alike(value, setting(config, name), _layers(config)) for name, value in SMALL.items() if name in own
    }
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
    if config.model_type in SECTIONS:
        result |= {"rope_parameters": {**config.rope_parameters, "mrope_section": SECTIONS[config.model_type]}}
    return result | OWN.get(config.model_type, {})


def _alike(value: Any, default: Any, layers: int) -> Any:
    """A value for every entry, where the default is a list, but not one of an entry a layer."""
    listed = isinstance(default, list | tuple) and len(default) != layers and isinstance(value, int)
    return [value] * len(default) if listed else value


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
    config = config_class(**(small(config_class()) | dict(settings or {})))
    torch.manual_seed(0)
    causal = family in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForImageTextToText
    model = kind.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and parameter.std() < 0.1:
                parameter.normal_(0, 0.15)
    return model if dtype == torch.float64 else narrowed(model, dtype)


def windows_of(family: str, size: int) -> dict[str, int]:
    """Settings that give every attention window that the family has another size; none where it has none."""
    config = type(transformers.AutoConfig.for_model(family))()
    return {name: size for name in WINDOWS if setting(config, name) is not None}


def narrowed(model: Any, dtype: torch.dtype) -> Any:
    """In half precision, but for the weights that transformers loads as float32 whatever is asked for."""
    model.to(dtype)
    kept = tuple(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    for name, parameter in model.named_parameters():
        if any(f".{part}." in f".{name}." for part in kept):
            parameter.data = parameter.data.float()
    return model


def with_adapters(family: str) -> Any:
    """The model with LoRA on all linear layers, B not zero."""
    import peft

    base = build(family)
    # PEFT refuses adapters on what mamba's fused kernels read past the module.
    fused = ["out_proj", "conv1d"] if family in MAMBA else None
    config = peft.LoraConfig(r=3, target_modules="all-linear", exclude_modules=fused)
    model = peft.get_peft_model(base, config).double().eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model
