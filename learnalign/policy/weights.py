"""Reads a checkpoint's weights, whole or not at all.

transformers gives random numbers to weights that a checkpoint lacks and passes over those that it has no place for; a
success rate of such a model means nothing, so that both are errors here. This module knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import transformers
from transformers.modeling_utils import LoadStateDictConfig

from learnalign.errors import PolicyError
from learnalign.policy.checkpoint import adapter_base, loading

SHOWN = 3
"""Names of keys in a message."""


def load_weights(name: str, dtype: torch.dtype, generation: transformers.GenerationConfig, device: torch.device) -> Any:
    """A checkpoint's model on `device`, a LoRA adapter's with its base.

    generation: stands for the checkpoint's own generation configuration, which is not read. Raises `PolicyError` in
    one line where it cannot be loaded, or lacks weights, or has others than the model's.
    """
    base = adapter_base(name)
    with loading(name):
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            base or name,
            dtype=dtype,
            generation_config=generation,
            ignore_mismatched_sizes=True,  # to be refused below, by name
            output_loading_info=True,
        )
        _require_all_keys(base or name, found)
        if base:
            found = model.load_adapter(
                name, load_config=LoadStateDictConfig(dtype=dtype, ignore_mismatched_sizes=True)
            ).to_dict()
            _require_all_keys(name, found, "adapter")
        model.config.return_dict = True  # a checkpoint may ask for tuples
        return model.to(device)


def _require_all_keys(name: str, found: Mapping[str, Iterable[Any]], what: str = "checkpoint") -> None:
    """Raise `PolicyError` unless every weight of the model was read and every key of the file was used."""
    missing, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    mismatched = sorted(str(key[0]) for key in found["mismatched_keys"])
    troubles = [
        f"{label} {_some(keys)}"
        for label, keys in (("lacks", missing), ("has no place for", unexpected), ("has other shapes of", mismatched))
        if keys
    ]
    if troubles:
        raise PolicyError(
            f"the {what} {name!r} does not fit its model: it {'; it '.join(troubles)}: a prefix left by a wrapper "
            "(_orig_mod., module.), an adapter that was not merged, or weights of another model"
        )


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN:,} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
