"""Every causal language model of the installed transformers, built small: exact, covered in part, or refused?

For each family a model of a few thousand weights is made from its configuration, and its sketches are held against
the fold of autograd's own gradients: one response at a time, no padding, float64. The grid: float64 with prompts not
shared, shared wherever possible, and as chosen by default; rows that are packed longer than the position buffer;
windows cut to 8; two groups of different lengths together; LoRA adapters in both spaces; bfloat16, where the
yardstick is autograd's own error in bfloat16. The verdicts:

    exact         every matrix that takes part is sketched, and every row of the grid agrees
    in part       what is sketched agrees; the share of the squared gradient that matrices left out is given
    refused       one line says why, in every row of the grid or in the one that is named
    not built     this script's small configuration does not fit the family: it says nothing about the package
    WRONG, CRASH  a fault of the package

One process; a family's verdict is appended to FOLDER/verdicts.jsonl, and what is there is not done again.

    python -m bench.architectures [FOLDER] [--only FAMILY ...] [--wrappers] [--quick] [--probe]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import signal
import subprocess
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from learnalign.kernels.fold import fold_matrices
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.families import build, families, windows_of, with_adapters
from learnalign.config import SketchConfig
from learnalign.errors import LearnAlignError
from learnalign.gradient import Group, Sketcher
from learnalign.gradient.forward import takes
from learnalign.gradient.hooks import Hooks
from learnalign.gradient.layers import Layer
from learnalign.gradient.lent import lent

D, SEED = 1024, 5
ROUNDING = 1e-9
"""Of float64 sketches, relative."""
HALF = (2.0, 0.03)
"""A bfloat16 sketch may be so many times, plus so much, as far off as autograd's own gradient in bfloat16."""
SECONDS = 300
"""For one family."""
SHORT = [(3, [4, 6, 1]), (7, [2, 5])]
LONG = [(20, [18, 16, 15]), (5, [9, 4])]
"""Groups: tokens of the prompt, and of every response."""
Rows = dict[str, float]
"""Relative errors, by row of the grid."""


class Widened(TorchFunctionMode):
    """Float64 throughout: models cast norms, rotations and softmax to float32 whatever their weights are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def double(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*map(double, args), **{name: double(value) for name, value in (kwargs or {}).items()})


def groups_of(lengths: list[tuple[int, list[int]]], seed: int = 0) -> list[Group]:
    """Groups with prompts and responses of so many tokens."""
    rng = np.random.default_rng(seed)

    def some(length: int) -> list[int]:
        return [int(t) for t in rng.integers(2, 56, length)]

    return [Group(some(p), [some(n) for n in ns], [1.0, *([0.0] * (len(ns) - 1))]) for p, ns in lengths]


@dataclasses.dataclass
class Seeing(Hooks):
    """Remembers which part of which weight every matrix is."""

    seen: dict[str, tuple[Any, Tensor]] = dataclasses.field(default_factory=dict)

    def _tap(self, layer: Layer, matrix: str, view: Tensor, *rest: Any) -> Any:
        self.seen[matrix] = (layer.parameter, view.detach())
        return super()._tap(layer, matrix, view, *rest)


def truths_of(sketcher: Sketcher, groups: list[Group]) -> Tensor:
    """The fold [groups, D] of autograd's gradients of what the sketcher covers."""
    hooks = sketcher.hooks
    gradients = [gradients_of(sketcher, group) for group in groups]
    phi = torch.zeros(len(groups), D, dtype=torch.float64)
    with torch._C.DisableTorchFunction():
        for name in dict.fromkeys(name for own in gradients for name in own):
            some = next(own[name] for own in gradients if name in own)
            stack = torch.stack([own.get(name, torch.zeros_like(some)) for own in gradients])
            fold_matrices(phi, stack, layer=hooks.key(name), seed=SEED)
    return phi


def gradients_of(sketcher: Sketcher, group: Group) -> dict[str, Tensor]:
    """Autograd's gradients of every matrix of the sketcher's, float64, response by response, without padding."""
    model, hooks = sketcher.model, sketcher.hooks
    rewards = np.array(group.rewards)
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4) / len(rewards)
    weights = list({id(layer.parameter): layer.parameter for layer in hooks.layers}.values())
    handle = model.get_input_embeddings().register_forward_hook(lambda m, i, o: o.detach().requires_grad_().clone())
    try:
        with lent(model):
            for weight in weights:
                weight.requires_grad_(True)
            for response, advantage in zip(group.responses, advantages, strict=True):
                ids = torch.tensor([[*group.prompt, *response]])
                logits = logits_of(model, ids)[0, len(group.prompt) - 1 : -1]
                wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
                log_p = logits.to(wide).log_softmax(-1).gather(1, ids[0, len(group.prompt) :, None])
                (log_p.sum() * advantage / len(response)).backward()
            return _matrices(hooks)
    finally:
        handle.remove()


