"""Tiny models of many architectures, random groups, and the sketch by its definition, for the tests of gradients."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
import transformers
from learnalign.kernels.fold import fold_matrices
from torch import nn
from torch.overrides import TorchFunctionMode

from learnalign.gradient import Group

D, SEED = 1024, 5
VOCABULARY = 37
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SHAPE | UNTIED),
    "llama-tied": ("Llama", SHAPE | TIED),
    "qwen2": ("Qwen2", SHAPE | UNTIED),
    "qwen3": ("Qwen3", SHAPE | TIED | {"head_dim": 8}),
    "mistral": ("Mistral", SHAPE | UNTIED | {"sliding_window": 64}),
    "gemma2": ("Gemma2", SHAPE | TIED | {"head_dim": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3", SHAPE | TIED | {"head_dim": 8}),
    "phi3": ("Phi3", SHAPE | UNTIED | {"pad_token_id": 0}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "qwen3-moe": ("Qwen3Moe", SHAPE | UNTIED | MOE | {"num_experts": 5, "head_dim": 8, "norm_topk_prob": True}),
    "mixtral": ("Mixtral", SHAPE | UNTIED | {"num_experts_per_tok": 2, "num_local_experts": 4}),
}


def tiny(kind: str = "llama", **settings: Any) -> Any:
    """A float64 model with weights large enough for gradients that are far from zero."""
    name, shape = ARCHITECTURES[kind]
    torch.manual_seed(0)
    config_class = getattr(transformers, {"Gemma3": "Gemma3TextConfig"}.get(name, f"{name}Config"))
    model_class = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    config = config_class(vocab_size=VOCABULARY, initializer_range=0.2, **(shape | settings))
    model = model_class(config).double().eval()
    model.config._experts_implementation = "eager"  # the only one that runs in float64
    return model


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


class AllDouble(TorchFunctionMode):
    """Float64 throughout: models cast norms, rotations and softmax to float32 whatever their weights are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def double(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*map(double, args), **{name: double(value) for name, value in (kwargs or {}).items()})


def matrices(model: nn.Module, adapters: bool) -> dict[str, nn.Parameter]:
    """Weights by the module's name: of linear layers, routers and stacked experts, or of adapters."""
    found = {}
    for name, module in model.named_modules():
        if ("lora_" in name) != adapters:
            continue
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if isinstance(module, nn.Linear) or type(module).__name__.endswith(("Conv1D", "Router")):
            found[plain] = module.weight
        elif type(module).__name__.endswith("Experts"):
            found[f"{plain}.gate_up_proj"] = module.gate_up_proj
            found[f"{plain}.down_proj"] = module.down_proj
    return found


def exact_sketch(
    model: Any,
    group: Group,
    *,
    coefficients: list[np.ndarray] | None = None,
    temperature: float = 1.0,
    adapters: bool = False,
) -> np.ndarray:
    """Autograd's own full weight gradients of the definition, response by response, without padding; then folded.

    coefficients: of every response token; None stands for A_g / (G |y_g|).
    """
    if coefficients is None:
        rewards = np.array(group.rewards)
        a = (rewards - rewards.mean()) / (rewards.std() + 1e-4) / len(rewards)
        coefficients = [np.full(len(y), a_g / max(1, len(y))) for y, a_g in zip(group.responses, a, strict=True)]
    weights = matrices(model, adapters)
    transposed = {id(m.weight) for m in model.modules() if type(m).__name__ == "Conv1D"}
    for weight in weights.values():
        weight.requires_grad_(True)
        weight.grad = None
    for response, c in zip(group.responses, coefficients, strict=True):
        # The embedding's output cut off keeps a tied head's gradient apart from the table's.
        embedded = model.get_input_embeddings()(torch.tensor([[*group.prompt, *response]])).detach()
        logits = model(inputs_embeds=embedded, use_cache=False).logits[0] / temperature
        first = len(group.prompt) - 1
        predicted = logits[first : first + len(response)].log_softmax(-1)
        picked = predicted.gather(1, torch.tensor(response)[:, None]).squeeze(1)
        (picked * torch.from_numpy(c)).sum().backward()
    phi = torch.zeros(1, D, dtype=torch.float64)
    for name, weight in weights.items():
        assert weight.grad is not None, name
        weight.requires_grad_(False)
        gradient = weight.grad.T if id(weight) in transposed else weight.grad
        stacked = gradient if gradient.ndim == 3 else gradient[None]
        for e, matrix in enumerate(stacked):
            key = f"{name}.{e}" if gradient.ndim == 3 else name
            fold_matrices(phi, matrix[None].contiguous(), layer=zlib.crc32(key.encode()), seed=SEED)
        weight.grad = None
    return phi[0].numpy()
