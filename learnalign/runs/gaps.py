"""Were the responses sampled from the policy that is sketched? One check over all engines.

    sketches/gaps.jsonl  a line a sketched prompt whose log-probabilities were recorded: tokens, and the mean and the
                         largest difference from the policy's own, in nats (see `learnalign.gradient.gap`)

Recorded log-probabilities are of the distribution that was sampled from: the whole vocabulary at rollout.temperature,
for no engine here truncates it. A line comes before the prompt's row in the store, lines without a row go when a run is
resumed, and in the end they stand in the order of the rows, so that a resumed run has the bytes of an uninterrupted
one. What the bounds are worth is measured by `bench.engines`. This module runs no model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from learnalign import files
from learnalign.errors import PolicyError, RunError
from learnalign.gradient import Gap

NAME = "gaps.jsonl"
FEW_TOKENS = 256
"""Below so many tokens the mean says little; until then a run goes on."""
NOTED, NOTED_EXACT = 0.1, 0.0005
"""Mean differences beyond which a run says so: more than rounding makes where something is bfloat16, and where both
sides are float32. A policy of some steps ago can lie below the first."""


class Gaps:
    """The gaps of a store's prompts.

    done: prompts that are in the store. most: the mean difference, in nats a token, beyond which a run is refused.
    exact: whether policy and engine both compute in float32 or better.
    """

    def __init__(
        self, folder: Path, done: Container[str], *, most: float, policy: str = "", exact: bool = False
    ) -> None:
        self.path, self.most, self.policy = folder / NAME, most, policy
        self.noted = NOTED_EXACT if exact else NOTED
        self.prompts = self.tokens = 0
        self.total, self.largest, self.worst, self.worst_mean = 0.0, 0.0, "", -1.0
        kept = [line for line in _lines(self.path) if line["prompt_id"] in done]
        for line in kept:
            self._count(line["prompt_id"], Gap(line["tokens"], line["mean"], line["largest"]))
        self._resumed = bool(kept)
        if self.path.exists():
            files.write_text(self.path, "".join(map(_text, kept)))

    def add(self, prompt_ids: Sequence[str], gaps: Sequence[Gap]) -> None:
        """Write a batch's gaps down. Raises `PolicyError` where the responses so far are not the policy's own."""
        lines = []
        for prompt_id, gap in zip(prompt_ids, gaps, strict=True):
            if gap.tokens:
                rounded = Gap(gap.tokens, float(f"{gap.mean:.6g}"), float(f"{gap.largest:.6g}"))
                lines.append(_text({"prompt_id": prompt_id, **rounded._asdict()}))
                self._count(prompt_id, rounded)
        if lines:
            _append(self.path, "".join(lines))
        if self.tokens >= FEW_TOKENS:
            self.require()

    def require(self) -> None:
        """Raise `PolicyError` where the mean difference is larger than `most`."""
        if self.tokens and self.total / self.tokens > self.most:
            raise PolicyError(
                f"the responses were not sampled from {self.policy!r}: their recorded log-probabilities differ from "
                f"the policy's own by {self.total / self.tokens:.3g} on average over {self.tokens:,} tokens "
                f"(prompt {self.worst!r}: {self.worst_mean:.3g}), more than rollout.max_logprob_gap of {self.most:g}: "
                "other weights, a stale adapter or another temperature are served; sample again in a new run directory"
            )

    def arrange(self, order: Sequence[str]) -> None:
        """Put the lines in the order of the store's rows, which prompts that were set aside and made again break."""
        if self._resumed:
            row_of = {prompt_id: row for row, prompt_id in enumerate(order)}
            lines = sorted(_lines(self.path), key=lambda line: row_of.get(line["prompt_id"], len(row_of)))
            files.write_text(self.path, "".join(map(_text, lines)))

    def facts(self) -> dict[str, Any]:
        """For the manifest; of runs without recorded log-probabilities only that nothing was checked."""
        if not self.tokens:
            return {"prompts": 0}
        return {
            "prompts": self.prompts,
            "tokens": self.tokens,
            "mean": float(f"{self.total / self.tokens:.3g}"),
            "largest": self.largest,
            "worst_prompt": self.worst,
            "worst_mean": self.worst_mean,
        }

    def notes(self, total: int) -> list[str]:
        """What a person should know. total: sketched prompts."""
        if self.prompts < total or not self.tokens:
            which = f"{total - self.prompts:,} of {total:,} prompts" if self.tokens else "the responses"
            return [
                f"not checked whether {which} are this policy's own: no log-probabilities were recorded with the tokens"
            ]
        mean = self.total / self.tokens
        if mean <= self.noted:
            return []
        return [
            f"warning: recorded log-probabilities differ from the policy's own by {mean:.3g} on average (prompt "
            f"{self.worst!r}: {self.worst_mean:.3g}), more than rounding does: is it the policy that was sampled?"
        ]

    def _count(self, prompt_id: str, gap: Gap) -> None:
        self.prompts, self.tokens = self.prompts + 1, self.tokens + gap.tokens
        self.total, self.largest = self.total + gap.mean * gap.tokens, max(self.largest, gap.largest)
        if gap.mean > self.worst_mean:
            self.worst, self.worst_mean = prompt_id, gap.mean


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """All whole lines. Raises `RunError` for a file that is not of this form."""
    if not path.exists():
        return
    whole = path.read_bytes()
    try:
        for line in whole[: whole.rfind(b"\n") + 1].splitlines():
            found = json.loads(line)
            yield {key: found[key] for key in ("prompt_id", "tokens", "mean", "largest")}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}): delete it, and these prompts are not checked") from error


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