def logits_of(model: Any, ids: Tensor) -> Tensor:
    """The model's own, without a cache."""
    more = {"use_cache": False} if takes(model, "use_cache") else {}
    logits: Tensor = model(input_ids=ids, **more).logits
    return logits


def _matrices(hooks: Any) -> dict[str, Tensor]:
    """The gradients by the names of the matrices; weights that are shared under the first of their names."""
    found: dict[int, tuple[str, Tensor]] = {}
    plain = {layer.name for layer in hooks.layers if layer.kind in ("linear", "autograd")}
    for name, (weight, view) in hooks.seen.items():
        if weight.grad is not None and name not in plain:
            gradient = torch.empty_like(weight).copy_(weight.grad)
            matrix = gradient.as_strided(view.shape, view.stride(), view.storage_offset() - weight.storage_offset())
            found.setdefault(hooks.key(name), (name, matrix))
    for layer in hooks.layers:
        if layer.name in plain and layer.parameter.grad is not None:
            for name, matrix in zip(layer.matrices, layer.stack(layer.parameter.grad), strict=True):
                found.setdefault(hooks.key(name), (name, matrix))
    return {name: matrix.double().contiguous() for name, matrix in found.values()}


def sketcher_of(model: Any, **options: Any) -> Sketcher:
    """One that remembers what its matrices are."""
    sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED, **options))
    own = {field.name: getattr(sketcher.hooks, field.name) for field in dataclasses.fields(Hooks)}
    sketcher.hooks = Seeing(**own)
    return sketcher


def error_of(sketcher: Sketcher, lengths: list[tuple[int, list[int]]] = SHORT, truths: Tensor | None = None) -> float:
    """The largest relative error of a group's sketch. truths: [groups, D] where they are known."""
    groups = groups_of(lengths)
    found = torch.from_numpy(sketcher.sketch(groups)).double()
    return _relative(found, truths_of(sketcher, groups) if truths is None else truths)


def _relative(found: Tensor, truth: Tensor) -> float:
    return float(((found - truth).norm(dim=1) / truth.norm(dim=1)).max())


def plain_rows(model: Any) -> tuple[Rows, dict[str, Any]]:
    """The rows of the model itself in float64, and what its sketcher says about it."""
    separate, default = sketcher_of(model, share_prompts=False), sketcher_of(model)
    facts = facts_of(default)
    if separate.hooks.layers != default.hooks.layers:
        raise AssertionError("what is sketched depends on sharing")
    found = torch.from_numpy(separate.sketch(groups_of(SHORT))).double()
    truths = truths_of(separate, groups_of(SHORT))
    rows = {"not shared": _relative(found, truths), "default": error_of(default, truths=truths)}
    default.costs = dataclasses.replace(default.costs, token=1.0, pair=0.0)
    return rows | {"shared": error_of(default, truths=truths), "long packed rows": error_of(default, LONG)}, facts


def windowed_row(family: str) -> Rows:
    """Windows of 8 where the family has any; shared wherever possible."""
    windows = windows_of(family, 8)
    if not windows:
        return {}
    sketcher = sketcher_of(build(family, settings=windows))
    sketcher.costs = dataclasses.replace(sketcher.costs, token=1.0, pair=0.0)
    return {"windows of 8": error_of(sketcher, LONG)}


def adapter_rows(family: str) -> Rows:
    """LoRA in both spaces."""
    model = with_adapters(family)
    return {f"LoRA, {space}": error_of(sketcher_of(model, space=space)) for space in ("full", "lora")}


def half_row(family: str) -> Rows:
    """What a bfloat16 sketch is off beyond what it may be; 0 or less is fine."""
    groups = groups_of(SHORT)
    sketcher = sketcher_of(build(family, torch.bfloat16))
    found = torch.from_numpy(sketcher.sketch(groups)).double()
    plain = truths_of(sketcher, groups)
    with Widened():
        exact = sketcher_of(build(family, torch.bfloat16).double(), share_prompts=False)
        names = {layer.name for layer in sketcher.hooks.layers}
        exact.hooks = dataclasses.replace(exact.hooks, layers=[y for y in exact.hooks.layers if y.name in names])
        exact.sketch(groups)
        truth = truths_of(exact, groups)
    times, plus = HALF
    return {"bfloat16": _relative(found, truth) - times * _relative(plain, truth) - plus}


