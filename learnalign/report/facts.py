"""The facts of a run and what follows from them: counts, sentences, warnings, rank correlation.

Both outputs, page and terminal, take their numbers and their sentences from here, so that they cannot
disagree. This module draws nothing and knows no markup.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from learnalign.config import Config
from learnalign.report.gap import checked
from learnalign.report.wording import decimals, number, plural, share, were
from learnalign.selection import STRATEGIES
from learnalign.suspects import Suspect

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]

STATES = {
    "learnable": "solved sometimes: 0 < p < 1 (graded rewards: they differ), and a gradient to follow",
    "mastered": "solved every time: nothing left to learn, score 0",
    "unsolved": "never solved: no correct response to learn from, score 0",
    "dropped": "solved sometimes, but others promised more: not sampled to the end, and never preferred",
    "skipped": "never sampled",
    "excluded": "sampled, but without a usable gradient",
}
"""Every state of a prompt and its meaning, in the order of the tables."""


@dataclass(frozen=True)
class ReportFacts:
    """All that a report is made of.

    `title` is the name of the run directory and `manifest` its manifest as plain dictionaries; any key may be
    missing there. `selected` is int64, indices into `scores` in the order of rank.

    `scores` has one row a prompt of the pool: row (int64); prompt_id, problem, source (string); success_rate
    (float64, NaN where not sampled); learnability, score, alignment (float64); gradient_norm (float64, NaN
    without a gradient); response_tokens (float64, mean over the prompt's responses, or NaN); state (a key of
    `STATES`); reason (string, empty unless dropped, skipped or excluded); responses (int64, sampled ones).
    """

    title: str
    config: Config
    manifest: dict[str, Any]
    scores: pa.Table
    selected: NDArray[np.int64]
    suspects: tuple[Suspect, ...] = ()
    """Prompts whose reference answer is probably wrong."""

    def recorded(self, *keys: str) -> Any:
        """The manifest's value at nested keys, or None where any of them is missing."""
        value: Any = self.manifest
        for key in keys:
            if not isinstance(value, dict):
                return None
            value = value.get(key)
        return value

    def measured(self, *keys: str) -> float | None:
        """Like `recorded`, for a number; None where it is missing or no number."""
        value = self.recorded(*keys)
        return float(value) if isinstance(value, int | float) else None

    def text(self, column: str, index: int) -> str:
        """One text cell of `scores`; empty where it is null."""
        return str(self.scores.column(column)[int(index)].as_py() or "")


@dataclass(frozen=True)
class Findings:
    """The columns of `ReportFacts.scores` as arrays of length rows, and the selection as a mask."""

    facts: ReportFacts
    success_rate: Floats
    learnability: Floats
    score: Floats
    alignment: Floats
    gradient_norm: Floats
    response_tokens: Floats
    state: NDArray[np.str_]
    picked: NDArray[np.bool_]
    responses: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Prompts in the pool."""
        return len(self.state)

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """Prompts whose success rate was measured."""
        return np.isfinite(self.success_rate)

    @property
    def learnable(self) -> NDArray[np.bool_]:
        """Prompts in the state `learnable`."""
        mask: NDArray[np.bool_] = self.state == "learnable"
        return mask

    def count(self, state: str, among: NDArray[np.bool_] | None = None) -> int:
        """Prompts in a state, in the whole pool or among a mask of it."""
        hits = self.state == state
        return int(np.count_nonzero(hits if among is None else hits & among))


def find(facts: ReportFacts) -> Findings:
    """Read the columns of `facts.scores` once."""
    picked = np.zeros(facts.scores.num_rows, dtype=np.bool_)
    picked[facts.selected] = True

    def floats(name: str) -> Floats:
        return np.asarray(facts.scores.column(name).to_numpy(), dtype=np.float64)

    return Findings(
        facts=facts,
        success_rate=floats("success_rate"),
        learnability=floats("learnability"),
        score=floats("score"),
        alignment=floats("alignment"),
        gradient_norm=floats("gradient_norm"),
        response_tokens=floats("response_tokens"),
        state=np.asarray(facts.scores.column("state").to_numpy(), dtype=np.str_),
        picked=picked,
        responses=np.asarray(facts.scores.column("responses").to_numpy(), dtype=np.int64),
    )


def mean(values: Floats) -> float:
    """Mean of the finite values, NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; ties share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank: Floats = np.cumsum(counts) - (counts - 1) / 2.0
    return mean_rank[inverse]


