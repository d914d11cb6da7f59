"""Which tokens end a response: those of the generation configuration, of the tokenizer and of the model's config.json.

All of them count, as in TRL and vLLM: a policy stops at any that it was trained to stop at, and a checkpoint's three
files often name different ones. This module loads no weights.
"""

from __future__ import annotations

import json
from typing import Any

import transformers

from learnalign.errors import PolicyError


def end_tokens(base: str, tokenizer: Any, config: Any) -> tuple[int, ...]:
    """Ids of the tokens that end a response, the tokenizer's first. Raises `PolicyError` where there is none.

    base: directory or hub name of the whole model; config: its text configuration. Ids outside the vocabulary are
    never sampled, and are left out.
    """
    generation, written = _read(base, "generation_config.json"), _read(base, "config.json") or {}
    stated = [tokenizer.eos_token_id, *_listed((generation or {}).get("eos_token_id"))]
    if generation is None or _names_ends(written):
        # A class's default counts as for transformers itself, only where nothing else says how the model generates.
        stated += _listed(getattr(config, "eos_token_id", None))
    size = max(int(getattr(config, "vocab_size", 0) or 0), len(tokenizer))
    ends = tuple(dict.fromkeys(end for end in stated if isinstance(end, int) and 0 <= end < size))
    if not ends:
        raise PolicyError(f"the tokenizer of {base!r} has no end-of-sequence token, so no response would ever end")
    return ends


def _read(base: str, name: str) -> dict[str, Any] | None:
    """A JSON file of the checkpoint; None where there is none."""
    path = transformers.utils.cached_file(
        base, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def _names_ends(written: dict[str, Any]) -> bool:
    """Whether config.json itself names end tokens, of the model or of its text part."""
    return any("eos_token_id" in part for part in (written, *written.values()) if isinstance(part, dict))


def _listed(eos: Any) -> list[Any]:
    return list(eos) if isinstance(eos, (list, tuple)) else [eos]
