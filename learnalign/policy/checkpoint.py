"""What lies in a policy's folder beside the weights: which model an adapter belongs to, and whose tokenizer is meant;
and how errors of the libraries that read it are told.

This module loads neither weights nor tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from learnalign.errors import PolicyError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def adapter_base(name: str) -> str | None:
    """The model that a directory's LoRA adapter belongs to; None for a whole model. Raises `PolicyError`."""
    settings = Path(name) / "adapter_config.json"
    if not settings.is_file():
        return None
    if (Path(name) / "config.json").is_file():
        raise PolicyError(
            f"{name!r} holds a whole model (config.json) and an adapter (adapter_config.json): which of the two the "
            "policy is cannot be told; move one of them elsewhere"
        )
    try:
        base = json.loads(settings.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise PolicyError(f"{settings} names no base_model_name_or_path: damaged ({first_line(error)})") from error
    if not base:
        raise PolicyError(f"{settings} names no base_model_name_or_path: write the adapter's model into it")
    return str(base)


def tokenizer_source(name: str) -> str:
    """Whose tokenizer a policy has: an adapter's own where its folder holds one, else its base's."""
    base = adapter_base(name)
    own = base is None or any((Path(name) / file).is_file() for file in TOKENIZER_FILES)
    return name if base is None or own else base


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Any error of the libraries that read a checkpoint as a `PolicyError` in one line."""
    try:
        yield
    except PolicyError:
        raise
    except Exception as error:  # RuntimeError, SafetensorError, ImportError, TypeError, ...: there is no common class
        raise PolicyError(f"cannot load the policy {name!r}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What an error says, or its class where it says nothing, without further lines."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