def spearman(x: Floats, y: Floats) -> tuple[float, int]:
    """Spearman's rank correlation of the pairs in which both are finite, ties by mean rank, and their number.

    NaN with fewer than three pairs or where one side is constant.
    """
    both = np.isfinite(x) & np.isfinite(y)
    n = int(np.count_nonzero(both))
    if n < 3:
        return float("nan"), n
    a, b = _ranks(x[both]), _ranks(y[both])
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return (float(a @ b) / scale if scale > 0 else float("nan")), n


def pool_name(facts: ReportFacts) -> str:
    """File name of the pool, or of its first file and how many more there are."""
    path = facts.recorded("pool", "name") or facts.recorded("pool", "path") or facts.config.pool.path
    first, *more = [str(path)] if isinstance(path, str) and ", " not in path else str(path).split(", ")
    return (Path(first).name if first else "the pool") + (f" and {plural(len(more), 'more file')}" if more else "")


def policy_name(facts: ReportFacts) -> str:
    """Name of the policy; of a directory, its last part."""
    name = str(facts.recorded("policy", "name") or facts.config.policy.model or "the policy")
    return Path(name).name if name.startswith(("/", ".", "~")) else name


def story(findings: Findings) -> list[str]:
    """What was asked and what was found, in plain sentences."""
    facts, config = findings.facts, findings.facts.config
    sentences = [
        f"Asked for {plural(config.select.n, 'prompt')} from {pool_name(facts)}, which holds {findings.rows:,}, "
        f"for the policy {policy_name(facts)}.",
        *_warmup(facts),
    ]
    sampled, skipped = int(np.count_nonzero(findings.sampled)), findings.count("skipped")
    if not sampled:
        return [*sentences, "No prompt was sampled.", *_outcome(findings)]
    left_out = f"; {were(skipped)} skipped" if skipped else ""
    sentences.append(
        f"{_responses_each(findings)} were sampled for {plural(sampled, 'prompt')} "
        f"at temperature {config.rollout.temperature:g}{left_out}."
    )
    never, always, learnable = (findings.count(state) for state in ("unsolved", "mastered", "learnable"))
    some = f"{learnable:,} ({share(learnable, findings.rows)} of the pool)" if learnable else "None"
    if config.reward.graded:
        verb = "is" if learnable < 2 else "are"
        sentences.append(f"Rewards are graded. {some} {verb} learnable: rewards differ within a prompt.")
        return sentences + _outcome(findings)
    sentences.append(
        f"{were(never)} never solved and {were(always)} solved every time; neither kind gives a gradient. "
        f"{some} {'is' if learnable < 2 else 'are'} learnable: solved sometimes, not always."
    )
    return [*sentences, *checked(facts), *_outcome(findings)]


def _warmup(facts: ReportFacts) -> list[str]:
    """What the warm-up changed, if there was one."""
    prompts, before, after, error, watched = (
        facts.measured("stages", "warmup", name) for name in ("rows", "before", "after", "error", "watched")
    )
    if prompts is None or before is None or after is None or error is None or watched is None:
        return []
    return [
        f"The policy was warmed up with GRPO on {plural(int(prompts), 'prompt')}: its success rate on "
        f"{plural(int(watched), 'other prompt')} went from {share(before, 1)} to {share(after, 1)} "
        f"(difference \u00b1 {share(error, 1)}, one standard error)."
    ]


def _responses_each(findings: Findings) -> str:
    """`8 responses a prompt`, or their mean and range where prompts have different numbers."""
    counts = findings.responses[findings.sampled]
    low, high = int(counts.min()), int(counts.max())
    if low == high:
        return f"{low} responses a prompt"
    return f"{float(counts.mean()):.1f} responses a prompt on average (from {low} to {high})"


def _outcome(findings: Findings) -> list[str]:
    """The sentences about the selection itself."""
    n = len(findings.facts.selected)
    if not n:
        return ["Nothing was selected."]
    sentences = [f"{plural(n, 'prompt')} {'was' if n == 1 else 'were'} selected{_manner(findings.facts.config)}."]
    p, p_pool, v, v_pool = (
        mean(values[mask])
        for values in (findings.success_rate, findings.learnability)
        for mask in (findings.picked, findings.sampled)
    )
    if findings.facts.config.reward.graded:
        sentences.append(
            f"The mean variance of rewards within a prompt of the selection is {number(v, 3)} "
            f"(whole pool: {number(v_pool, 3)})."
        )
    elif np.isfinite(p) and np.isfinite(v):
        sentences.append(
            f"The mean success rate of the selection is {share(p, 1)} (whole pool: {share(p_pool, 1)}), "
            f"its mean learnability p(1\u2212p) {number(v, 3)} of at most 0.250 "
            f"(whole pool: {number(v_pool, 3)})."
        )
    return sentences


