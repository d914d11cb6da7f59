"""What a worker does of the reward stage: it judges responses as text. It knows no pool and writes no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from learnalign.cluster import Needs
from learnalign.config import RewardConfig
from learnalign.rewards import Prompt, Verdict, Verifier, is_function, make_verifier, source_digest
from learnalign.rewards.by_source import BySourceVerifier
from learnalign.runs.directory import installed_versions


@dataclass(frozen=True)
class Judging:
    """See `learnalign.cluster.Work`. beside: while samplers wait for the verdicts."""

    reward: RewardConfig
    beside: bool = False

    @property
    def needs(self) -> Needs:
        """A processor for each of the verifier's processes."""
        return Needs(cpus=self.reward.workers, beside=self.beside)

    def identity(self) -> dict[str, str]:
        """Versions, and the source of a function of one's own, which must lie at the same path on all nodes."""
        functions = " ".join(source_digest(name) for name in self.reward.verifiers if is_function(name))
        source = {"reward function": functions} if functions else {}
        return {**installed_versions(("learnalign", "math-verify")), **source}

    @contextmanager
    def open(self, say: Callable[[str], None]) -> Iterator[OpenJudge]:
        """Start the verifier."""
        with _verifier(self.reward) as verifier:
            yield OpenJudge(verifier)


def _verifier(config: RewardConfig) -> Verifier:
    """The verifier, or those of all sources in one."""
    made = {
        name: make_verifier(
            name,
            workers=config.workers,
            timeout_seconds=config.timeout_seconds,
            memory_mb=config.memory_mb,
            threshold=config.threshold,
            sandbox_url=config.sandbox_url,
            weak_sandbox=config.weak_sandbox,
        )
        for name in config.verifiers
    }
    return BySourceVerifier(made, config.by_source) if config.by_source else made[config.verifier]


class OpenJudge:
    """A verifier that computes units."""

    device = "processor"

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    @property
    def about(self) -> dict[str, Any]:
        """Nothing: verdicts depend on responses alone."""
        return {}

    def notes(self) -> list[str]:
        """What a person should know of how the verifier works."""
        return self.verifier.notes()

    def __call__(self, texts: Sequence[str], answers: Sequence[str], prompts: Sequence[Prompt] | None) -> list[Verdict]:
        """See `Verifier.judge`."""
        return self.verifier.judge(texts, answers, prompts)
