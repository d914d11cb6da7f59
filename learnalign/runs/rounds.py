"""The rounds in which a pool is sampled: engines and verifiers, opened when first needed, serve them all.

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
import pyarrow.parquet as pq
import torch

from learnalign import files
from learnalign.cluster import Unit, Workers, open_workers
from learnalign.progress import Progress
from learnalign.rollout import batch_sequences
from learnalign.rollout.allocation import Counts, Round
from learnalign.rollout.engine import Task, plan
from learnalign.rollout.parts import part_name, parts_of
from learnalign.runs.directory import RunDir
from learnalign.runs.early import Early
from learnalign.runs.sampling import Sampling
from learnalign.runs.verifier import HERE, OpenVerifier, open_verifier
from learnalign.runs.workers import say_idle_gpus

VERDICTS = "verdicts-"
"""Before the name of a part: its verdicts."""


class TokenizedPrompt(NamedTuple):
    """A prompt of the pool as token ids."""

    prompt_id: str
    tokens: list[int]


class Rounds:
    """Samples and judges in `RUN/rollouts`. A context manager: leaving it leaves engines and verifiers."""

    def __init__(self, run: RunDir, progress: Progress, prompts: Sequence[TokenizedPrompt]) -> None:
        self.run, self.progress, self.prompts = run, progress, prompts
        self.folder = run.path / "rollouts"
        self.samplers: Workers | None = None
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
        samplers = self._samplers()
        with self.progress.track("rollout", total, "responses", done=total - left) as advance:
            units = (self._unit(parts[k], batches[k], wanted, sampled) for k in missing)
            early = Early(self.run, len(self.prompts), self.progress.say) if number == 0 else None
            for unit, table in samplers.map(units, ordered=False):
                files.write_parquet(unit.kept, table)
                advance(table.num_rows)
                left -= table.num_rows
                if early and left and early.sampled(table):
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
                read = ((part, pq.read_table(part, columns=["prompt_id", "response", "text"])) for part in missing)
                for part, table in verifier.judge(read):
                    files.write_parquet(_verdicts_of(part), table)
                    advance(table.num_rows)
        correct = np.zeros(len(self.prompts), np.int64)
        for part in parts:
            rows = pq.read_table(_verdicts_of(part), columns=["prompt_id", "correct"])
            at = [self._row_of[prompt_id] for prompt_id in rows["prompt_id"].to_pylist()]
            np.add.at(correct, at, rows["correct"].to_numpy())
        return correct

    def policy_facts(self) -> dict[str, Any]:
        """What the engine says of the policy; empty where no engine was needed."""
        return dict(self.samplers.ask("facts")) if self.samplers else {}

    def facts(self) -> dict[str, Any]:
        """Who sampled, where that was not this process."""
        return self.samplers.facts() if self.samplers else {}

    def notes(self) -> list[str]:
        """What a person should know of who sampled, and of how the verifier worked."""
        return [
            *(self.samplers.notes() if self.samplers else []),
            *(self.verifier.notes() if self.verifier else []),
        ]

    def _unit(self, part: Path, batch: Sequence[int], wanted: Sequence[int], sampled: Counts) -> Unit:
        tasks = [Task(*self.prompts[i], wanted[i], int(sampled[i])) for i in batch]
        return Unit([task.prompt_id for task in tasks], (tasks,), part)

    def _samplers(self) -> Workers:
        if self.samplers is None:
            longest = max(len(prompt.tokens) for prompt in self.prompts)  # a later round may ask for any prompt
            config = replace(self.run.config, policy=self.run.policy)
            work = Sampling(config, longest, torch.get_num_threads())
            say_idle_gpus(config, work.needs, lambda line: self.progress.say(f"rollout: {line}"))
            cluster = HERE if config.rollout.engine == "server" else config.cluster  # servers are many already
            self.samplers = self._opened.enter_context(open_workers(cluster, work, "rollout", self.progress))
        return self.samplers

    def _verifier(self) -> OpenVerifier:
        if self.verifier is None:
            opened = open_verifier(self.run, self.run.config.cluster, self.progress, beside=True)
            self.verifier = self._opened.enter_context(opened)
        return self.verifier


def made_verdicts(part: Path) -> Path | None:
    """The verdicts that were made of a part of rollouts while sampling, if there are any."""
    path = _verdicts_of(part)
    return path if path.exists() else None


def _verdicts_of(part: Path) -> Path:
    return part.with_name(VERDICTS + part.name)
