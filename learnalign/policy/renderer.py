"""Text to token ids and back, as the policy does it: chat template, instruction, end tokens, context.

It needs the tokenizer and the configuration, not the weights. This module does not sample and does not cut responses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from jinja2 import TemplateError

from learnalign.config import RENDERED, PolicyConfig
from learnalign.errors import PolicyError

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class Renderer:
    """Makes token ids of prompts and text of token ids as the policy does, without the policy's weights."""

    name: str
    tokenizer: Any
    pad_id: int
    eos_ids: tuple[int, ...]
    context: int
    """Most tokens that prompt and response may have together."""
    instruction: str
    plain_template: str

    def encode(self, problem: str, messages: str | None) -> list[int]:
        """Token ids of a prompt: JSON chat messages as they are, a plain problem as one user message.

        Text that a chat template has made already is taken as it stands.
        """
        if messages is None and RENDERED.search(problem):
            return list(self.tokenizer(problem, add_special_tokens=False)["input_ids"])
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(self.text(problem, messages))["input_ids"])
        chat = self.chat(problem, messages)
        try:
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            shown = " ".join(problem.split())[:60]
            raise PolicyError(
                f"the chat template of {self.name!r} refuses the messages of {shown!r}: {first_line(error)}"
            ) from error
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def chat(self, problem: str, messages: str | None) -> list[dict[str, str]]:
        """A prompt as chat messages."""
        if messages is not None:
            chat: list[dict[str, str]] = json.loads(messages)
            return chat
        return [{"role": "user", "content": self._asked(problem)}]

    def text(self, problem: str, messages: str | None) -> str:
        """A prompt as text for tokenizers without a chat template."""
        if messages is not None:
            problem = "\n\n".join(m["content"] for m in json.loads(messages))
        else:
            problem = self._asked(problem)
        return self.plain_template.replace("{problem}", problem)

    def _asked(self, problem: str) -> str:
        return f"{problem}\n\n{self.instruction}" if self.instruction else problem

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of a response, special tokens left out."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def load_renderer(config: PolicyConfig) -> Renderer:
    """A policy's tokenizer and limits, without its weights. Raises `PolicyError` in one line."""
    name = config.model
    if not name:
        raise PolicyError("no policy given: name a model directory or hub name with --model")
    base = adapter_base(name) or name
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model_config = transformers.AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        raise PolicyError(f"cannot load the policy {name!r}: {first_line(error)}") from error
    try:
        eos = transformers.GenerationConfig.from_pretrained(base).eos_token_id
    except OSError:  # no generation_config.json: what follows is what transformers itself does
        eos = model_config.get_text_config().eos_token_id
    eos = tokenizer.eos_token_id if eos is None else eos
    if eos is None:
        raise PolicyError(f"the tokenizer of {name!r} has no end-of-sequence token, so no response would ever end")
    context = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return Renderer(
        name=name,
        tokenizer=tokenizer,
        pad_id=_pad_id(tokenizer, config.pad_token, name),
        eos_ids=tuple(eos) if isinstance(eos, (list, tuple)) else (eos,),
        context=context or 1 << 30,
        instruction=config.instruction,
        plain_template=config.plain_template,
    )


def adapter_base(name: str) -> str | None:
    """The model that a directory's LoRA adapter belongs to; None for a whole model."""
    settings = Path(name) / "adapter_config.json"
    return str(json.loads(settings.read_text())["base_model_name_or_path"]) if settings.is_file() else None


def _pad_id(tokenizer: Any, pad_token: str, name: str) -> int:
    if not pad_token:
        if tokenizer.pad_token_id is None:
            raise PolicyError(
                f"the tokenizer of {name!r} has no pad token: name one of its tokens, "
                f"for example --set policy.pad_token={tokenizer.eos_token or '<pad>'}"
            )
        return int(tokenizer.pad_token_id)
    pad_id = tokenizer.get_vocab().get(pad_token)
    if pad_id is None:
        raise PolicyError(f"policy.pad_token {pad_token!r} is not in the vocabulary of {name!r}")
    return int(pad_id)


def first_line(error: BaseException) -> str:
    """What an error says, without its further lines."""
    return str(error).strip().split("\n")[0]
