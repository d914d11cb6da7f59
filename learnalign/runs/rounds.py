"""The rounds in which a pool is sampled: one engine and one verifier, opened when first needed, serve them all.

    rollouts/part-000000.parquet          responses, a part a batch and round (see `learnalign.rollout.parts`)
    rollouts/verdicts-part-000000.parquet verdicts of a part after which the next round was decided

What is in the folder is not made again, so that a round goes on where it was killed. Which prompts a round asks for is
decided elsewhere (see `learnalign.rollout.allocation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import files
from learnalign.policy import Renderer
from learnalign.progress import Progress
from learnalign.rollout import batch_sequences, open_engine
from learnalign.rollout.allocation import Counts, Round
from learnalign.rollout.engine import Engine, Response, Task, plan
from learnalign.rollout.parts import part_name, parts_of
from learnalign.runs.directory import RunDir
from learnalign.runs.early import Early
from learnalign.runs.verifier import OpenVerifier, open_verifier, verdict_table
from learnalign.schemas import ROLLOUTS

VERDICTS = "verdicts-"
"""Before the name of a part: its verdicts."""


class TokenizedPrompt(NamedTuple):
    """A prompt of the pool as token ids."""

    prompt_id: str
    tokens: list[int]


class Rounds:
    """Samples and judges in `RUN/rollouts`. A context manager: leaving it leaves engine and verifier."""

    def __init__(self, run: RunDir, progress: Progress, renderer: Renderer, prompts: Sequence[TokenizedPrompt]) -> None:
        self.run, self.progress, self.renderer, self.prompts = run, progress, renderer, prompts
        self.folder = run.path / "rollouts"
        self.engine: Engine | None = None
        self.verifier: OpenVerifier | None = None
        self._opened = ExitStack()
        self._row_of = {prompt.prompt_id: row for row, prompt in enumerate(prompts)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    def sample(self, number: int, now: Round, sampled: Counts) -> None:
        """Sample the parts of round `number` that are not there yet. sampled: [N] responses of the rounds before."""
        wanted = now.wanted.tolist()
        batches = plan([len(p.tokens) for p in self.prompts], wanted, batch_sequences(self.run.config.rollout))
        parts = [self.folder / part_name(number, k) for k in range(len(batches))]
        missing = [k for k, part in enumerate(parts) if not part.exists()]
        if not missing:
            return
        total, left = sum(wanted), sum(wanted[i] for k in missing for i in batches[k])
        if left < total:
            self.progress.say(f"rollout: {total - left:,} of {total:,} responses were there")
        elif number:
            kept = int(np.count_nonzero(now.wanted))
            self.progress.say(f"rollout: round {number + 1} asks for {total:,} responses of {kept:,} prompts")
        engine = self._engine()
        with self.progress.track("rollout", total, "responses", done=total - left) as advance:
            early = Early(self.run, len(self.prompts), self.progress.say) if number == 0 else None
            for k in missing:
                tasks = [Task(*self.prompts[i], wanted[i], int(sampled[i])) for i in batches[k]]
                responses = engine.sample(tasks)
                files.write_parquet(parts[k], _table(responses))
                advance(len(responses))
                if early and early.sampled(responses) and k != missing[-1]:
                    early.tell(self._verifier().verdicts)
                    early = None

    def judge(self, number: int) -> Counts:
        """[N] correct responses of every prompt in round `number`; judges the parts that are not judged yet."""
        parts = parts_of(self.folder, number)
        missing = [part for part in parts if not _verdicts_of(part).exists()]
        total = sum(pq.read_metadata(part).num_rows for part in missing)
        if missing:
            verifier = self._verifier()
            with self.progress.track("judging", total, "responses") as advance:
                for part in missing:
                    rows = pq.read_table(part, columns=["prompt_id", "response", "text"])
                    verdicts = verifier.verdicts(rows["text"].to_pylist(), rows["prompt_id"].to_pylist())
                    files.write_parquet(_verdicts_of(part), verdict_table(rows, verdicts))
                    advance(len(verdicts))
        correct = np.zeros(len(self.prompts), np.int64)
        for part in parts:
            rows = pq.read_table(_verdicts_of(part), columns=["prompt_id", "correct"])
            at = [self._row_of[prompt_id] for prompt_id in rows["prompt_id"].to_pylist()]
            np.add.at(correct, at, rows["correct"].to_numpy())
        return correct

    def policy_facts(self) -> dict[str, Any]:
        """What the engine says of the policy; empty where no engine was needed."""
        return self.engine.facts() if self.engine else {}

    def notes(self) -> list[str]:
        """What a person should know of how the verifier worked."""
        return self.verifier.notes() if self.verifier else []

    def _engine(self) -> Engine:
        if self.engine is None:
            longest = max(len(prompt.tokens) for prompt in self.prompts)  # a later round may ask for any prompt
            config = replace(self.run.config, policy=self.run.policy)
            self.engine = self._opened.enter_context(open_engine(config, self.renderer, longest, self.progress.say))
        return self.engine

    def _verifier(self) -> OpenVerifier:
        if self.verifier is None:
            self.verifier = self._opened.enter_context(open_verifier(self.run))
        return self.verifier


def made_verdicts(part: Path) -> Path | None:
    """The verdicts that were made of a part of rollouts while sampling, if there are any."""
    path = _verdicts_of(part)
    return path if path.exists() else None


def _verdicts_of(part: Path) -> Path:
    return part.with_name(VERDICTS + part.name)


def _table(responses: list[Response]) -> pa.Table:
    columns = list(zip(*responses, strict=True))
    prompt_id, number, prompt_tokens, tokens, logprobs, text, finish = columns
    token_counts = [len(t) for t in tokens]
    arrays = [prompt_id, number, prompt_tokens, tokens, logprobs, token_counts, text, finish]
    return pa.table([pa.array(a, f.type) for a, f in zip(arrays, ROLLOUTS, strict=True)], schema=ROLLOUTS)
