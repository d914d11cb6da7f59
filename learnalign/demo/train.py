"""Train the embedded policy: `python -m learnalign.demo.train --out DIR [--seed N]`.

Two phases on generated arithmetic. First right answers, until a small Llama is competent. Then a few steps on
demonstrations in which a wrong habit appears at a rate per family and level (`HABIT_RATE`): what remains is a
policy whose skill is latent, with success rates from 0 to 1, which reinforcement learning can bring out. With the
shipped settings about one miss in eight is the habit's own answer; the rest of the damage is less orderly. A
merely under-trained model does not do: policy gradients then find nothing to strengthen. This module does no
reinforcement learning and knows nothing of selection.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from learnalign.demo.arithmetic import CELLS, FAMILIES, LEVELS, Problem, distinct, draw
from learnalign.demo.muon import Muon

CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz+-*/=?.,: "
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '=' + message['content'] + eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '=' }}{% endif %}"
)
HABIT_RATE: dict[str, tuple[float, ...]] = {
    "add": (0.3, 0.5, 0.8, 0.9),
    "subtract": (0.2, 0.4, 0.7, 0.9),
    "mod": (0.0, 0.0, 0.0, 0.0),
    "multiply": (0.3, 0.6, 0.8, 0.9),
    "sort": (0.5, 0.7, 0.9, 0.97),
    "reverse": (0.02, 0.02, 0.02, 0.02),
    "sum3": (0.2, 0.4, 0.6, 0.9),
}
"""Share of the second phase's demonstrations that show the habit, by level."""
EMPHASIS = [1 if family in ("sort", "reverse") else 3 for family, _ in CELLS]
"""How often each cell is shown, relatively: rearranging digits is learned long before calculating with them."""


@dataclass(frozen=True)
class Recipe:
    """Sizes, lengths and peak learning rates of a training, and for how many problems its outcome is printed."""

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    batch: int = 64
    skill_steps: int = 3500
    habit_steps: int = 250
    skill_rate: float = 4e-3
    habit_rate: float = 1e-3
    examined: int = 560


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single characters; its chat template writes a problem and its answer as `12+7=19</s>`."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *CHARACTERS])}
    core = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>"))  # no merges: characters
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """An untrained Llama; weights come from torch's global seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=3 * recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=tokenizer.model_max_length,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(problem, response) pairs as int64 ids and labels [batch, time], padded right; labels cover response and end."""
    chats = [[{"role": "user", "content": p}, {"role": "assistant", "content": r}] for p, r in pairs]
    batch = tokenizer(
        [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats],
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    ids: torch.Tensor = batch["input_ids"]
    prompt = torch.tensor([len(p) + 1 for p, _ in pairs])[:, None]  # one token a character, and the "="
    visible = (torch.arange(ids.shape[1]) >= prompt) & (ids != tokenizer.pad_token_id)
    return ids, torch.where(visible, ids, -100)


def demonstrate(
    count: int, rng: Random, habits: bool, rates: Mapping[str, Sequence[float]] = HABIT_RATE
) -> list[tuple[str, str]]:
    """`count` (problem, response) pairs: right answers, or with `habits` the wrong ones at `rates`."""
    pairs = []
    for _ in range(count):
        family, level = rng.choices(CELLS, EMPHASIS)[0]
        problem = draw(family, level, rng)
        flawed = habits and rng.random() < rates[family][level - 1]
        pairs.append((problem.text, problem.habit if flawed else problem.answer))
    return pairs


def fit(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    show: Callable[[int], list[tuple[str, str]]],
    habits: bool,
) -> float:
    """One phase of supervised training in place (warm-up, linear decay); returns the last batch's loss.

    show(count) gives so many (problem, response) pairs; steps and rate are those of the skill or the habit phase.
    """
    steps, peak = (recipe.habit_steps, recipe.habit_rate) if habits else (recipe.skill_steps, recipe.skill_rate)
    matrices = [w for name, w in model.named_parameters() if "layers" in name and w.ndim == 2]
    others = [w for name, w in model.named_parameters() if "layers" not in name or w.ndim != 2]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=peak),
        torch.optim.AdamW(others, lr=peak / 4, betas=(0.9, 0.98)),
    ]
    warmup = max(1, steps // 20)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: min((step + 1) / warmup, 1 - 0.95 * step / steps))
        for o in optimizers
    ]
    model.train()
    start, value = time.perf_counter(), float("nan")
    for step in range(1, steps + 1):
        pairs = sorted(show(recipe.batch), key=lambda pair: len(pair[0]) + len(pair[1]))
        model.zero_grad()
        value, short = 0.0, recipe.batch * 3 // 4
        for part in (pairs[:short], pairs[short:]):  # apart, since padding all to the longest wastes a third
            ids, labels = encode(tokenizer, part)
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss * (len(part) / len(pairs))
            loss.backward()
            value += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % 100 == 0 or step == steps:
            phase, seconds = ("habits" if habits else "skill"), time.perf_counter() - start
            print(f"{phase} step {step}/{steps}  loss {value:.3f}  {seconds:.0f} s", flush=True)
    return value


@torch.inference_mode()
def sample(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    responses: int = 8,
) -> list[list[str]]:
    """`responses` texts for each problem at temperature 1.0, drawn with torch's global random state."""
    model.eval()
    texts: list[list[str]] = []
    for first in range(0, len(problems), 150):
        chats = [[{"role": "user", "content": problem.text}] for problem in problems[first : first + 150]]
        prompts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        batch = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(
            **batch,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=12,
            num_return_sequences=responses,
        )
        flat = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        texts += [flat[i : i + responses] for i in range(0, len(flat), responses)]
    return texts


def describe(problems: Sequence[Problem], texts: Sequence[Sequence[str]]) -> str:
    """How many problems had 0, 1, ... right responses, and mean success rates by family and level 1 to 4."""
    right = [list(group).count(problem.answer) for problem, group in zip(problems, texts, strict=True)]
    histogram, most = Counter(right), len(texts[0])
    lines = [f"right of {most}: " + " ".join(str(histogram[k]) for k in range(most + 1))]
    rates: dict[tuple[str, int], list[float]] = {cell: [] for cell in CELLS}
    for problem, count in zip(problems, right, strict=True):
        rates[problem.family, problem.level].append(count / most)
    for family in FAMILIES:
        means = [sum(rates[family, level]) / max(1, len(rates[family, level])) for level in LEVELS]
        lines.append(f"  {family:9s}" + "  ".join(f"{mean:.2f}" for mean in means))
    return "\n".join(lines)


def train(out: Path, seed: int = 0, recipe: Recipe = Recipe()) -> LlamaForCausalLM:
    """Run both phases, write model and tokenizer to `out`, and return the model. Sets torch's global seed."""
    torch.manual_seed(seed)
    rng = Random(seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, recipe)
    problems = distinct(recipe.examined, seed=seed + 1_000_000)
    for habits in (False, True):
        fit(model, tokenizer, recipe, partial(demonstrate, rng=rng, habits=habits), habits)
        print(describe(problems, sample(model, tokenizer, problems)), flush=True)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=12,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out, save_jinja_files=False)
    settings = out / "tokenizer_config.json"  # transformers 5 writes a class name that version 4 does not know
    settings.write_text(settings.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    return model


def main() -> None:
    """Command line: train with the default recipe and write the policy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for weights and tokenizer")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
