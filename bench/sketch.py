"""How far is a prompt's sketched gradient from the price of a plain training step, and from what others pay?

Floor: plain batched forward and backward with weight gradients, logits at response positions only. The same groups in
the same dtype then go through

    LESS-style     one response at a time, weight gradients, a dense random projection of them (LESS: to 8,192 numbers;
                   here to fewer, which the table says: the projection's cost is proportional)
    per module     every layer's gradient of every response projected to 16 x 16, head left out, logits whole (bergson's
                   layout, written here), and bergson itself where it is installed
    ours           exact fold and rank 128, each with the prompt in every response's row and shared; and rank 128,
                   shared, with as many prompts again that are always or never solved: those have no gradient and are
                   skipped, while the other layouts pay for them as for all

Before anything is timed, ours is compared with the float64 gradient of a small group, folded by the plain reference;
the yardstick is the error of the floor's own gradient. Rounds take turns; the fastest of each counts. Tokens are those
of prompt and response of every response, whoever computes them once. The share of the ceiling is that of the floor's
products (6 operations a weight and token, the head's at response tokens only; attention left out) at the rate that the
device was seen to multiply at (`bench.ceilings`).

    python -m bench.sketch [--quick] [--shape NAME] [--groups N] [--response-tokens A B]

Weights are random: speed does not depend on them. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from learnalign.kernels.fold import fold_matrices
from torch import Tensor, nn

from bench.ceilings import best_device, ceilings, device_name, seconds
from bench.measure import finish
from learnalign.config import SketchConfig
from learnalign.gradient import Group, Sketcher, weighted
from learnalign.gradient.batching import Batch, pack
from learnalign.gradient.head import whole_log_probabilities

DIMENSION = 8192
SEED = 0
RANK = 128
SIDE = 16
PROMPT_TOKENS = 120
LESS_DIMENSION = {"cpu": 32, "cuda": 512}
BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
TOLERANCE = 3.0
"""Allowed error over that of the floor's own gradient in the same dtype, both against float64."""
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "kind": "Llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {
        "kind": "Qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        "kind": "Qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "qwen2.5-7b": {
        "kind": "Qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
    "olmoe-1b-7b": {
        "kind": "Olmoe", "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16,
        "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
BARS = {
    "cpu": {"exact": 0.95, "rank 128": 1.15, "sharing": 1.6},
    "cuda": {"exact": 0.95, "rank 128": 1.25, "sharing": 1.6, "skipping over per module": 5.0},
}


SKIPPING = "the same, half settled"


@dataclass
class Way:
    """One way to spend a pass. groups: those it is given, since some ways are too slow for all of them."""

    run: Callable[[Sequence[Group]], object]
    groups: Sequence[Group]
    seconds: float = float("inf")
    peak_bytes: int = 0

    @property
    def tokens(self) -> int:
        """Of prompt and response of every response."""
        return sum(len(g.prompt) + len(y) for g in self.groups for y in g.responses)


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two layers, few words, one round: checks that it runs")
    parser.add_argument("--shape", choices=SHAPES, help="default: smollm2-135m on a CPU, qwen2.5-1.5b on a GPU")
    parser.add_argument("--groups", type=int, help="default: 1 on a CPU, 16 on a GPU")
    parser.add_argument("--response-tokens", type=int, nargs=2, default=(60, 120), metavar=("A", "B"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--skip-less", action="store_true", help="leave the slowest way out")
    asked = parser.parse_args()
    device = best_device()
    flops = ceilings(device, asked.quick).flops
    shape = asked.shape or ("qwen2.5-1.5b" if device == "cuda" else "smollm2-135m")
    model = random_model(shape, device, asked.quick)
    groups = random_groups(model, asked.groups or (16 if device == "cuda" else 1), asked.response_tokens)
    check(model, device)
    ways = all_ways(model, groups, device)
    if asked.skip_less:
        del ways["LESS-style"]
    for way in ways.values():
        measure_memory(way, device)
    for _ in range(1 if asked.quick else asked.rounds):
        for way in ways.values():
            measure_time(way, device)
    most = bounds(model, groups)
    show(ways, shape, device, asked.quick, least_seconds(model, ways["floor"].groups, flops), most)


def random_model(shape: str, device: str, quick: bool) -> Any:
    """The shape with random weights, bfloat16 on a GPU, float32 on a CPU."""
    settings = dict(SHAPES[shape])
    kind = settings.pop("kind")
    if quick:
        settings |= {"num_hidden_layers": 2, "vocab_size": 2000}
        settings |= (
            {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64} if "num_experts" in settings else {}
        )
    torch.manual_seed(SEED)
    with torch.device(device):  # a CPU takes long to draw billions of weights
        model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**settings))
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32).eval().requires_grad_(False)


def least_seconds(model: Any, groups: Sequence[Group], flops: float) -> float:
    """What the products of the floor take at the rate of the ceiling."""
    linear = {name: m.weight.numel() for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    head = linear.pop("lm_head")
    responses = sum(len(y) for g in groups for y in g.responses)
    tokens = responses + sum(len(g.prompt) * len(g.responses) for g in groups)
    return 6.0 * (sum(linear.values()) * tokens + head * responses) / flops


def bounds(model: Any, groups: Sequence[Group]) -> dict[str, float]:
    """What no implementation beats by much, from the products alone: 2 operations a weight and token of the forward
    pass, 2 of the backward pass, 2 of the weight gradients (of which rank 128 makes hardly any).

    Shared: a prompt's tokens once a group. Skipping: half of the prompts, against logits at every position.
    """
    linear = {name: m.weight.numel() for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    head = linear.pop("lm_head")
    layers = sum(linear.values())
    responses = sum(len(y) for g in groups for y in g.responses)
    prompts = sum(len(g.prompt) for g in groups)
    apart = layers * (responses + sum(len(g.prompt) * len(g.responses) for g in groups))
    shared = layers * (responses + prompts) + head * responses
    return {
        "exact": 1.0,
        "rank 128": 1.5,
        "sharing": (apart + head * responses) / shared,
        "skipping over per module": 2.0 * apart * (1 + head / layers) / shared,
    }


def random_groups(model: Any, count: int, response_tokens: Sequence[int], prompt: int = PROMPT_TOKENS) -> list[Group]:
    """8 responses each, half of them right, prompts of about `prompt` tokens."""
    rng = np.random.default_rng(SEED)
    vocabulary = model.config.vocab_size

    def some(length: int) -> list[int]:
        return [int(token) for token in rng.integers(0, vocabulary, length)]

    lengths = np.linspace(response_tokens[0], response_tokens[1], 8).astype(int)
    return [
        Group(some(prompt + int(rng.integers(-20, 21))), [some(n) for n in rng.permutation(lengths)], [0.0, 1.0] * 4)
        for _ in range(count)
    ]


def all_ways(model: Any, groups: list[Group], device: str) -> dict[str, Way]:
    """The floor first. Ours shares one model with it: weights are frozen by whoever needs them so."""
    apart = sketcher_of(model, share=False)
    few = [groups[i] for i in apart.batches(groups, BATCH_TOKENS[device])[0]]
    settled = [Group(group.prompt, group.responses, [1.0] * len(group.responses)) for group in groups]

    def batchwise(run: Callable[[Any, Batch], object]) -> Callable[[Sequence[Group]], object]:
        return lambda some: each(apart, some, partial(run, model))

    ways = {
        "floor": Way(batchwise(floor), few),
        "LESS-style": Way(partial(less_style, model, dimension=LESS_DIMENSION[device]), few[:1]),
        "per module 16 x 16": Way(batchwise(per_module), few),
        "exact": Way(partial(ours, apart), few),
        "exact, shared": Way(partial(ours, sketcher_of(model)), groups),
        "rank 128": Way(partial(ours, sketcher_of(model, RANK, share=False)), few),
        "rank 128, shared": Way(partial(ours, sketcher_of(model, RANK)), groups),
        SKIPPING: Way(partial(ours, sketcher_of(model, RANK)), [*groups, *settled]),
    }
    if importlib.util.find_spec("bergson"):
        ways["bergson"] = Way(batchwise(bergson), few)
    else:
        print("bergson is not installed: left out")
    return ways


def sketcher_of(model: Any, rank: int = 0, share: bool = True) -> Sketcher:
    return Sketcher(model, SketchConfig(dimension=DIMENSION, seed=SEED, rank=rank, share_prompts=share))


def each(sketcher: Sketcher, groups: Sequence[Group], run: Callable[[Batch], object]) -> None:
    """The batches of a sketcher, one after the other."""
    for chosen in sketcher.batches(groups, BATCH_TOKENS[sketcher.device.type]):
        run(pack([weighted(groups[i]) for i in chosen], 1, sketcher.device))


def ours(sketcher: Sketcher, groups: Sequence[Group]) -> None:
    """What the package does: prompts whose responses are all alike have no gradient and are never run."""
    groups = [group for group in groups if len(set(group.rewards)) > 1]
    for chosen in sketcher.batches(groups, BATCH_TOKENS[sketcher.device.type]):
        sketcher.sketch([groups[i] for i in chosen])


@contextmanager
def trainable(model: Any) -> Iterator[None]:
    """Weights with gradients, which are gone afterwards."""
    model.requires_grad_(True)
    try:
        yield
    finally:
        model.requires_grad_(False)
        model.zero_grad(set_to_none=True)


def floor(model: Any, batch: Batch) -> None:
    """Forward and backward with weight gradients, as one training step has them."""
    with trainable(model):
        torch.autograd.backward(loss(model, batch))


def loss(model: Any, batch: Batch) -> Tensor:
    """sum_t c_t log pi_t."""
    found = whole_log_probabilities(model, batch, 1.0)
    return (found * batch.coefficients.to(found.dtype)).sum()


def less_style(model: Any, groups: Sequence[Group], dimension: int) -> Tensor:
    """LESS (Xia et al., arXiv 2402.04333): batch size 1, and a Rademacher projection of the whole gradient."""
    rows = []
    for group in groups:
        part = weighted(group)
        with trainable(model):
            for k in range(len(part.responses)):
                torch.autograd.backward(loss(model, pack([part.part(slice(k, k + 1))], 1, model.device)))
            rows.append(dense_projection([p.grad for p in model.parameters()], dimension))
    return torch.stack(rows)


def dense_projection(gradients: Sequence[Tensor], dimension: int, chunk: int = 1 << 20) -> Tensor:
    """The sum over all entries of entry times a row of random signs, made again for every prompt as LESS does."""
    device = gradients[0].device
    generator = torch.Generator(device).manual_seed(SEED)
    total = torch.zeros(dimension, device=device)
    for gradient in gradients:
        for some in torch.split(gradient.flatten(), chunk):
            bits = torch.randint(0, 2, (len(some), dimension), dtype=torch.int8, device=device, generator=generator)
            total += (some @ bits.to(some.dtype).mul_(2).sub_(1)).float()
    return total


def per_module(model: Any, batch: Batch) -> Tensor:
    """Every layer but the head, [responses, layers * 16 * 16]; logits of all positions, as bergson makes them."""
    rows: list[Tensor] = []
    handles = []
    for k, layer in enumerate(m for n, m in model.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in n):

        def hook(module: Any, inputs: Any, output: Tensor, k: int = k) -> None:
            left, right = factors(module, k)
            kept = inputs[0].detach() @ right

            def fold(delta: Tensor) -> None:
                rows.append(torch.einsum("rta,rtb->rab", delta @ left, kept).flatten(1))

            output.register_hook(fold)  # type: ignore[no-untyped-call]

        handles.append(layer.register_forward_hook(hook))
    handles.append(model.get_input_embeddings().register_forward_hook(lambda m, i, o: o.requires_grad_(True)))
    try:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        log_p = logits.flatten(0, 1).log_softmax(-1)[batch.predictors, batch.targets]
        torch.autograd.backward((log_p * batch.coefficients.to(log_p.dtype)).sum())
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(rows, 1)


FACTORS: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}


def factors(module: Any, k: int) -> tuple[Tensor, Tensor]:
    """Projections of one layer's outputs and inputs to 16 numbers, made once."""
    key = (id(module), k)
    if key not in FACTORS:
        generator = torch.Generator().manual_seed(k)
        sides = [torch.randn(width, SIDE, generator=generator) / SIDE**0.5 for width in module.weight.shape]
        FACTORS[key] = (sides[0].to(module.weight), sides[1].to(module.weight))
    return FACTORS[key]


def bergson(model: Any, batch: Batch) -> None:
    """bergson's own collector around its kind of pass: all logits, one row a response."""
    from bergson import GradientCollector, GradientProcessor, IndexConfig
    from datasets import Dataset

    model.get_input_embeddings().requires_grad_(True)  # as bergson does, so that gradients reach every layer
    with tempfile.TemporaryDirectory() as folder:
        collector = GradientCollector(
            model=model.base_model,
            cfg=IndexConfig(run_path=str(Path(folder) / "index"), projection_dim=SIDE),
            data=Dataset.from_dict({"input_ids": batch.input_ids.tolist()}),
            processor=GradientProcessor(projection_dim=SIDE),
            skip_index=True,
        )
        collector.save_index = False
        collector.teardown = lambda: None  # which would save the data set
        with collector:
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
            log_p = logits.flatten(0, 1).log_softmax(-1)[batch.predictors, batch.targets]
            torch.autograd.backward((log_p * batch.coefficients.to(log_p.dtype)).sum())
        if len(collector.mod_grads) != len(collector.target_info):
            raise SystemExit("bench/sketch.py: bergson did not see every layer")
    model.requires_grad_(False)
    model.zero_grad(set_to_none=True)


def check(model: Any, device: str) -> None:
    """Ours against the float64 gradient of a small group; exits where it is too far off."""
    groups = random_groups(model, 1, (5, 15), prompt=30)
    batch = pack([weighted(groups[0])], 1, device)
    wide = copy.deepcopy(model).double()
    for rank in (0, RANK):
        hooks = sketcher_of(model, rank).hooks
        truth, plain = (fold_gradients(some, batch, hooks) for some in (wide, model))
        yardstick = ((plain - truth).norm() / truth.norm()).item()
        for share in (True, False):
            phi = torch.from_numpy(sketcher_of(model, rank, share).sketch(groups)[0]).to(truth)
            error = ((phi - truth).norm() / truth.norm()).item()
            print(f"rank {rank}, shared {share}: error {error:.1e}; of the floor's own gradient {yardstick:.1e}")
            if not error <= TOLERANCE * yardstick:
                raise SystemExit("bench/sketch.py: ours is too far from the float64 gradient: nothing was timed")
    del wide
    gc.collect()


def fold_gradients(model: Any, batch: Batch, hooks: Any) -> Tensor:
    """The fold, in float64, of the (projected) weight gradients that autograd makes."""
    phi = torch.zeros(1, DIMENSION, dtype=torch.float64, device=batch.input_ids.device)
    layers = dict(model.named_modules())
    with trainable(model), embedding_cut(model):
        torch.autograd.backward(loss(model, batch))
        for name in (layer.name for layer in hooks.layers):
            gradient = layers[name].weight.grad.double()
            if hooks.rank is not None:
                for side, axis in (("out", 0), ("in", 1)):
                    width = gradient.shape[axis]
                    if width > hooks.rank:
                        signs = hooks.projection(name, side, width, gradient[:0]).sign() / hooks.rank**0.5
                        gradient = signs.T @ gradient if axis == 0 else gradient @ signs
            fold_matrices(phi, gradient[None].contiguous(), layer=hooks.keys[name], seed=SEED)
    hooks.projections.clear()
    return phi[0]


@contextmanager
def embedding_cut(model: Any) -> Iterator[None]:
    """A tied head's gradient without the table's: the table's output is a start of its own."""
    handle = model.get_input_embeddings().register_forward_hook(lambda m, i, o: o.detach().requires_grad_(True))
    try:
        yield
    finally:
        handle.remove()


def measure_memory(way: Way, device: str) -> None:
    """One run that is not timed: the highest memory beyond what was there before. It warms up, too."""
    way.peak_bytes = extra_bytes(lambda: way.run(way.groups), device)


def extra_bytes(run: Callable[[], object], device: str) -> int:
    """The highest memory of one run beyond what was there before."""
    gc.collect()
    before = reset_peak(device)
    run()
    return peak(device) - before


def measure_time(way: Way, device: str) -> None:
    """One run on warm memory."""
    gc.collect()
    way.seconds = min(way.seconds, seconds(lambda: way.run(way.groups), device))


def reset_peak(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier ways have freed
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of resident memory starts anew
    return status_bytes("VmRSS")


def peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else status_bytes("VmHWM")


def status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def show(ways: dict[str, Way], shape: str, device: str, quick: bool, least: float, most: dict[str, float]) -> None:
    """The table, the bars, and the last line.

    least: seconds of the floor's products at the rate of the ceiling. most: what the products allow of each figure; a
    bar above that is no bar.
    """
    base = ways["floor"]
    where = device_name(device)
    print(f"\n{shape}, {where}, batches of at most {BATCH_TOKENS[device]:,} tokens")
    print(f"the floor's products at the ceiling's rate: {base.tokens / least:,.0f} tokens/s; "
          f"it reaches {least / base.seconds:.2f} of that")  # fmt: skip
    print(f"{'way':<22}{'tokens/s':>10}{'over floor':>12}{'prompts/s':>11}{'GiB above the weights':>23}")
    rows = {}
    for name, way in ways.items():
        speed = way.tokens / way.seconds
        rows[name] = {
            "tokens_per_second": round(speed, 1),
            "over_floor": round(speed / (base.tokens / base.seconds), 3),
            "prompts_per_second": round(len(way.groups) / way.seconds, 4),
            "peak_gib": round(way.peak_bytes / 2**30, 2),
        }
        note = f"  (projected to {LESS_DIMENSION[device]} numbers, not 8,192)" if name == "LESS-style" else ""
        print(f"{name:<22}{speed:>10,.0f}{rows[name]['over_floor']:>12.2f}{rows[name]['prompts_per_second']:>11.3f}"
              f"{rows[name]['peak_gib']:>23.2f}{note}")  # fmt: skip
    found = {
        "exact": rows["exact"]["over_floor"],
        "rank 128": rows["rank 128"]["over_floor"],
        "sharing": rows["exact, shared"]["prompts_per_second"] / rows["exact"]["prompts_per_second"],
        "skipping over per module": rows[SKIPPING]["prompts_per_second"]
        / rows["per module 16 x 16"]["prompts_per_second"],
    }
    bars = {name: bar for name, bar in BARS[device].items() if bar <= most[name]}
    met = None if quick else {name: found[name] >= bar for name, bar in bars.items()}
    print(f"{'':<26}{'found':>8}{'bar':>8}{'products allow':>16}")
    for name, bar in BARS[device].items():
        print(f"{name:<26}{found[name]:>8.2f}{bar:>8.2f}{most[name]:>16.2f}" + "  (no bar here)" * (name not in bars))
    figures = {name: round(value, 3) for name, value in found.items()}
    result = {"shape": shape, "device": where, "quick": quick, "ways": rows, "figures": figures}
    result |= {
        "floor_of_ceiling": round(least / base.seconds, 3),
        "products_allow": {name: round(value, 3) for name, value in most.items()},
    }
    summary = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
    finish("sketch", {**result, "bars_met": met, "summary": summary}, "torch", "transformers", "bergson")


if __name__ == "__main__":
    main()
