"""Policies of real shapes with random weights, and random groups of responses for them: speed depends on neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from learnalign.gradient import Group

SEED = 0
PROMPT_TOKENS = 120
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "kind": "Llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {
        "kind": "Qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        "kind": "Qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "qwen2.5-7b": {
        "kind": "Qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
    "olmoe-1b-7b": {
        "kind": "Olmoe", "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16,
        "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8,
        "tie_word_embeddings": False,
    },
}  # fmt: skip


def random_model(shape: str, device: str, quick: bool) -> Any:
    """The shape with random weights, bfloat16 on a GPU, float32 on a CPU."""
    settings = dict(SHAPES[shape])
    kind = settings.pop("kind")
    if quick:
        settings |= {"num_hidden_layers": 2, "vocab_size": 2000}
        settings |= (
            {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64} if "num_experts" in settings else {}
        )
    torch.manual_seed(SEED)
    with torch.device(device):  # a CPU takes long to draw billions of weights
        model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**settings))
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32).eval().requires_grad_(False)


def random_groups(model: Any, count: int, response_tokens: Sequence[int], prompt: int = PROMPT_TOKENS) -> list[Group]:
    """8 responses each, half of them right, prompts of about `prompt` tokens."""
    rng = np.random.default_rng(SEED)
    vocabulary = model.config.vocab_size

    def some(length: int) -> list[int]:
        return [int(token) for token in rng.integers(0, vocabulary, length)]

    lengths = np.linspace(response_tokens[0], response_tokens[1], 8).astype(int)
    return [
        Group(some(prompt + int(rng.integers(-20, 21))), [some(n) for n in rng.permutation(lengths)], [0.0, 1.0] * 4)
        for _ in range(count)
    ]
