"""Measures with passes of a dozen tokens what the model in front of us does, instead of believing its name.

Every weight's gradient as the hooks make it is held against autograd's (`verify`), on two small groups together and,
where that fails, on one at a time; a weight whose products no hook sees is left to autograd, or, where its share of
the squared gradient is small, named as not covered. Causality and rows that do not mix are conditions; whether
prompts can be shared is found out (`checks`). This module leaves the model as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from learnalign.errors import LearnAlignError, PolicyError
from learnalign.gradient.batching import Costs, pack
from learnalign.gradient.checks import broken_tree, check_rows, mixes_rows, sample, static_obstacle
from learnalign.gradient.forward import model_dtype
from learnalign.gradient.groups import Weighted
from learnalign.gradient.hooks import Hooks
from learnalign.gradient.layers import TIED_INPUT, Layer, head_of, spaced
from learnalign.gradient.verify import AGREE, collect, truth

LENGTHS = (7, *(64 * 4**k for k in range(7)))
"""Tokens of a prompt with its response at which sharing is tried: the next above what is used; the first always."""
ATTENTION_SHARE = 2.0
"""Assumed: a multiply-add in attention takes twice as long as one in a linear layer (softmax, smaller products)."""
SMALL_SHARE = 0.01
"""Of the layers' squared gradient: with less than that together, weights that no hook sees right are left out."""


@dataclass(frozen=True)
class ProbeResult:
    """layers: those that are sketched. alone: prompts must run one by one. costs: of sharing prompts.
    unshared: why prompts are not shared, or ''. shares: of the squared gradient, by name of the weight."""

    layers: list[Layer]
    alone: bool
    costs: Costs
    unshared: str
    shares: Mapping[str, float]


def examine(model: Any, hooks: Hooks, space: str, share: bool, reference: Any = None) -> ProbeResult:
    """Probe the model on small samples. Raises `PolicyError` where it cannot be sketched."""
    parts = [sample(model), sample(model, 4, 2, 5, shift=3)]
    try:
        mixed = check_rows(model, parts)
        layers, alone, shares = _measured(model, hooks, space, parts, mixed)
        _check_rows(model, parts, alone)
    except LearnAlignError:
        raise
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        raise PolicyError(
            f"{type(model).__name__} cannot be run on plain token ids: {type(error).__name__}: {line}"
        ) from error
    models = [model] if reference is None else [model, reference]
    unshared = _unshared(models) if share else "switched off"
    return ProbeResult(layers, alone, costs_of(model, models, layers, not unshared), unshared, shares)


def _measured(
    model: Any, hooks: Hooks, space: str, parts: Sequence[Weighted], mixed: bool
) -> tuple[list[Layer], bool, dict[str, float]]:
    """Layers that give autograd's gradient, whether prompts must run one by one for it, and shares.

    mixed: whether prompts in one batch move each other.
    """
    weights = spaced(model, space)
    layers = [replace(layer, clone=True) for layer in hooks.layers]
    together = None if mixed else _tried(model, hooks, layers, weights, parts)
    if together is not None and together.share(together.wrong) < SMALL_SHARE:
        trial, alone = together, False
    else:
        single = _tried(model, hooks, layers, weights, parts[:1])
        if any(layer.kind == "experts" for layer in single.wrong):
            layers = _without_experts(layers, single.wrong)
            single = _tried(model, hooks, layers, weights, parts[:1])
        trial, alone = single, True
    # What is still wrong is left to autograd, which needs one prompt a pass; where little is wrong, it is left out.
    large = [layer for layer in trial.wrong if alone and trial.shares[id(layer.parameter)] > 0]
    names = {layer.name for layer in trial.wrong}
    result = [
        replace(layer, kind="autograd") if layer in large else replace(layer, clone=layer.name in trial.written)
        for layer in layers
        if layer in large or layer.name not in names
    ]
    shares = {name: trial.shares.get(id(weight), 0.0) for name, weight in weights.items()}
    table = next((n for n, w in weights.items() if w is getattr(model.get_input_embeddings(), "weight", None)), "")
    seen = {id(layer.parameter) for layer in result}
    if table and id(weights[table]) not in seen:
        shares[table] = trial.tied
    return result, alone, {**shares, TIED_INPUT: trial.tied}


@dataclass(frozen=True)
class _Trial:
    """layers: all that were tried. wrong: those that the hooks do not get right, or never see.

    written: names of those whose outputs something writes to. shares: of the squared gradient, by the weight's id.
    """

    layers: list[Layer]
    wrong: list[Layer]
    written: set[str]
    shares: dict[int, float]
    tied: float

    def share(self, layers: Sequence[Layer]) -> float:
        """Of the squared gradient of all layers (an embedding table may have a thousand times it), what some have."""
        some, every = (
            sum({id(layer.parameter): self.shares[id(layer.parameter)] for layer in which}.values())
            for which in (layers, self.layers)
        )
        return some / every if every else 0.0


def _tried(
    model: Any, hooks: Hooks, layers: list[Layer], weights: Mapping[str, Any], parts: Sequence[Weighted]
) -> _Trial:
    """The hooks against autograd on the parts in one batch."""
    batch = pack(parts, 1, model.get_input_embeddings().weight.device)
    record = collect(model, replace(hooks, layers=layers), batch)
    found = truth(model, list(weights.values()), batch, record)
    allowed = AGREE[model_dtype(model)]
    unseen = record.strays | {layer.name for layer in layers if layer.name not in record.reached}
    wrong = [layer for layer in layers if layer.name in unseen or found.error(layer.parameter) > allowed]
    squares = {weight: square if math.isfinite(square) else 0.0 for weight, square in found.squares.items()}
    tied = found.tied if math.isfinite(found.tied) else 0.0
    total = sum(squares.values()) + tied
    shares = {weight: square / total if total else 0.0 for weight, square in squares.items()}
    shares.update({id(layer.parameter): 0.0 for layer in layers if id(layer.parameter) not in shares})
    return _Trial(layers, wrong, record.written, shares, tied / total if total else 0.0)


