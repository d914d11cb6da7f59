"""The policy: loads the model and tokenizer, renders prompts, generates token by token.

The only module that imports transformers. It does not decide which token is drawn (the sampler given to
`generate` does), judge responses, or take gradients.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from jinja2 import TemplateError
from torch import Tensor, nn

from learnalign.config import PolicyConfig
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
        """Token ids of a prompt: JSON chat messages as they are, or a plain problem as one user message."""
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(self.text(problem, messages))["input_ids"])
        chat = self.chat(problem, messages)
        try:
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            shown = " ".join(problem.split())[:60]
            raise PolicyError(
                f"the chat template of {self.name!r} refuses the messages of {shown!r}: {_first_line(error)}"
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


@dataclass(frozen=True)
class Policy(Renderer):
    """A causal language model in evaluation mode, with its tokenizer."""

    model: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        copies: Sequence[int],
        max_new_tokens: int,
        choose: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Generate with a key-value cache until every sequence has ended; a prompt is computed once for its copies.

        prompts: token ids, left-padded here; copies: how many sequences go on from each, B in all. choose(ids
        [B, t], logits [B, V]) returns logits that are -inf but for the tokens it chose. Returns int64 [B, at most
        max_new_tokens], padded with `pad_id` after the end.
        """
        length = max(map(len, prompts))
        ids = torch.full((len(prompts), length), self.pad_id, device=self.device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = torch.tensor(prompt)
            mask[row, length - len(prompt) :] = 1
        rows = torch.repeat_interleave(torch.tensor(copies)).to(self.device)
        settings = transformers.GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            pad_token_id=self.pad_id,
            eos_token_id=list(self.eos_ids),
        )
        output = self.model.generate(  # type: ignore[operator]
            input_ids=ids[rows],
            attention_mask=mask[rows],
            past_key_values=self._prefill(ids[:, :-1], mask[:, :-1], rows),
            generation_config=settings,
            logits_processor=transformers.LogitsProcessorList([choose]),
        )
        generated: Tensor = output[:, length:].cpu()
        return generated

    def _prefill(self, ids: Tensor, mask: Tensor, rows: Tensor) -> Any:
        """Keys and values of all prompt tokens but the last, once a prompt, then copied to `rows`.

        None (so that `generate` computes every copy) for a prompt of one token and where the cache holds anything
        beside keys and values: a recurrent state is not known to survive being copied.
        """
        if ids.shape[1] == 0:
            return None
        positions = (mask.cumsum(-1) - 1).clamp_(min=0)
        output = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
        cache = output.past_key_values
        if type(cache) is not transformers.DynamicCache or not all(
            type(layer) is transformers.cache_utils.DynamicLayer for layer in cache.layers
        ):
            return None
        cache.reorder_cache(rows)
        return cache


def load_policy(config: PolicyConfig) -> Policy:
    """Load a policy by directory or hub name. Raises `PolicyError` in one line for whatever is wrong with it."""
    name = config.model
    device = pick_device(config.device)
    dtype = _pick_dtype(config.dtype, device)
    renderer = load_renderer(config)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise PolicyError(f"cannot load the policy {name!r}: {_first_line(error)}") from error
    return Policy(**vars(renderer), model=model.to(device).eval().requires_grad_(False))


def load_trainable(config: PolicyConfig) -> Any:
    """A policy's model to be trained: float32 weights with gradients. Raises `PolicyError` for an adapter."""
    if adapter_base(config.model):
        raise PolicyError(f"{config.model!r} is an adapter: merge it into its model before a warm-up")
    model = load_policy(replace(config, dtype="float32")).model
    return model.train().requires_grad_(True)


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
        raise PolicyError(f"cannot load the policy {name!r}: {_first_line(error)}") from error
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


def pick_device(name: str) -> torch.device:
    """The device that a configuration names; `auto` is a GPU where there is one. Raises `PolicyError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise PolicyError(f"policy.device must be auto, cpu or cuda:K, found {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PolicyError(f"policy.device is {name!r}, but {torch.cuda.device_count()} GPUs are visible")
    return device


def policy_digest(name: str) -> str:
    """What identifies a policy's weights: SHA-256 of a directory's files, or a hub model's commit.

    An adapter's counts for itself: its settings name the model that it belongs to.
    """
    directory = Path(name)
    if directory.is_dir():
        digest = hashlib.sha256()
        for path in sorted(p for p in directory.iterdir() if p.is_file()):
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()
    try:
        commit = getattr(transformers.AutoConfig.from_pretrained(name), "_commit_hash", None)
    except (OSError, ValueError) as error:
        raise PolicyError(f"cannot find the policy {name!r}: {_first_line(error)}") from error
    if commit is None:
        raise PolicyError(f"the hub gives no commit for {name!r}; download it and name the directory")
    return f"{name}@{commit}"


def _pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


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


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
