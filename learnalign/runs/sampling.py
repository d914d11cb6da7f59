"""What a worker does of the rollout stage: it samples the responses of a part. This module writes no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from learnalign.cluster import Needs
from learnalign.config import Config
from learnalign.policy import load_renderer, policy_digest
from learnalign.rollout import open_engine
from learnalign.rollout.engine import Engine, Response, Task
from learnalign.runs.workers import device_kind, same_versions
from learnalign.schemas import ROLLOUTS


@dataclass(frozen=True)
class Sampling:
    """See `learnalign.cluster.Work`. longest: prompt, in tokens. threads: of a processor."""

    config: Config
    longest: int
    threads: int

    @property
    def needs(self) -> Needs:
        """The GPUs that share the policy. One part at a time: it takes long, and the last should not wait in a row."""
        rollout = self.config.rollout
        own = {"transformers": 1, "vllm": rollout.tensor_parallel, "server": 0}
        return Needs(own[rollout.engine], self.threads, ahead=1)

    def identity(self) -> dict[str, str]:
        """Versions, and the digest of the weights."""
        engine = ("vllm",) if self.config.rollout.engine == "vllm" else ()
        return {**same_versions(*engine), "policy": policy_digest(self.config.policy.model)}

    @contextmanager
    def open(self, say: Callable[[str], None]) -> Iterator[OpenEngine]:
        """Open the engine that is configured."""
        torch.set_num_threads(self.threads)
        with open_engine(self.config, load_renderer(self.config.policy), self.longest, say) as engine:
            yield OpenEngine(engine)


class OpenEngine:
    """An engine that computes units: the responses of a part, as the table that is stored."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def device(self) -> str:
        """See `Opened.device`."""
        return device_kind(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def about(self) -> dict[str, Any]:
        """What decides bits."""
        return {"threads": torch.get_num_threads(), "dtype": self.engine.facts().get("dtype", "")}

    def facts(self) -> dict[str, Any]:
        """See `Engine.facts`."""
        return self.engine.facts()

    def __call__(self, tasks: Sequence[Task]) -> pa.Table:
        """All responses of all tasks, with the columns `ROLLOUTS`."""
        return _table(self.engine.sample(tasks))


def _table(responses: list[Response]) -> pa.Table:
    columns = list(zip(*responses, strict=True))
    prompt_id, number, prompt_tokens, tokens, logprobs, text, finish = columns
    token_counts = [len(t) for t in tokens]
    arrays = [prompt_id, number, prompt_tokens, tokens, logprobs, token_counts, text, finish]
    return pa.table([pa.array(a, f.type) for a, f in zip(arrays, ROLLOUTS, strict=True)], schema=ROLLOUTS)
