"""Does training on a selection do as well as training on everything, on real problems? For a GPU.

SmolLM2-135M-Instruct is first fine-tuned on the solutions of half of GSM8K's training problems, so that its success
rates spread; then GRPO runs on the other half (3,736 problems): on all of it, on a random tenth, or in the order of an
`OnlineSelector` that also measures gradients. Accuracy: GSM8K's test problems, 4 samples each at temperature 1. A file
for each run in the folder, so that runs can be made one at a time (each is meant to take less than 10 minutes on an
H100; on a CPU only `--quick` is of use: 16 problems and 4 steps that show that it runs).

    python -m bench.outcome_gsm8k runs/outcome_gsm8k --policy SmolLM2-135M-Instruct [--arm online] [--seed 0] [--quick]

Needs LEARNALIGN_DATA with gsm8k/train.jsonl and test.jsonl, and the policy as a checkpoint (`python -m bench.real`
makes one). AdamW on float32 weights; forward and backward are bfloat16 on a GPU. The last line is one JSON object with
all the runs that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from bench.measure import finish
from learnalign import files
from learnalign.config import PolicyConfig, RolloutConfig
from learnalign.gradient.groups import advantages
from learnalign.online import OnlineSelector
from learnalign.online.live import LivePolicy
from learnalign.online.pairs import Pairs
from learnalign.policy import Policy, load_policy, load_trainable
from learnalign.rewards import make_verifier
from learnalign.rollout.engine import Task, plan
from learnalign.rollout.transformers import LocalEngine

T = TypeVar("T")
ARMS = ("full", "random", "online")
MICRO_BATCH = 32
"""Sequences of one backward pass."""


@dataclass(frozen=True)
class Size:
    """How much is done."""

    tuned: int = 3737
    """Problems whose solutions are shown first; GRPO trains on the others."""
    tuning_epochs: int = 2
    pool: int = 3736
    picks: int = 374
    steps: int = 60
    batch: int = 16
    responses: int = 8
    tested: int = 1319
    samples: int = 4
    new_tokens: int = 256
    sequences: int = 1024
    """Sampled together."""


QUICK = Size(
    tuned=8, tuning_epochs=1, pool=16, picks=4, steps=4, batch=2, responses=4, tested=4, samples=2, new_tokens=24
)


class Problem(NamedTuple):
    """A problem of GSM8K; `solution` ends in `#### answer`."""

    question: str
    solution: str
    answer: str


def main() -> None:
    """Make the runs that are asked for and not there yet, then print all that are."""
    asked = _arguments()
    folder = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    size = QUICK if asked.quick else Size()
    start = fine_tuned(folder, asked.policy, size)
    for seed in [asked.seed] if asked.seed is not None else [0, 1]:
        for arm in [asked.arm] if asked.arm else ARMS:
            path = folder / f"{arm}-{seed}.json"
            if not path.exists():
                files.write_json(path, train(start, arm, seed, size))
    report(folder, size)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/outcome_gsm8k"))
    parser.add_argument("--policy", type=Path, required=True, help="SmolLM2-135M-Instruct as a checkpoint")
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


def problems(name: str) -> list[Problem]:
    """Of `train` or `test`."""
    path = Path(os.environ.get("LEARNALIGN_DATA") or "/nonexistent") / "gsm8k" / f"{name}.jsonl"
    if not path.is_file():
        sys.exit(f"bench/outcome_gsm8k.py: set LEARNALIGN_DATA to a folder with gsm8k/{name}.jsonl; nothing was run")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Problem(row["question"], row["answer"], row["answer"].rpartition("####")[2].strip()) for row in rows]


def fine_tuned(folder: Path, policy: Path, size: Size) -> Path:
    """The policy that every run begins with; made once."""
    target = folder / "tuned"
    if target.exists():
        return target
    torch.manual_seed(0)
    loaded = _trainable(policy)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=2e-5, weight_decay=0.0)
    shown = [p for _ in range(size.tuning_epochs) for p in problems("train")[: size.tuned]]
    loaded.model.train()
    started = time.monotonic()
    for step, batch in enumerate(_parts(shown, 16), 1):
        prompts = [loaded.encode(p.question, None) for p in batch]
        responses = [
            [*loaded.tokenizer(p.solution, add_special_tokens=False)["input_ids"], loaded.eos_ids[0]] for p in batch
        ]
        _backward(loaded, prompts, responses, [1.0 / sum(map(len, responses)) for _ in batch])
        _advance(loaded, optimizer)
        if step % 50 == 0:
            print(f"fine-tuning step {step} of {-(-len(shown) // 16)}, {time.monotonic() - started:.0f} s", flush=True)
    partial = target.with_suffix(".partial")
    model: Any = loaded.model
    model.save_pretrained(partial)
    loaded.tokenizer.save_pretrained(partial)
    partial.rename(target)
    return target


def train(start: Path, arm: str, seed: int, size: Size) -> dict[str, Any]:
    """GRPO on the pool, on-policy, one step a batch; accuracy before and after, tokens, seconds."""
    torch.manual_seed(seed)
    policy = _trainable(start)
    world = World(policy, problems("train")[size.tuned :][: size.pool], size)
    test = World(policy, problems("test")[: size.tested], size)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=5e-6, weight_decay=0.0)
    chooser = Chooser(arm, seed, world, size)
    before, started, mixed = test.accuracy(seed), time.monotonic(), []
    for step in range(size.steps):
        picks = chooser.batch(step)
        groups = world.sample(picks, size.responses, seed=1000 * seed + step)
        chooser.observe(picks, groups)
        mixed.append(float(np.mean([len(set(group.rewards)) > 1 for group in groups])))
        _step(policy, optimizer, world, picks, groups)
        if (step + 1) % 10 == 0:
            print(f"{arm} {seed}: step {step + 1} of {size.steps}, {time.monotonic() - started:.0f} s", flush=True)
    seconds = time.monotonic() - started
    return {
        "arm": arm,
        "seed": seed,
        "before": before,
        "after": test.accuracy(seed),
        "mixed": float(np.mean(mixed)),
        "sampled": size.steps * size.batch * size.responses,
        "sketched": chooser.sketched,
        "seconds": round(seconds, 1),
        "size": asdict(size),
    }


class Answers(NamedTuple):
    """The responses of one prompt."""

    responses: list[list[int]]
    rewards: list[float]


class World:
    """Problems, and what a policy answers."""

    def __init__(self, policy: Policy, given: Sequence[Problem], size: Size) -> None:
        self.policy, self.problems, self.size = policy, given, size
        self.prompts = [policy.encode(p.question, None) for p in given]
        self.judge = make_verifier("exact", workers=1, timeout_seconds=5, memory_mb=1024)

    def rewards(self, at: Sequence[int], texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> list[float]:
        """1 where the final answer is the problem's."""
        return [v.reward for v in self.judge.judge(texts, [self.problems[k].answer for k in at])]

    def sample(self, at: Sequence[int], responses: int, seed: int) -> list[Answers]:
        """`responses` of every problem, at temperature 1."""
        self.policy.model.eval()
        engine = LocalEngine(self.policy, self.rollout(seed))
        tasks = [Task(str(k), self.prompts[k], responses) for k in at]
        found: dict[int, Answers] = {}
        for batch in plan([len(t.tokens) for t in tasks], [responses] * len(tasks), self.size.sequences):
            made = engine.sample([tasks[i] for i in batch])
            rewards = self.rewards([int(r.prompt_id) for r in made], [r.text for r in made], [r.tokens for r in made])
            for place, k in enumerate(batch):
                own = slice(place * responses, (place + 1) * responses)
                found[k] = Answers([r.tokens for r in made[own]], rewards[own])
        return [found[k] for k in range(len(tasks))]

    def rollout(self, seed: int) -> RolloutConfig:
        """How responses are sampled."""
        return RolloutConfig(max_new_tokens=self.size.new_tokens, seed=seed, batch_sequences=self.size.sequences)

    def accuracy(self, seed: int) -> float:
        """Share of right answers over all problems and samples."""
        answers = self.sample(range(len(self.problems)), self.size.samples, seed=10_000 + seed)
        return float(np.mean([answer.rewards for answer in answers]))


