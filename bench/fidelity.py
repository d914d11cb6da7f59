"""How much of a prompt's gradient survives in its sketch, measured against exact full gradients.

Question: how far are cosines between prompts, scores and picks from what exact gradients give? The policy is
SmolLM2-135M-Instruct (see bench/real.py), the prompts are sums of two numbers of which it solved some of its own
8 rollouts at temperature 0.7, the truth is the Gram matrix of their exact gradients over all 134.5 M linear
weights, in float32 products. Every sketch is made of the same inputs and output gradients by the package's own
code. Layers are taken in blocks that fit into memory, each with passes of its own.

    python -m bench.fidelity runs/fidelity            64 prompts, 10 to 30 minutes on two cores
    python -m bench.fidelity runs/fidelity --quick    8 prompts, 4 layers and the head: checks that it runs

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.real import smollm2
from learnalign.config import PolicyConfig, RolloutConfig, SketchConfig
from learnalign.gradient import Group, Sketcher
from learnalign.gradient.hooks import Hooks
from learnalign.gradient.layers import Layer
from learnalign.policy import Policy, load_policy
from learnalign.rewards import make_verifier
from learnalign.rollout.engine import Task
from learnalign.rollout.transformers import LocalEngine

DIMENSIONS = (8192, 4096, 1024)
RANKS = (64, 128, 256)
SIDE = 16
"""bergson projects the gradient of every module to 16 x 16 and keeps the modules side by side."""
TEMPERATURE = 0.7
SEED = 0
BLOCK_BYTES = 6 << 30
BAND = 1 << 21
"""Weights of which all prompts' gradients are held at once."""
BARS = {"exact": 0.018, "rank 128": 0.023}
"""On the RMSE of cosines at d = 4,096."""


@dataclass
class Recorder(Hooks):
    """Keeps inputs and output gradients instead of folding them."""

    kept: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def fold(
        self, phi: Tensor, matrix: str, delta: Tensor, kept: Tensor, columns: int, offsets: Any, scale: float = 1.0
    ) -> None:
        """Only positions where something flows back contribute."""
        used = delta.abs().amax(1) > 0
        self.kept.setdefault(matrix, []).append((delta[used], kept[used]))


class Variants:
    """All sketches of all prompts, and the exact Gram matrices, filled matrix by matrix."""

    def __init__(self, hooks: Hooks, prompts: int) -> None:
        ranks: list[int | None] = [None, *RANKS]
        self.hooks = {rank: replace(hooks, rank=rank, projections={}) for rank in ranks}
        self.phi = {rank: torch.zeros(prompts, DIMENSIONS[0]) for rank in ranks}
        self.side = replace(hooks, rank=SIDE, projections={})
        self.modules: list[Tensor] = []
        self.gram = {name: torch.zeros(prompts, prompts, dtype=torch.float64) for name in ("all", "head")}

    def add(self, layer: str, is_head: bool, products: list[tuple[Tensor, Tensor]]) -> None:
        """One weight matrix: (output gradients, inputs) of every prompt."""
        delta, x = torch.cat([d for d, _ in products]), torch.cat([x for _, x in products])
        offsets = np.cumsum([0, *(len(d) for d, _ in products)]).tolist()
        gram = exact_gram(products)
        self.gram["all"] += gram
        if is_head:
            self.gram["head"] += gram
        else:
            left = delta @ self.side.projection(layer, "out", delta.shape[1], delta)
            right = x @ self.side.projection(layer, "in", x.shape[1], x)
            pairs = pairwise(offsets)
            self.modules.append(torch.stack([(left[a:b].T @ right[a:b]).flatten() for a, b in pairs]))
        for rank, hooks in self.hooks.items():
            hooks.fold(self.phi[rank], layer, delta, hooks.keep(layer, x), x.shape[1], offsets)
            hooks.projections.clear()


