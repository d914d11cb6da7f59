"""The policy: loads the model and tokenizer, renders prompts, generates token by token.

The only module that imports transformers. It does not decide which token is drawn (the sampler given to
`generate` does), judge responses, or take gradients.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
class Policy:
    """A causal language model with its tokenizer, in evaluation mode."""

    name: str
    model: nn.Module
    tokenizer: Any
    pad_id: int
    eos_ids: tuple[int, ...]
    context: int
    """Most tokens that prompt and response may have together."""
    instruction: str
    plain_template: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def encode(self, problem: str, messages: str | None) -> list[int]:
        """Token ids of a prompt: JSON chat messages as they are, or a plain problem as one user message."""
        if messages is None and self.instruction:
            problem = f"{problem}\n\n{self.instruction}"
        if self.tokenizer.chat_template is None:
            if messages is not None:
                problem = "\n\n".join(m["content"] for m in json.loads(messages))
            text = self.plain_template.replace("{problem}", problem)
            return list(self.tokenizer(text)["input_ids"])
        chat = [{"role": "user", "content": problem}] if messages is None else json.loads(messages)
        try:
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            shown = " ".join(problem.split())[:60]
            raise PolicyError(
                f"the chat template of {self.name!r} refuses the messages of {shown!r}: {_first_line(error)}"
            ) from error
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of a response, special tokens left out."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        choose: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Generate with a key-value cache until every sequence has ended.

        prompts: token ids, left-padded here. choose(ids [B, t], logits [B, V]) returns logits that are -inf
        but for the tokens it chose. Returns int64 [B, at most max_new_tokens], padded with `pad_id` after the end.
        """
        length = max(map(len, prompts))
        ids = torch.full((len(prompts), length), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = torch.tensor(prompt)
            mask[row, length - len(prompt) :] = 1
        settings = transformers.GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            pad_token_id=self.pad_id,
            eos_token_id=list(self.eos_ids),
        )
        output = self.model.generate(  # type: ignore[operator]
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            generation_config=settings,
            logits_processor=transformers.LogitsProcessorList([choose]),
        )
        generated: Tensor = output[:, length:].cpu()
        return generated


def load_policy(config: PolicyConfig) -> Policy:
    """Load a policy by directory or hub name. Raises `PolicyError` in one line for whatever is wrong with it."""
    name = config.model
    if not name:
        raise PolicyError("no policy given: name a model directory or hub name with --model")
    device = pick_device(config.device)
    dtype = _pick_dtype(config.dtype, device)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise PolicyError(f"cannot load the policy {name!r}: {_first_line(error)}") from error
    pad_id = _pad_id(tokenizer, config.pad_token, name)
    eos = model.generation_config.eos_token_id
    eos = tokenizer.eos_token_id if eos is None else eos
    if eos is None:
        raise PolicyError(f"the tokenizer of {name!r} has no end-of-sequence token, so no response would ever end")
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return Policy(
        name=name,
        model=model.to(device).eval().requires_grad_(False),
        tokenizer=tokenizer,
        pad_id=pad_id,
        eos_ids=tuple(eos) if isinstance(eos, (list, tuple)) else (eos,),
        context=context or 1 << 30,
        instruction=config.instruction,
        plain_template=config.plain_template,
    )


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
    """What identifies a policy's weights: SHA-256 of a directory's files, or a hub model's commit."""
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