class OutOfTime(BaseException):
    """No `Exception`, or whatever is being measured would take it for one of its own."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """`OutOfTime` after so many seconds."""

    def stop(*_: object) -> None:
        raise OutOfTime(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict_of(family: str, quick: bool = False) -> dict[str, Any]:
    """One family's line of the table."""
    started = time.monotonic()
    try:
        with limited(SECONDS):
            model = build(family)
            ids = torch.tensor([[3, 4, 5, 6]])
            with torch.no_grad(), lent(model), Widened():
                finite = bool(torch.isfinite(logits_of(model, ids)).all())
            if not finite:
                raise ValueError("logits are not finite")
    except (Exception, OutOfTime) as error:
        return {"family": family, "verdict": "not built", "why": _line(error), "seconds": time.monotonic() - started}
    errors: Rows = {}
    refused: dict[str, str] = {}
    facts: dict[str, Any] = {}
    rows = {"float64": windowed_row} if quick else {"float64": windowed_row, "LoRA": adapter_rows, "bfloat16": half_row}
    try:
        with limited(SECONDS):
            try:
                with Widened():
                    errors, facts = plain_rows(model)
            except LearnAlignError as error:
                refused["all"] = _line(error)
            for name, row in {} if refused else rows.items():
                try:
                    with Widened() if name != "bfloat16" else nullcontext():
                        errors |= row(family)
                except LearnAlignError as error:
                    refused[name] = _line(error)
    except (Exception, OutOfTime) as error:
        return {"family": family, "verdict": "CRASH", "why": _line(error), "trace": traceback.format_exc()[-1500:]}
    wrong = {k: v for k, v in errors.items() if not v <= (0.0 if k == "bfloat16" else ROUNDING)}
    verdict = "WRONG" if wrong else "exact" if errors else "refused"
    if verdict == "exact" and facts.get("left_out"):
        verdict = "in part"
    seconds = round(time.monotonic() - started, 1)
    return {"family": family, "verdict": verdict, "errors": errors, "refused": refused, **facts, "seconds": seconds}


def facts_of(sketcher: Sketcher) -> dict[str, Any]:
    """What a sketcher says about its model."""
    model = sketcher.model
    sizes = {name: p.ndim for name, p in model.named_parameters()}
    table = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    named = {name: id(p) for name, p in model.named_parameters()}
    matrices = {
        name: share
        for name, share in sketcher.shares.items()
        if sizes.get(name, 0) >= 2 and named[name] not in table and not name.endswith("bias")
    }
    left = sum(share for name, share in matrices.items() if name in sketcher.coverage.missing)
    return {
        "alone": sketcher.alone,
        "unshared": sketcher.unshared,
        "autograd": sum(layer.kind == "autograd" for layer in sketcher.hooks.layers),
        "left_out": float(f"{left / (sum(matrices.values()) or 1.0):.3g}"),
    }


def probe_seconds() -> float:
    """Processor time of taking up a float32 model of SmolLM2-135M's shape with one thread."""
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **heads))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.process_time()
    Sketcher(model)
    torch.set_num_threads(before)
    return time.process_time() - started


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


def main() -> None:
    """Go through the families that have no verdict yet; print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--only", nargs="*", default=[], help="these families, done again")
    parser.add_argument("--wrappers", action="store_true", help="vision-language wrappers too, with text alone")
    parser.add_argument("--quick", action="store_true", help="without LoRA and bfloat16")
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop after so many; the next call goes on")
    parser.add_argument("--probe", action="store_true", help="time the probe on a model of SmolLM2-135M's shape")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / "verdicts.jsonl"
    done = {v["family"]: v for v in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    started, commit = time.monotonic(), commit_of()
    for family in options.only or [f for f in families(options.wrappers) if f not in done]:
        if time.monotonic() - started > options.seconds:
            print("time is up: call again to go on")
            break
        done[family] = {**verdict_of(family, options.quick), "quick": options.quick, "commit": commit}
        with file.open("a") as lines:
            lines.write(json.dumps(done[family]) + "\n")
        show(done[family])
    seconds = probe_seconds() if options.probe else None
    if seconds is not None:
        print(f"probing a model of SmolLM2-135M's shape: {seconds:.1f} s of one core")
    counts = Counter(v["verdict"] for v in done.values())
    print(
        json.dumps({"transformers": transformers.__version__, "torch": torch.__version__, "probe_s": seconds, **counts})
    )


def commit_of() -> str:
    """Of the code that runs, with a + where files differ from it; empty outside of a repository."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def show(verdict: dict[str, Any]) -> None:
    """One line of the table."""
    worst = max((e for k, e in verdict.get("errors", {}).items() if k != "bfloat16"), default=float("nan"))
    why = verdict.get("why") or next(iter(verdict.get("refused", {}).values()), "") or verdict.get("unshared", "")
    more = f"left out {verdict['left_out']:.3g}; " if verdict.get("left_out") else ""
    alone = "one prompt a pass; " if verdict.get("alone") else ""
    print(f"{verdict['family']:28} {verdict['verdict']:10} {worst:8.1e}  {more}{alone}{why}"[:220], flush=True)


if __name__ == "__main__":
    main()