class Chooser:
    """Which problems an arm trains on."""

    def __init__(self, arm: str, seed: int, world: World, size: Size) -> None:
        self.arm, self.world, self.size = arm, world, size
        self.rng = np.random.default_rng(seed)
        self.selector = OnlineSelector([str(k) for k in range(size.pool)], seed=seed)
        self.pairs, self.every = Pairs(), max(size.picks // size.batch, 1)
        self.sketched = 0
        self._left: list[int] = []
        self._picks = list(range(size.pool))
        if arm == "random":
            self._picks = self.rng.permutation(size.pool)[: size.picks].tolist()

    def batch(self, step: int) -> list[int]:
        """Problems of a step: the selector's next, or passes over the picks in random order."""
        if self.arm == "online":
            if step % self.every == 0:
                live = LivePolicy(self.world.policy.model, self.world.prompts, self.pairs)
                self.sketched += 2 * self.selector.measure(live)
                self.pairs.clear()
            return [int(k) for k in self.selector.next(self.size.batch)]
        while len(self._left) < self.size.batch:
            self._left += self.rng.permutation(self._picks).tolist()
        batch, self._left = self._left[: self.size.batch], self._left[self.size.batch :]
        return batch

    def observe(self, at: Sequence[int], groups: Sequence[Answers]) -> None:
        """What the training sampled, for nothing."""
        if self.arm == "online":
            rewards = [(str(k), reward) for k, group in zip(at, groups, strict=True) for reward in group.rewards]
            self.selector.observe([k for k, _ in rewards], [reward for _, reward in rewards])
            for k, group in zip(at, groups, strict=True):
                self.pairs.observe(k, group.responses, [reward >= 1.0 for reward in group.rewards])


def _parts(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (rows[first : first + size] for first in range(0, len(rows), size))


def _trainable(path: Path) -> Policy:
    config = PolicyConfig(model=str(path), dtype="float32")
    loaded = load_policy(config)
    return Policy(**{**vars(loaded), "model": load_trainable(config)})


def _step(
    policy: Policy, optimizer: torch.optim.Optimizer, world: World, picks: Sequence[int], groups: Sequence[Answers]
) -> None:
    """GRPO's loss at ratio 1, without a KL term: - (1 / (B G)) sum A (1 / |y|) sum_t log pi."""
    policy.model.train()
    count = sum(len(group.responses) for group in groups)
    rows = [
        (world.prompts[k], response, float(a) / (len(response) * count))
        for k, group in zip(picks, groups, strict=True)
        for response, a in zip(group.responses, advantages(group.rewards), strict=True)
        if a
    ]
    for part in _parts(sorted(rows, key=lambda row: len(row[0]) + len(row[1])), MICRO_BATCH):
        _backward(policy, [row[0] for row in part], [row[1] for row in part], [row[2] for row in part])
    if rows:
        _advance(policy, optimizer)


def _backward(
    policy: Policy, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], weights: Sequence[float]
) -> None:
    """Add the gradient of - sum_i weight_i sum_t log pi(response_it)."""
    rows = [torch.tensor([*p, *r]) for p, r in zip(prompts, responses, strict=True)]
    ids = pad_sequence(rows, batch_first=True, padding_value=policy.pad_id).to(policy.device)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True).to(policy.device)
    weight = torch.zeros(ids.shape)
    for k, (p, r) in enumerate(zip(prompts, responses, strict=True)):
        weight[k, len(p) : len(p) + len(r)] = weights[k]
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.device.type == "cuda"):
        model: Any = policy.model
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    found = logits.float().log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0]
    (-(found * weight[:, 1:].to(found.device)).sum()).backward()


def _advance(policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def report(folder: Path, size: Size) -> None:
    """All the runs that are there, and their means."""
    runs = list(_runs(folder, size))
    print(f"\n{'arm':<8}{'seeds':>6}{'before':>9}{'after':>9}{'mixed':>8}{'sketched/sampled':>20}{'seconds':>9}")
    for arm in ARMS:
        own = [run for run in runs if run["arm"] == arm]
        if own:
            mean = {key: statistics.fmean(run[key] for run in own) for key in ("before", "after", "mixed", "seconds")}
            cost = statistics.fmean(run["sketched"] / run["sampled"] for run in own)
            print(
                f"{arm:<8}{len(own):>6}{mean['before']:>9.4f}{mean['after']:>9.4f}{mean['mixed']:>8.2f}{cost:>20.2f}"
                f"{mean['seconds']:>9.0f}"
            )
    finish("outcome_gsm8k", {"runs": runs}, "torch", "transformers")


def _runs(folder: Path, size: Size) -> Iterator[dict[str, Any]]:
    """Results of this size."""
    for path in sorted(folder.glob("*-*.json")):
        run = json.loads(path.read_text())
        if run["size"] == asdict(size):
            yield run


if __name__ == "__main__":
    main()