def exact_gram(products: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Inner products of all prompts' gradients of one matrix, [prompts, prompts] float64, over bands of its rows."""
    delta, x = products[0]
    height = max(1, BAND // x.shape[1])
    total = torch.zeros(len(products), len(products), dtype=torch.float64)
    for first in range(0, delta.shape[1], height):
        rows = torch.stack([(d[:, first : first + height].T @ x).flatten() for d, x in products])
        total += (rows @ rows.T).double()
    return total


def main() -> None:
    """Sample, differentiate, sketch, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/fidelity"))
    parser.add_argument("--quick", action="store_true", help="8 prompts, 4 layers and the head: checks that it runs")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    policy = load_policy(PolicyConfig(model=str(smollm2(options.folder)), dtype="float32"))
    groups = learnable_groups(policy, options.folder, 8 if options.quick else 64)
    sketcher = Sketcher(policy.model, SketchConfig(dimension=DIMENSIONS[0], seed=SEED), temperature=TEMPERATURE)
    chosen = sketcher.hooks.layers[-5:] if options.quick else sketcher.hooks.layers
    found = Variants(sketcher.hooks, len(groups))
    tokens = sum(sketcher.costs.padded([group]) for group in groups)
    for block in blocks(chosen, tokens):
        recorder = Recorder(block, sketcher.hooks.head, sketcher.hooks.keys, SEED)
        full, sketcher.hooks = sketcher.hooks, recorder
        for group in groups:
            sketcher.sketch([group])
        sketcher.hooks = full
        for layer in block:
            found.add(layer.name, layer.module is full.head, recorder.kept.pop(layer.name))
        print(f"{time.monotonic() - started:6.0f} s  {block[0].name} ... {block[-1].name}", flush=True)
    one = Sketcher(
        policy.model,
        SketchConfig(dimension=DIMENSIONS[0], seed=SEED, responses_used="one_correct"),
        temperature=TEMPERATURE,
    )
    one.hooks = replace(one.hooks, layers=chosen)
    single = torch.cat([torch.from_numpy(one.sketch([group])) for group in groups])
    if not options.quick:
        agree(sketcher, groups[0], found.phi[None][0])
    table = compare(found, single, groups)
    show(table, groups)
    print(json.dumps(summary(table, groups, options.quick, time.monotonic() - started)))


def learnable_groups(policy: Policy, folder: Path, count: int) -> list[Group]:
    """The first `count` sums of which the policy solves some and not all; kept in the folder for the next time."""
    file = folder / f"groups-{count}.json"
    if file.exists():
        return [Group(**group) for group in json.loads(file.read_text())]
    rng = np.random.default_rng(SEED)
    groups: list[Group] = []
    settings = RolloutConfig(temperature=TEMPERATURE, max_new_tokens=32, seed=SEED)
    with make_verifier("math", workers=1, timeout_seconds=5, memory_mb=2048) as judge:
        for trial in range(40):
            pairs = rng.integers(1, 30, (16, 2)).tolist()
            prompts = [policy.encode(f"What is {a} + {b}?", None) for a, b in pairs]
            tasks = [Task(f"{trial}/{k}", tokens, settings.responses) for k, tokens in enumerate(prompts)]
            responses = LocalEngine(policy, settings).sample(tasks)
            answers = [str(a + b) for a, b in pairs for _ in range(settings.responses)]
            correct = [verdict.correct for verdict in judge.judge([r.text for r in responses], answers)]
            for k, task in enumerate(tasks):
                mine = slice(k * settings.responses, (k + 1) * settings.responses)
                rewards = [float(c) for c in correct[mine]]
                if 0 < sum(rewards) < settings.responses:
                    groups.append(Group(task.tokens, [r.tokens for r in responses[mine]], rewards))
            print(f"{len(groups)} of {count} prompts after {16 * (trial + 1)}", flush=True)
            if len(groups) >= count:
                rows = [{"prompt": g.prompt, "responses": g.responses, "rewards": g.rewards} for g in groups[:count]]
                file.write_text(json.dumps(rows))
                return groups[:count]
    sys.exit(f"bench/fidelity.py: only {len(groups)} of {count} prompts were solved sometimes; nothing was measured")


def blocks(layers: list[Layer] | Any, total_tokens: int) -> Iterator[list[Layer]]:
    """Consecutive layers whose inputs and output gradients fit into `BLOCK_BYTES`, one layer at least."""
    block: list[Layer] = []
    taken = 0
    for layer in layers:
        need = 4 * total_tokens * sum(layer.module.weight.shape)
        if block and taken + need > BLOCK_BYTES:
            yield block
            block, taken = [], 0
        block.append(layer)
        taken += need
    yield block


def agree(sketcher: Sketcher, group: Group, phi: Tensor) -> None:
    """The sketcher itself gives the row that was put together here, whatever way it shares prompts."""
    own = torch.from_numpy(sketcher.sketch([group])[0])
    error = ((own - phi).norm() / phi.norm()).item()
    if error > 1e-3:
        sys.exit(f"bench/fidelity.py: the sketcher's row differs by {error:.1e} from the one measured")


def cosines(gram: Tensor) -> np.ndarray:
    length = gram.diagonal().sqrt()
    result: np.ndarray = (gram / length[:, None] / length[None]).numpy()
    return result


def compare(found: Variants, single: Tensor, groups: list[Group]) -> list[dict[str, Any]]:
    """One row a variant. A fold to fewer buckets is the fold to more of them, added up."""
    grams: list[tuple[str, int, Tensor]] = []
    for rank, phi in found.phi.items():
        for d in DIMENSIONS:
            folded = phi.double().view(len(groups), -1, d).sum(1)
            grams.append((f"rank {rank}" if rank else "exact", d, folded @ folded.T))
    side = torch.cat(found.modules, 1).double()
    grams.append(("per module 16 x 16", side.shape[1], side @ side.T))
    grams.append(("head only, exact", 0, found.gram["head"]))
    one = single.double()
    grams.append(("one correct response, exact", DIMENSIONS[0], one @ one.T))
    truth = cosines(found.gram["all"])
    return [{"sketch": name, "numbers": d, **errors(cosines(gram), truth, groups)} for name, d, gram in grams]


def errors(cosine: np.ndarray, truth: np.ndarray, groups: list[Group]) -> dict[str, float]:
    """RMSE over pairs of prompts; rank correlation of scores, also with V = 1; shared part of the top quarter."""
    p = np.array([np.mean(group.rewards) for group in groups])
    v = p * (1 - p)
    pairs = np.triu_indices(len(p), 1)

    def scores(cosine: np.ndarray, v: np.ndarray) -> np.ndarray:
        score: np.ndarray = v * (cosine @ v) / len(v)
        return score

    ours, right = scores(cosine, v), scores(truth, v)
    ones, quarter = np.ones_like(v), max(1, len(p) // 4)
    top = set(np.argsort(-ours)[:quarter]) & set(np.argsort(-right)[:quarter])
    return {
        "rmse": float(np.sqrt(np.mean((cosine - truth)[pairs] ** 2))),
        "spearman": spearman(ours, right),
        "spearman_v1": spearman(scores(cosine, ones), scores(truth, ones)),
        "top_quarter": len(top) / quarter,
    }


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; scores of real prompts do not tie."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def show(table: list[dict[str, Any]], groups: list[Group]) -> None:
    print(f"\n{len(groups)} prompts, {platform.processor() or platform.machine()}, torch {torch.__version__}")
    print("| sketch | numbers per prompt | RMSE of cosine | Spearman of scores | with V = 1 | top quarter |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in table:
        figures = [f"{row[name]:.3f}" for name in ("rmse", "spearman", "spearman_v1", "top_quarter")]
        print(f"| {row['sketch']} | {row['numbers'] or '-'} | {' | '.join(figures)} |")


def summary(table: list[dict[str, Any]], groups: list[Group], quick: bool, seconds: float) -> dict[str, Any]:
    """All figures, and whether the bars were met."""
    at = {row["sketch"]: row["rmse"] for row in table if row["numbers"] == 4096}
    met = None if quick else {name: at[name] <= bar for name, bar in BARS.items()}  # they are for whole gradients
    return {"prompts": len(groups), "quick": quick, "bars_met": met, "seconds": round(seconds), "table": table}


if __name__ == "__main__":
    main()
