"""A reward of one's own, named as `file.py:function`, with either of the two signatures that people have:

    verl   compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float, or dict with "score"
    TRL    reward(completions, prompts, **columns) -> list of floats, None where it does not apply

Called by keyword. `ground_truth` is the pool's `reward_model.ground_truth` where it has one, else its answer;
`extra_info` the pool's own `extra_info`, or else the whole row. `**columns` are all columns of the pool but `prompt`
and `completion`, one entry a response. Chat prompts come as messages, with completions
`[{"role": "assistant", "content": text}]`; other prompts as text, with completions as text. verl's function is called
once a response, TRL's once a prompt with all of its responses. Values that JSON lacks (dates, bytes) reach it as text.

Reward and correctness are kept apart: a response is correct if the "acc" in a returned dict is true or 1 (0 and -1
say no, other numbers are refused); without one, if its reward is at least `threshold`. None is a reward of 0 and
not correct (`no reward`).

The function runs in worker processes of its own, so a hang or a crash costs one call, whose responses are judged wrong
(`timeout`, `crash`); what it raises is a `RewardError` that names the prompt. It is not sandboxed: it is your code. Its
file's digest is an input of the stage; modules that it imports are not watched.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from learnalign.config import FUNCTION
from learnalign.errors import RewardError
from learnalign.files import sha256_file
from learnalign.rewards.verdict import Prompt, Verdict, Verifier, check_lengths, is_correct
from learnalign.rewards.workers import START_SECONDS, Question, Reply, WorkerPool


def is_function(verifier: str) -> bool:
    """Whether the name of a verifier is `file.py:function`."""
    return FUNCTION.fullmatch(verifier) is not None


def source_digest(verifier: str) -> str:
    """SHA-256 of the file of `file.py:function`. Raises `RewardError` if there is none."""
    return sha256_file(_file(verifier))


class FunctionVerifier(Verifier):
    """Verifier with a function of the user's. Not for use from several threads at once.

    A call may take `timeout_seconds` for each of its responses, in a process of `memory_mb` MiB of address space.
    """

    def __init__(
        self, verifier: str, *, workers: int, timeout_seconds: float, memory_mb: int, threshold: float
    ) -> None:
        self._name = verifier
        self._timeout_seconds = timeout_seconds
        self._threshold = threshold
        arguments = [str(_file(verifier).resolve()), verifier.rpartition(":")[2]]
        self._pool = WorkerPool(
            "learnalign.rewards.function_worker", arguments, workers=workers, memory_mb=memory_mb, tasks_per_worker=64
        )
        self._signature = ""

    def judge(
        self, responses: Sequence[str], answers: Sequence[str], prompts: Sequence[Prompt] | None = None
    ) -> list[Verdict]:
        """See `Verifier.judge`. Raises `RewardError` for what the function raises or returns amiss."""
        if prompts is None:
            prompts = [Prompt(id=f"at position {position}") for position in range(len(responses))]
        check_lengths(responses, answers, prompts)
        if not responses:
            return []
        calls = self._calls(responses, answers, prompts)
        outcomes = self._pool.run([Question(message, self._timeout_seconds * size) for message, size in calls])
        verdicts: list[Verdict] = []
        for (_, size), outcome in zip(calls, outcomes, strict=True):
            verdicts += self._verdicts(outcome, size, prompts[len(verdicts)].id)
        return verdicts

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def _calls(
        self, responses: Sequence[str], answers: Sequence[str], prompts: Sequence[Prompt]
    ) -> list[tuple[dict[str, Any], int]]:
        """The arguments of every call, and how many responses it judges."""
        if not self._signature:
            (outcome,) = self._pool.run([Question("signature", START_SECONDS)])
            self._signature = str(outcome.reply)
        if self._signature == "verl":
            return [(_verl(*case), 1) for case in zip(responses, answers, prompts, strict=True)]
        groups = [list(group) for _, group in groupby(range(len(prompts)), key=lambda i: prompts[i].id)]
        return [(_trl([responses[i] for i in group], prompts[group[0]]), len(group)) for group in groups]

    def _verdicts(self, outcome: Reply, size: int, prompt_id: str) -> list[Verdict]:
        if outcome.lost:
            return [Verdict(False, 0.0, outcome.lost)] * size
        assert isinstance(outcome.reply, dict)
        if "error" in outcome.reply:
            raise RewardError(f"{self._name} failed on prompt {prompt_id!r}: {outcome.reply['error']}")
        return [self._verdict(reward, accurate) for reward, accurate in outcome.reply["rewards"]]

    def _verdict(self, reward: float | None, accurate: bool | None) -> Verdict:
        if reward is None:
            return Verdict(False, 0.0, "no reward")
        correct = is_correct(reward, self._threshold) if accurate is None else accurate
        return Verdict(correct, reward, "reward" if correct else "wrong")


def _verl(response: str, answer: str, prompt: Prompt) -> dict[str, Any]:
    row = prompt.row
    model = row.get("reward_model")
    return {
        "data_source": prompt.source,
        "solution_str": response,
        "ground_truth": model["ground_truth"] if isinstance(model, dict) and "ground_truth" in model else answer,
        "extra_info": row["extra_info"] if "extra_info" in row else dict(row),
    }


def _trl(responses: list[str], prompt: Prompt) -> dict[str, Any]:
    columns = {name: [value] * len(responses) for name, value in prompt.row.items()}
    if prompt.messages is None:
        columns["prompts"], columns["completions"] = [prompt.problem] * len(responses), responses
    else:
        columns["prompts"] = [prompt.messages] * len(responses)
        columns["completions"] = [[{"role": "assistant", "content": text}] for text in responses]
    return {name: values for name, values in columns.items() if name not in ("prompt", "completion")}


def _file(verifier: str) -> Path:
    file = Path(verifier.rpartition(":")[0])
    if not file.is_file():
        raise RewardError(f"there is no file {file} for the reward {verifier!r} (looked from {Path.cwd()})")
    return file