def _manner(config: Config) -> str:
    """How the selection was made, as the end of a sentence."""
    select = config.select
    limits = []
    if select.quota_share < 1.0:
        limits.append(f"at most {share(select.quota_share, 1)} from one {select.quota_column or 'source'}")
    if select.duplicate_cosine:
        limits.append(f"no two with gradients of cosine {select.duplicate_cosine:g} or more")
    if select.order != "rank":
        limits.append(f"written in the order {select.order}")
    return ": " + ", ".join([f"{STRATEGIES[select.strategy].what} (strategy {select.strategy})", *limits])


def why(findings: Findings) -> str:
    """Why these prompts and not others, in a few sentences."""
    target = findings.facts.config.select.target
    whose = f"of the target set {Path(target).name}" if target else "of the pool"
    what = "p(1\u2212p) is largest for prompts solved half the time"
    if findings.facts.config.reward.graded:
        what = "is the variance of a prompt's rewards"
    text = (
        f"Score = learnability \u00d7 alignment. Learnability {what}; "
        f"alignment says how well a prompt's gradient agrees with the mean gradient {whose}."
    )
    scores = findings.score[findings.picked & findings.learnable]
    if len(scores) < 2:
        return text
    places = decimals(scores)
    best, last = number(float(scores.max()), places), number(float(scores.min()), places)
    return f"{text} The scores of the learnable prompts selected run from {best} down to {last}."


def warnings(findings: Findings) -> list[str]:
    """What a reader should know before training on the selection; each a full sentence."""
    asked, n = findings.facts.config.select.n, len(findings.facts.selected)
    learnable = findings.count("learnable")
    lines = []
    if learnable < asked:
        which = "prompt is" if learnable == 1 else "prompts are"
        lead = f"Only {learnable:,} {which} learnable" if learnable else "No prompt is learnable"
        lines.append(f"{lead}, but {asked:,} {'was' if asked == 1 else 'were'} asked for.{_filled(findings)}")
    elif n < asked:
        lines.append(f"Only {n:,} of the {plural(asked, 'prompt')} asked for were selected.")
    negative = int(np.count_nonzero(findings.picked & findings.learnable & (findings.score < 0)))
    if negative:
        lines.append(
            f"{plural(negative, 'selected prompt')} {'has' if negative == 1 else 'have'} a negative score: "
            "learnable, but with a gradient that points away from the mean."
        )
    lines += _source_warning(findings)
    left_out = findings.count("skipped") + findings.count("excluded")
    if left_out:
        lines.append(
            f"{plural(left_out, 'prompt')} could not be scored: {findings.count('skipped'):,} skipped, "
            f"{findings.count('excluded'):,} excluded. The reasons are listed in the report."
        )
    return lines


def _filled(findings: Findings) -> str:
    """Which places of the selection went to prompts that are not learnable, as the end of a warning."""
    others = {state: findings.count(state, findings.picked) for state in STATES if state != "learnable"}
    n = sum(others.values())
    if not n:
        return ""
    parts = ", ".join(f"{k:,} {state}" for state, k in others.items() if k)
    places = f"The last {plural(n, 'place')}" if n < len(findings.facts.selected) else "All places"
    return f" {places} of the selection went to prompts that teach this policy nothing ({parts})."


def _source_warning(findings: Findings) -> list[str]:
    """Warn where the selection is nearly all of one source that is a minority of the pool."""
    n = len(findings.facts.selected)
    for name, pool, _, ours in by_source(findings):
        if n >= 10 and ours > 0.8 * n and pool < 0.5 * findings.rows:
            return [
                f"{share(ours, n)} of the selection comes from the source “{name}”, "
                f"which is {share(pool, findings.rows)} of the pool. Select again after some training steps."
            ]
    return []


def by_source(findings: Findings) -> list[tuple[str, int, int, int]]:
    """(source, prompts, learnable, selected), most frequent first; empty with a single source."""
    column = findings.facts.scores.column("source").fill_null("").combine_chunks().dictionary_encode()
    names = [str(name) for name in column.dictionary.to_pylist()]
    if len(names) < 2:
        return []
    codes = np.asarray(column.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
    pool, learnable, ours = (
        np.bincount(codes[mask], minlength=len(names))
        for mask in (np.ones(findings.rows, dtype=np.bool_), findings.learnable, findings.picked)
    )
    order = sorted(range(len(names)), key=lambda k: (-int(pool[k]), names[k]))
    return [(names[k] or "(none)", int(pool[k]), int(learnable[k]), int(ours[k])) for k in order]
