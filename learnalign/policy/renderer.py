"""Text to token ids and back, as the policy does it: chat template, instruction, end tokens, context.

It needs the tokenizer and the configuration, not the weights. This module does not sample and does not cut responses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import transformers

from learnalign.config import RENDERED, PolicyConfig
from learnalign.errors import PolicyError
from learnalign.policy.checkpoint import adapter_base, first_line, loading, tokenizer_source
from learnalign.policy.ends import end_tokens

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

TEXTS = 256
"""Given to the tokenizer at once: with more, what it makes of them no longer fits a cache."""
IDS_ALONE = {"return_attention_mask": False, "return_token_type_ids": False}
"""What a tokenizer is told that need not make other lists: they take most of its time."""
CLOCK = "strftime_now"
"""What a chat template calls to get the time, in a format that it names."""
DIRECTIVES = ("-d", "-m", "-H", "-I", "-M", "-S", "-j", *"aAwdbBmyYHIpMSfzZjUWcxXeFTDRu%")
"""Of such a format."""


Prompt = tuple[str, str | None, str | None]
"""Problem, messages and tools, as `Renderer.encode` takes them."""


@dataclass(frozen=True)
class Renderer:
    """Makes token ids of prompts and text of token ids as the policy does, without the policy's weights."""

    name: str
    tokenizer: Any
    pad_id: int
    eos_ids: tuple[int, ...]
    """Tokens that end a response; the first is the tokenizer's own where it has one."""
    context: int
    """Most tokens that prompt and response may have together."""
    vocabulary: int
    """Token ids that the model knows: its embeddings may be padded beyond the tokenizer's last token."""
    instruction: str
    plain_template: str
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """What the chat template is also told."""

    def encode(self, problem: str, messages: str | None, tools: str | None = None) -> list[int]:
        """Token ids of a prompt: JSON chat messages as they are, or a plain problem as one user message.

        Text that a chat template has made already is taken as it stands. tools: JSON list of those that the template
        is told of.
        """
        return self.tokens(self.render(problem, messages, tools))

    def encode_all(self, prompts: Sequence[Prompt]) -> list[npt.NDArray[np.int32]]:
        """`encode` of many, in blocks. Raises `PolicyError` for the first that the chat template refuses."""
        found: list[npt.NDArray[np.int32]] = []
        for start in range(0, len(prompts), TEXTS):
            texts = self._render_all(prompts[start : start + TEXTS])
            special = [self._special(text) for text in texts]
            encoded = {
                flag: iter(self.ids([text for text, own in zip(texts, special, strict=True) if own == flag], flag))
                for flag in set(special)
            }
            found += [np.array(next(encoded[flag]), np.int32) for flag in special]
        return found

    def ids(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Token ids of texts as they stand; special: with the special tokens that the tokenizer adds."""
        found: list[list[int]] = []
        for start in range(0, len(texts), TEXTS):
            block = list(texts[start : start + TEXTS])
            found += self.tokenizer(block, add_special_tokens=special, **IDS_ALONE)["input_ids"]
        return found

    def render(self, problem: str, messages: str | None, tools: str | None = None) -> str:
        """A prompt as the text that the policy reads. Raises `PolicyError` for whatever a chat template raises."""
        if messages is None and RENDERED.search(problem):
            return problem
        if self.tokenizer.chat_template is None:
            return self.text(problem, messages)
        try:
            (text,) = self._templated([self.chat(problem, messages)], tools)
        except Exception as error:  # a template is a program of its own: TypeError, KeyError, ZeroDivisionError, ...
            shown = " ".join(problem.split())[:60]
            raise PolicyError(
                f"the chat template of {self.name!r} refuses the messages of {shown!r}: {first_line(error)}"
            ) from error
        return text

    def tokens(self, text: str) -> list[int]:
        """Token ids of a rendered prompt; a chat template, here or elsewhere, writes its special tokens itself."""
        return self.ids([text], self._special(text))[0]

    def _special(self, text: str) -> bool:
        return self.tokenizer.chat_template is None and not RENDERED.search(text)

    def _render_all(self, prompts: Sequence[Prompt]) -> list[str]:
        """`render` of many, with one call for those that a chat template renders alike."""
        found: dict[int, str] = {}
        chats: dict[str, list[int]] = {}
        for k, (problem, messages, tools) in enumerate(prompts):
            if self.tokenizer.chat_template is None or (messages is None and RENDERED.search(problem)):
                found[k] = self.render(problem, messages, tools)
            else:
                chats.setdefault(tools or "", []).append(k)
        for tools, own in chats.items():
            try:
                found.update(zip(own, self._templated([self.chat(*prompts[k][:2]) for k in own], tools), strict=True))
            except Exception:  # a template is a program of its own; one by one, the prompt that it refuses is named
                return [self.render(*prompt) for prompt in prompts]
        return [found[k] for k in range(len(prompts))]

    def _templated(self, chats: list[list[dict[str, str]]], tools: str | None) -> list[str]:
        told = {**self.template_kwargs, **({"tools": json.loads(tools)} if tools else {})}
        texts: list[str] = self.tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True, **told)
        return texts

    @property
    def dated(self) -> bool:
        """Whether the chat template asks for the time, so that its prompts change from day to day."""
        return CLOCK in str(self.tokenizer.chat_template)

    def at(self, when: datetime) -> Renderer:
        """The same, but for its chat template it is always `when`: a macro stands before the function of that name."""
        tokenizer, clock = deepcopy(self.tokenizer), _stopped(when)
        templates = tokenizer.chat_template
        tokenizer.chat_template = (
            {name: clock + text for name, text in templates.items()}
            if isinstance(templates, dict)
            else clock + templates
        )
        return replace(self, tokenizer=tokenizer)

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
    with loading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_source(name))
        model_config = transformers.AutoConfig.from_pretrained(base).get_text_config()
        ends = end_tokens(base, tokenizer, model_config)
    context = getattr(model_config, "max_position_embeddings", None)
    return Renderer(
        name=name,
        tokenizer=tokenizer,
        pad_id=_pad_id(tokenizer, config.pad_token, name),
        eos_ids=ends,
        context=context or 1 << 30,
        vocabulary=max(int(getattr(model_config, "vocab_size", 0) or 0), len(tokenizer)),
        instruction=config.instruction,
        plain_template=config.plain_template,
        template_kwargs=_template_kwargs(tokenizer, config),
    )


def _stopped(when: datetime) -> str:
    """A Jinja macro in the place of `strftime_now`, on a line of its own, which Jinja drops."""
    text = "form"
    for directive in DIRECTIVES:
        text += f"|replace('%{directive}', {json.dumps(when.strftime('%' + directive), ensure_ascii=False)})"
    return "{% macro " + CLOCK + "(form) %}{{ " + text + " }}{% endmacro %}\n"


def _template_kwargs(tokenizer: Any, config: PolicyConfig) -> dict[str, Any]:
    """What the chat template is also told. Raises `PolicyError` where there are several and none is chosen."""
    told: dict[str, Any] = json.loads(config.chat_template_kwargs or "{}")
    templates = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates and "chat_template" not in told:
        raise PolicyError(
            f"the tokenizer of {config.model!r} has several chat templates ({', '.join(templates)}) and no default: "
            f"""choose one, --set 'policy.chat_template_kwargs={{"chat_template": "{next(iter(templates))}"}}'"""
        )
    return told


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
