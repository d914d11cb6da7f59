"""What every engine takes and gives: tasks, responses, and the batches in which a run asks for them.

It does not sample (see `local`, `vllm`, `server`), write files, judge responses, or know about resuming.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

from learnalign.errors import PolicyError
from learnalign.policy import Renderer


class Task(NamedTuple):
    """A prompt that wants responses."""

    prompt_id: str
    tokens: list[int]
    responses: int
    """How many."""
    first: int = 0
    """Number of the first of them: those below are there already."""


class Response(NamedTuple):
    """One sampled response, the end token included where the policy gave one."""

    prompt_id: str
    number: int
    prompt_tokens: list[int]
    tokens: list[int]
    log_probabilities: list[float]
    """Natural logarithms, one a token, at the sampling temperature; NaN where an engine cannot tell."""
    text: str
    finish: str
    """`stop` (the policy ended it) or `length` (cut at max_new_tokens)."""


class Engine(Protocol):
    """Something that samples responses. Leaving its `with` block frees what it holds."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...

    def sample(self, tasks: Sequence[Task]) -> list[Response]:
        """All responses of all tasks, in the tasks' order, by number."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the policy as this engine ran it."""
        ...


def plan(lengths: Sequence[int], wanted: Sequence[int], sequences: int) -> list[list[int]]:
    """Batches of prompts of like length, longest first (memory runs out at once or never), as positions.

    lengths: tokens of every prompt; wanted: responses of each, those with 0 left out; sequences: most of a batch,
    but a single prompt is never split. A pure function of its arguments, so that a resumed run makes the batches
    of an uninterrupted one, in an order that does not depend on `wanted`.
    """
    batches: list[list[int]] = []
    room = 0
    for i in sorted((i for i, count in enumerate(wanted) if count), key=lambda i: (-lengths[i], i)):
        if wanted[i] > room:
            batches.append([])
            room = max(sequences, wanted[i])
        batches[-1].append(i)
        room -= wanted[i]
    return batches


def response(
    renderer: Renderer, task: Task, number: int, tokens: Sequence[int], log_probabilities: Sequence[float]
) -> Response:
    """A response from what was generated, cut after the first end token."""
    end = next((t for t, token in enumerate(tokens) if token in renderer.eos_ids), None)
    kept = len(tokens) if end is None else end + 1
    text, finish = renderer.decode(tokens[:kept]), "length" if end is None else "stop"
    logs = list(log_probabilities[:kept])
    return Response(task.prompt_id, number, task.tokens, list(tokens[:kept]), logs, text, finish)


def require_finite(responses: list[Response]) -> list[Response]:
    """The responses. Raises `PolicyError` where the policy's own probabilities are not finite."""
    for r in responses:
        if not all(map(math.isfinite, r.log_probabilities)):
            raise PolicyError(
                f"the policy's probabilities for prompt {r.prompt_id!r} are not finite: its weights are damaged, "
                "or overflow in their dtype (see policy.dtype)"
            )
    return responses