def _without_experts(layers: Sequence[Layer], wrong: Sequence[Layer]) -> list[Layer]:
    """Experts that only look like the known layouts are seen by their products."""
    modules = {id(layer.module) for layer in wrong if layer.kind == "experts"}
    return [replace(layer, kind="products") if id(layer.module) in modules else layer for layer in layers]


def _check_rows(model: Any, parts: Sequence[Weighted], alone: bool) -> None:
    """Raise `PolicyError` where even the responses of one prompt move each other."""
    responses = [parts[0].part(slice(i, i + 1)) for i in range(2)]
    if alone and mixes_rows(model, responses):
        raise PolicyError(f"{type(model).__name__} mixes the rows of a batch: what it makes of one depends on others")


def _unshared(models: Sequence[Any]) -> str:
    for model in models:
        reason = static_obstacle(model) or broken_tree(model)
        if reason:
            return reason if model is models[0] else f"the reference: {reason}"
    return ""


def costs_of(model: Any, models: Sequence[Any], layers: Sequence[Layer], share: bool) -> Costs:
    """Multiply-adds of one token in the blocks' layers, and of one pair of tokens in attention; what lengths allow."""
    boundary = min((b for b in map(_boundary, models) if b), default=0)
    if not share:
        return Costs(boundary=boundary)
    config = model.config.get_text_config()
    head = {id(m) for m in head_of(model).modules()}
    used = number_of(config, "num_experts_per_tok", 1)
    weights = 0.0
    for layer in layers:
        if id(layer.module) not in head:
            stack = layer.parameter.shape[0] if layer.parameter.ndim == 3 else 1
            weights += layer.parameter.numel() * (min(1.0, used / stack) if stack > 1 else 1.0)
    wide = number_of(config, "num_attention_heads", 1) * number_of(config, "head_dim", 0)
    pairs = 2.0 * number_of(config, "num_hidden_layers", 1) * (wide or number_of(config, "hidden_size", 1))
    window = min((w for w in map(_window, models) if w), default=0)
    return Costs(True, weights, ATTENTION_SHARE * pairs, window, boundary, _Honored(tuple(models)))


def number_of(config: Any, name: str, default: int) -> int:
    """A setting that is one number in most models, and a list with a number a layer, or nothing, in some."""
    try:
        value = getattr(config, name, None)
    except Exception:  # such as a number a layer that must not be asked for as one
        value = None
    if isinstance(value, list | tuple):
        value = max((v for v in value if isinstance(v, int)), default=None)
    return int(value) if isinstance(value, int | float) and value > 0 else default


def _window(model: Any) -> int:
    """The shortest attention window of any layer that the configuration names, 0 where all layers see everything.

    Within a window a sliding layer sees what a full one sees; beyond it the tree mask would have to know.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ("sliding_attention", "chunked_attention"))
    sizes = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    windows = [number_of(config, name, 0) for kind, name in sizes.items() if kind in kinds]
    return min((w for w in windows if w), default=0)


def _boundary(model: Any) -> int:
    """The longest row whose positions are not stretched (longrope): longer ones must not share a batch with it.

    0 where there is none.
    """
    config = _text_config(model)
    own = [rope.get("original_max_position_embeddings") for rope in _ropes(config) if _kind(rope) == "longrope"]
    return min((int(o or number_of(config, "original_max_position_embeddings", 0)) for o in own), default=0)


def longest_row(model: Any) -> int:
    """The longest row whose positions do not depend on what was run before (dynamic stretching); 0 for no limit."""
    config = _text_config(model)
    dynamic = any(_kind(rope) == "dynamic" for rope in _ropes(config))
    return number_of(config, "max_position_embeddings", 0) if dynamic else 0


def _text_config(model: Any) -> Any:
    config = getattr(model, "config", None)
    return config.get_text_config() if config is not None else None


def _ropes(config: Any) -> list[dict[str, Any]]:
    """How positions are turned, in the old way of writing and in the new, for all layers or for each kind."""
    given = [getattr(config, name, None) for name in ("rope_parameters", "rope_scaling")]
    found = [rope for rope in given if isinstance(rope, dict)]
    return [*found, *(inner for rope in found for inner in rope.values() if isinstance(inner, dict))]


def _kind(rope: dict[str, Any]) -> Any:
    return rope.get("rope_type", rope.get("type"))


class _Honored:
    """Whether trees of so many tokens give what separate rows give: tried once at each of a few lengths.

    The answer for a length depends on nothing else, so that a resumed run shares what the uninterrupted one shares.
    """

    def __init__(self, models: Sequence[Any]) -> None:
        self.models, self.known = models, {}  # type: ignore[var-annotated]

    def __call__(self, length: int) -> bool:
        step = next(step for step in LENGTHS if step >= length or step == LENGTHS[-1])
        if step == LENGTHS[-1] and length > step:
            return False
        if step not in self.known:
            self.known[step] = not any(broken_tree(model, self._prompt(model, step)) for model in self.models)
        return bool(self.known[step])

    @staticmethod
    def _prompt(model: Any, step: int) -> int:
        config = model.config.get_text_config()
        most = number_of(config, "max_position_embeddings", 0) or number_of(config, "n_positions", 0) or step
        return max(3, min(step, most) - 4)
