"""Every setting of a run, as frozen dataclasses, with TOML in and out.

One dataclass per stage. A setting's type says which values it takes (`Literal` for names), its metadata the bounds;
both are checked in one place (`_check_section`). An unknown key, a wrong type or a value out of range is a
`ConfigError` that names the key and where it was read. An empty string means "found by itself" wherever a setting is
optional, so that the file written into a run directory spells out every default. This module does not read pools or
models.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from learnalign.errors import ConfigError

Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
EngineName = Literal["transformers", "vllm", "server"]
Allocation = Literal["fixed", "screen", "halving"]
StoredDtype = Literal["float16", "int8", "float32"]
Weighting = Literal["mean", "token", "constant"]
ResponsesUsed = Literal["all", "one_correct"]
Space = Literal["full", "lora"]
StrategyName = Literal["top", "greedy", "random_positive", "band", "alignment", "random", "length", "history", "limr"]
Order = Literal["rank", "file", "easy_to_hard", "gaussian"]
NeighborSearch = Literal["auto", "exact", "flat", "lists", "ivf", "cagra", "int8"]
VERIFIERS = ("math", "exact", "choice", "code", "imported")
FUNCTION = re.compile(r".+\.py:[^\W\d]\w*")
"""How a reward of one's own is named: `file.py:function`."""
RENDERED = re.compile(r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|user\|>|<\uff5cUser\uff5c>")
"""What stands in a text that a chat template has made."""
MOST_SEED = (1 << 63) - 1


def bounded(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    why: str = "",
) -> Any:
    """A setting with bounds; `why` is what an error adds after them."""
    return field(default=default, metadata={"above": above, "at_least": at_least, "at_most": at_most, "why": why})


class Section:
    """One table of the configuration, checked when it is made."""

    def __post_init__(self) -> None:
        _check_section(type(self).__name__.removesuffix("Config").lower(), self)


@dataclass(frozen=True)
class PoolConfig(Section):
    """Where the prompts come from. Column names left empty are found by name (see `learnalign.pool`)."""

    path: str | tuple[str, ...] = ""
    """A file, a folder, a glob, or a data set of the hub that is in the local cache; in TOML also a list of these."""
    problem_column: str = ""
    answer_column: str = ""
    id_column: str = ""
    source_column: str = ""
    limit: int = bounded(0, at_least=0, why="0 takes all rows")
    """Use the first `limit` rows only; 0 uses all."""
    ignore_images: bool = False
    """Take the text alone of rows that have images, which are refused otherwise."""


@dataclass(frozen=True)
class PolicyConfig(Section):
    """The policy model whose success rates and gradients are measured."""

    model: str = ""
    dtype: Dtype = "auto"
    """`auto` (float32 on a CPU, bfloat16 on a GPU), `float32`, `bfloat16`, `float16` or `float64`."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:K`."""
    pad_token: str = ""
    """Token to pad with; empty takes the tokenizer's own and refuses a tokenizer that has none."""
    instruction: str = ""
    """Appended to every plain problem after a blank line; chat messages in the pool stay as they are."""
    plain_template: str = "Question: {problem}\nAnswer:"
    """Prompt for tokenizers without a chat template."""
    chat_template_kwargs: str = ""
    """JSON object of what the chat template is also told, such as `{"enable_thinking": false}`."""


@dataclass(frozen=True)
class WarmupConfig(Section):
    """GRPO on a random subset of the pool before anything is measured. The values are the paper's."""

    prompts: int = bounded(0, at_least=0)
    """How many prompts are trained on, once each; 0 trains nothing. `learnalign warmup` sets 300."""
    learning_rate: float = bounded(1e-6, above=0)
    beta: float = bounded(0.04, at_least=0)
    """Weight of the KL term against the policy that the warm-up began with."""
    clip: float = bounded(0.2, above=0)
    responses: int = bounded(8, at_least=2)
    prompts_per_step: int = bounded(12, above=0)
    """Groups of one optimizer step."""
    lora_rank: int = bounded(0, at_least=0)
    """0 trains all weights; r trains a LoRA adapter of that rank on all linear layers."""
    seed: int = bounded(0, at_least=0)


@dataclass(frozen=True)
class RolloutConfig(Section):
    """How responses are sampled: G = `responses` at `temperature` (the paper: 8 at 1.0)."""

    responses: int = bounded(8, at_least=2, why="a success rate needs a group")
    """G; the most that a prompt gets where `allocation` is not `fixed`."""
    temperature: float = bounded(1.0, above=0)
    max_new_tokens: int = bounded(512, above=0)
    max_prompt_tokens: int = bounded(0, at_least=0, why="0 sets no limit")
    """Skip longer prompts, as the training will (verl's `max_prompt_length`); 0 takes what fits the context."""
    seed: int = bounded(0, at_least=0, at_most=MOST_SEED)
    batch_sequences: int = bounded(0, at_least=0, why="0 goes by the engine")
    """Sequences sampled together, and the unit of resuming: one Parquet part a batch. 0 is 256 with the engine
    `transformers` and 4,096 with the others, which schedule sequences themselves."""
    allocation: Allocation = "fixed"
    """`fixed` (G for every prompt), `screen` (two, the rest of G only where they differ) or `halving` (rounds
    that keep the most promising prompts). See `learnalign.rollout.allocation`."""
    budget: float = bounded(8.0, above=0)
    """Of `halving`: responses a prompt on average over the pool."""
    keep: int = bounded(0, at_least=0, why="0 is twice select.n")
    """Of `halving`: prompts that are sampled to the end; 0 is twice select.n."""
    engine: EngineName = "transformers"
    """`transformers` (in this process), `vllm` (in this process, extra `vllm`) or `server` (OpenAI-compatible)."""
    tensor_parallel: int = bounded(1, above=0)
    """Of `vllm`: GPUs that share the policy."""
    base_urls: str = ""
    """Of `server`: one or several, separated by spaces, such as `http://host:8000/v1`."""
    served_model: str = ""
    """Of `server`: the name under which the policy is served; empty takes policy.model."""
    concurrency: int = bounded(256, above=0)
    """Of `server`: requests under way at a time, each for one response."""
    patience_seconds: float = bounded(600.0, above=0)
    """Of `server`: how long an outage may last, and a single answer take, before the run gives up."""
    max_logprob_gap: float = bounded(0.2, above=0)
    """Mean difference, in nats a token, between recorded log-probabilities and the policy's own, beyond which the
    responses are taken for another policy's and their sketches are refused."""


@dataclass(frozen=True)
class RewardConfig(Section):
    """How a response is judged (see `learnalign.rewards`)."""

    verifier: str = "math"
    """`math` (exact match, then math-verify), `exact`, `choice` (letters), `code`, `file.py:function`,
    or `imported` (the rewards that `learnalign import` read)."""
    by_source: dict[str, str] = field(default_factory=dict)
    """A verifier for every source of the pool, in place of `verifier`: `[reward.by_source]` with the sources as keys,
    or `--set reward.by_source.SOURCE=VERIFIER`."""
    threshold: float = bounded(1.0, above=-math.inf)
    """Where a function gives rewards: a response is correct (counts for p) from this reward on."""
    graded: bool = False
    """No reward means correct: learnability is the variance of a prompt's rewards in place of p (1 - p)."""
    sandbox_url: str = ""
    """Sandbox Fusion server that runs programs for `code`; empty runs them in a sandbox on this machine."""
    weak_sandbox: bool = False
    """Run programs here even where the system allows no namespaces: they can then read files and use the network."""
    workers: int = bounded(2, above=0)
    timeout_seconds: float = bounded(5.0, above=0)
    memory_mb: int = bounded(2048, above=0)

    @property
    def verifiers(self) -> tuple[str, ...]:
        """All that are in use."""
        return tuple(dict.fromkeys(self.by_source.values())) or (self.verifier,)

    def verifier_of(self, source: str) -> str:
        """The verifier of a source; "" where there is none."""
        return self.by_source.get(source, "") if self.by_source else self.verifier


@dataclass(frozen=True)
class SketchConfig(Section):
    """How a prompt's policy gradient is sketched: a signed fold to `dimension` numbers."""

    dimension: int = bounded(8192, at_least=128, at_most=1 << 20)
    seed: int = bounded(0, at_least=0, at_most=MOST_SEED)
    dtype: StoredDtype = "float16"
    """Storage of the unit rows: `float16`, `int8` (one scale a row) or `float32`."""
    batch_tokens: int = bounded(16384, above=0)
    """Padded tokens of one forward and backward; a larger single group is still taken whole."""
    rank: int = bounded(0, at_least=0, why="0 folds exact gradients")
    """0 folds exact gradients; k folds random projections of them to k x k a layer (cheaper, noisier)."""
    weighting: Weighting = "mean"
    """Of response tokens: `mean` (1/|y|: GRPO), `token` (all of the group alike: DAPO) or `constant` (Dr. GRPO)."""
    advantage_std: bool = True
    """Divide advantages by the group's standard deviation (GRPO) or not (Dr. GRPO)."""
    responses_used: ResponsesUsed = "all"
    """`all`, or `one_correct`: one correct response stands for the group, which costs much fidelity."""
    kl_beta: float = bounded(0.0, at_least=0)
    """Strength of GRPO's KL term against `reference` (the paper: 0.04). 0 leaves it out, as it vanishes on the
    reference itself."""
    reference: str = ""
    """Reference policy of the KL term: a directory or hub name."""
    space: Space = "full"
    """`full` (the weights of the policy) or `lora` (the adapter matrices A and B of a LoRA policy)."""
    mask_truncated: bool = False
    """Leave responses that were cut at rollout.max_new_tokens out of the gradient, as DAPO and TRL's
    `mask_truncated_completions` do; their rewards still count for the others' advantages."""
    share_prompts: bool = True
    """Compute a prompt once for several responses where the policy honors it and it is cheaper."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""


@dataclass(frozen=True)
class SelectConfig(Section):
    """How many prompts are taken, and by which strategy."""

    n: int = bounded(1000, above=0)
    strategy: StrategyName = "top"
    """A key of `learnalign.selection.STRATEGIES`."""
    seed: int = bounded(0, at_least=0, at_most=MOST_SEED)
    """Of the strategies that draw, of the neighbor search, and of the order `gaussian`."""
    order: Order = "rank"
    """In which the selected prompts are written, for trainers that do not shuffle: `rank` (as picked), `file` (as in
    the pool), `easy_to_hard` or `gaussian` (see `learnalign.selection.order`)."""
    target: str = ""
    """Pool file of a target set: prompts are aligned with its mean gradient instead of the pool's."""
    history: str = ""
    """JSON object of prompt ids and success rates over an earlier run, for the strategies `history` and `limr`."""
    quota_share: float = bounded(1.0, above=0, at_most=1)
    """At most this share of the selection from one value of `quota_column`; 1 sets no quota."""
    quota_column: str = ""
    """Column of the pool; empty takes its source."""
    duplicate_cosine: float = bounded(0.0, at_least=0, at_most=1)
    """No two selected prompts have gradients of this cosine or a larger one; 0 lets all pass."""
    candidates_per_pick: int = bounded(20, above=0)
    """Prompts of score > 0 that `greedy` chooses among, the best by score; up to 20,000 it takes all."""
    neighbors: NeighborSearch = "auto"
    """How `greedy` searches neighbors (see `learnalign.selection.neighbors.plan`); `auto` by time and memory."""
    neighbor_seconds: float = bounded(120.0, above=0)
    """About what the neighbor search of `greedy` may take on two cores: beyond it, it approximates."""


@dataclass(frozen=True)
class OnlineConfig(Section):
    """How often an online selection comes back to a prompt (see `learnalign.online`)."""

    floor: float = bounded(0.25, above=0, at_most=1)
    """Visits a pass of a prompt that seems to teach nothing: at 0.25 it comes back every fourth pass."""
    cap: float = bounded(1.0, at_least=1)
    """The most visits a pass."""
    decay: float = bounded(0.5, at_least=0, at_most=1)
    """What a verdict still counts once training has come back to its prompt."""
    memory: float = bounded(0.8, at_least=0, at_most=1)
    """What a gradient still counts a measurement later."""


@dataclass(frozen=True)
class ClusterConfig(Section):
    """Which workers compute (see `learnalign.cluster`). It changes nothing of what is computed."""

    address: str = ""
    """Of a Ray cluster: `auto` (that this machine is part of), HOST:PORT, or `local` (this machine alone, all its
    devices). Empty computes in this process."""
    workers: int = bounded(0, at_least=0, why="0 takes as many as there is room for")


@dataclass(frozen=True)
class Config:
    """All settings of a run, in the order in which the stages use them."""

    pool: PoolConfig = field(default_factory=PoolConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sketch: SketchConfig = field(default_factory=SketchConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        _check_together(self)


def _check_section(section: str, settings: Any) -> None:
    """Raise `ConfigError` for the first setting of a section that its type or its bounds do not allow."""
    hints = get_type_hints(type(settings))
    for one in fields(settings):
        key, value, bounds = f"{section}.{one.name}", getattr(settings, one.name), one.metadata
        allowed = get_args(hints[one.name]) if get_origin(hints[one.name]) is Literal else ()
        if allowed and value not in allowed:
            raise ConfigError(f"{key} must be one of {', '.join(allowed)}, found {value!r}")
        if bounds and not _within(value, bounds):
            raise ConfigError(f"{key} must be {_rule(bounds)}, found {value}")


def _within(value: float, bounds: Mapping[str, Any]) -> bool:
    above, at_least, at_most = bounds["above"], bounds["at_least"], bounds["at_most"]
    low = (above is None or value > above) and (at_least is None or value >= at_least)  # NaN is never within
    return bool(math.isfinite(value) and low and (at_most is None or value <= at_most))


def _rule(bounds: Mapping[str, Any]) -> str:
    above, at_least, at_most, why = (bounds[name] for name in ("above", "at_least", "at_most", "why"))
    if above == -math.inf:
        return "a finite number"
    if above is not None:
        rule = f"greater than {above}" + ("" if at_most is None else f" and at most {at_most}")
    else:
        rule = f"at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
    return f"{rule} ({why})" if why else rule


def _check_together(config: Config) -> None:
    """Raise `ConfigError` for the first settings that do not fit each other, or a text that is not in its form."""
    if config.reward.verifier not in VERIFIERS and not FUNCTION.fullmatch(config.reward.verifier):
        raise ConfigError(
            f"reward.verifier must be one of {', '.join(VERIFIERS)}, or a function as file.py:function, "
            f"found {config.reward.verifier!r}"
        )
    for source, verifier in config.reward.by_source.items():
        if verifier == "imported" or (verifier not in VERIFIERS and not FUNCTION.fullmatch(verifier)):
            raise ConfigError(
                f"reward.by_source: the verifier of {source!r} must be one of {', '.join(VERIFIERS[:-1])}, or a "
                f"function as file.py:function, found {verifier!r}"
            )
    if config.reward.sandbox_url and not config.reward.sandbox_url.startswith(("http://", "https://")):
        raise ConfigError(f"reward.sandbox_url must be an http address, found {config.reward.sandbox_url!r}")
    if config.rollout.engine == "server" and not config.rollout.base_urls:
        raise ConfigError("rollout.engine is server: name it, --set rollout.base_urls=http://host:8000/v1")
    rollout = config.rollout
    if config.reward.graded and rollout.allocation != "fixed":
        raise ConfigError(
            f"rollout.allocation = {rollout.allocation} goes by which responses are correct, and with reward.graded "
            "none is: set rollout.allocation=fixed"
        )
    if rollout.allocation == "halving" and not 2 < rollout.budget < rollout.responses:
        raise ConfigError(
            "rollout.budget (responses a prompt on average) must be more than 2 and less than rollout.responses "
            f"(the most that one gets), found {rollout.budget:g} and {rollout.responses}: set for example "
            "rollout.budget=8 and rollout.responses=32"
        )
    if config.reward.graded and config.select.order in ("easy_to_hard", "gaussian"):
        raise ConfigError(
            f"select.order = {config.select.order} goes by success rates, and with reward.graded there are none: "
            "set select.order=rank or file"
        )
    if config.warmup.prompts and rollout.engine == "server" and not rollout.served_model:
        raise ConfigError(
            "after a warm-up the server must serve its result: make it with 'learnalign warmup', serve the folder "
            "warmup of the run directory, and name it with rollout.served_model"
        )
    address = config.cluster.address
    if address not in ("", "auto", "local") and not re.fullmatch(r"[^/]+:\d+", address):
        raise ConfigError(f"cluster.address must be auto, local or HOST:PORT of the head node, found {address!r}")
    if address and re.fullmatch(r"cuda:\d+", config.policy.device):
        raise ConfigError(
            f"policy.device is {config.policy.device!r}: workers are given their GPUs by Ray, say auto or cuda"
        )
    if config.sketch.dimension & (config.sketch.dimension - 1):
        raise ConfigError(
            f"sketch.dimension must be a power of two from 128 to 1048576, found {config.sketch.dimension}"
        )
    if (config.sketch.kl_beta > 0) != bool(config.sketch.reference):
        raise ConfigError(
            "a KL term needs sketch.kl_beta > 0 and sketch.reference, found "
            f"sketch.kl_beta = {config.sketch.kl_beta} and sketch.reference = {config.sketch.reference!r}"
        )
    if "{problem}" not in config.policy.plain_template:
        raise ConfigError("policy.plain_template must contain {problem}")
    if not _is_json_object(config.policy.chat_template_kwargs or "{}"):
        raise ConfigError(
            'policy.chat_template_kwargs must be a JSON object such as {"enable_thinking": false}, '
            f"found {config.policy.chat_template_kwargs!r}"
        )


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def choices(key: str) -> tuple[str, ...]:
    """The names that a setting such as `select.strategy` takes; empty where it takes more than names."""
    section, name = key.split(".")
    hint = get_type_hints(get_type_hints(Config)[section])[name]
    return get_args(hint) if get_origin(hint) is Literal else ()


def get(config: Config, key: str) -> Any:
    """The value at a dotted key such as `rollout.seed`."""
    section, name, *entry = key.split(".", 2)
    value = getattr(getattr(config, section), name)
    return value[entry[0]] if entry and entry[0] in value else value


def read_config(path: str | Path) -> Config:
    """Read a TOML file; keys left out keep their defaults. Raises `ConfigError`."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return with_values(Config(), data, where=str(path))


def with_values(config: Config, data: dict[str, Any], where: str) -> Config:
    """A copy of `config` with the settings of a nested dictionary; `where` names the origin in errors."""
    return _applied(config, _clean(data, where))


def _applied(config: Config, data: Mapping[str, Mapping[str, Any]]) -> Config:
    """All at once, so that settings that must fit each other are compared when all of them are there."""
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in data.items()})


def _clean(data: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """The settings of a nested dictionary in their own types. Raises `ConfigError` for one that is not known."""
    hints = get_type_hints(Config)
    sections: dict[str, dict[str, Any]] = {}
    for section, values in data.items():
        if section not in hints:
            raise ConfigError(f"{where}: unknown section [{section}]; known: {', '.join(hints)}")
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: [{section}] must be a table, found {values!r}")
        sections[section] = _clean_section(hints[section], section, values, where)
    return sections


def _clean_section(kind: Any, section: str, values: dict[str, Any], where: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    clean: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"{where}: unknown key {section}.{name}; known: {', '.join(hints)}")
        expected = hints[name]
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if expected == str | tuple[str, ...]:
            clean[name] = _one_or_several(value, f"{where}: {section}.{name}")
            continue
        if expected == dict[str, str]:
            clean[name] = _texts_by_name(value, f"{where}: {section}.{name}")
            continue
        if type(value) is not (str if get_origin(expected) is Literal else expected):
            kind = "text" if get_origin(expected) is Literal else expected.__name__
            raise ConfigError(f"{where}: {section}.{name} must be {kind}, found {type(value).__name__} {value!r}")
        clean[name] = value
    return clean


def _one_or_several(value: Any, where: str) -> str | tuple[str, ...]:
    """A text, or a tuple of several. Raises `ConfigError`."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{where} must be text or a list of texts, found {value!r}")
    return value[0] if len(value) == 1 else tuple(value)


def _texts_by_name(value: Any, where: str) -> dict[str, str]:
    """A table of texts. Raises `ConfigError`."""
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ConfigError(f"{where} must be a table of texts, found {value!r}")
    return dict(value)


def parse_assignment(config: Config, assignment: str) -> Config:
    """Apply one `section.key=value` of the command line; the value is read as the setting's own type."""
    return parse_assignments(config, [assignment])


def parse_assignments(
    config: Config, assignments: Sequence[str], named: Mapping[str, Mapping[str, Any]] | None = None
) -> Config:
    """Apply several, later ones last, and then the settings of options with a name; in any order the same.

    Settings that must fit each other, such as `rollout.engine=server` and `rollout.base_urls`, are compared once all
    are applied. Raises `ConfigError`.
    """
    given: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        for section, values in _clean(_assigned(assignment), f"--set {assignment}").items():
            own = given.setdefault(section, {})
            for name, value in values.items():  # of a table, the entry that is named
                before = own.get(name, getattr(getattr(config, section), name))
                own[name] = {**before, **value} if isinstance(value, dict) else value
    for section, values in _clean(named or {}, "command line").items():
        given.setdefault(section, {}).update(values)
    return _applied(config, given)


def _assigned(assignment: str) -> dict[str, dict[str, Any]]:
    """A `section.key=value` as a nested dictionary."""
    key, equals, text = assignment.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot):
        raise ConfigError(f"--set expects section.key=value, found {assignment!r}")
    sections = get_type_hints(Config)
    hints = get_type_hints(sections[section]) if section in sections else {}
    table, _, entry = name.partition(".")
    if entry and hints.get(table) == dict[str, str]:
        return {section: {table: {entry: text}}}
    kind = hints.get(name, str)
    value: Any = text
    if kind is bool:
        if text not in ("true", "false"):
            raise ConfigError(f"--set {key.strip()} must be true or false, found {text!r}")
        value = text == "true"
    elif kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            raise ConfigError(f"--set {key.strip()} must be {kind.__name__}, found {text!r}") from None
    return {section: {name: value}}


def to_toml(config: Config) -> str:
    """The whole configuration as TOML text, every default spelled out."""
    import tomli_w  # by those alone who write one: a bench of the kernels runs without it

    return tomli_w.dumps(dataclasses.asdict(config))


def section_dict(config: Config, section: str) -> dict[str, Any]:
    """One section as a plain dictionary, for digests and manifests."""
    part = getattr(config, section)
    return {f.name: getattr(part, f.name) for f in fields(part)}
