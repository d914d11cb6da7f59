"""Reads rollouts that were logged elsewhere: which prompt, which response, which reward.

What a file holds is told from its columns:

- verl's `rollout_data_dir` (`<step>.jsonl`): `input`, `output`, `score`, and `gts`, `step`, `acc` where it has them;
- TRL's `completions_<step>.parquet`: `prompt`, `completion`, `step`, `advantage` and a column for each reward
  function. All other numbers are added up, as TRL does without reward weights; where the log has weights, or numbers
  that are no rewards, one column has to be named;
- plain JSON Lines, JSON or Parquet: a prompt (`prompt`, `problem`, `question`, or token ids in `prompt_tokens`,
  `prompt_ids`, `prompt_token_ids`), a response (`response`, `completion`, `output`, or token ids in `response_tokens`,
  `completion_ids`, `response_ids`, `tokens`), a reward (`reward`, `score`) or `correct`, and `id`, `answer`, `step`
  where it has them.

Log only what the policy of today, or one near it, has sampled: sketches take the responses for its own. This module
knows no tokenizer and no pool (see `importing`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from learnalign.errors import LogError
from learnalign.pool.columns import problem_text, scalar_text
from learnalign.pool.records import open_records, read_records

PROMPT = ("prompt", "problem", "question", "messages")
PROMPT_TOKENS = ("prompt_tokens", "prompt_ids", "prompt_token_ids")
RESPONSE = ("response", "completion", "output")
RESPONSE_TOKENS = ("response_tokens", "completion_ids", "response_ids", "tokens")
REWARD = ("reward", "score")
CORRECT = ("correct", "acc")
ID = ("prompt_id", "id", "uid", "index")
ANSWER = ("gts", "answer", "ground_truth", "solution")
NO_REWARDS = ("step", "advantage", "num_images")
"""Numeric columns of TRL's log that are no rewards."""

Tokens = np.ndarray[Any, np.dtype[np.int32]]


class Logged(NamedTuple):
    """One response. Of prompt and response there is the text or the token ids, of the prompt possibly both."""

    prompt: str | list[Any] | None
    """As text or as chat messages."""
    form: Literal["problem", "literal", "decoded"]
    """Of a prompt that is text: a plain problem as in a pool; all that the policy saw (TRL); or what it saw without
    the special tokens (verl)."""
    prompt_tokens: Tokens | None
    response: str | None
    tokens: Tokens | None
    reward: float | None
    correct: bool | None
    prompt_id: str
    answer: str
    step: int
    """Of the training; -1 where the log does not say."""


def read_logs(paths: Iterable[str | Path], reward_column: str = "", correct_column: str = "") -> Iterator[Logged]:
    """Every response in the files, folders taken for all the .jsonl, .json and .parquet in them. Raises `LogError`."""
    for path in _files(paths):
        file = open_records(path)
        for place, record in read_records(file):
            try:
                yield _logged(record, reward_column, correct_column)
            except ValueError as error:
                raise LogError(f"{path}: {file.place(place)}: {error}") from error


def _files(paths: Iterable[str | Path]) -> list[Path]:
    """The files themselves, steps in the order of their numbers."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise LogError(f"there is no log {path}")
        inside = [p for p in path.iterdir() if p.suffix in (".jsonl", ".json", ".parquet")] if path.is_dir() else [path]
        if not inside:
            raise LogError(f"the folder {path} holds no .jsonl, .json or .parquet files")
        found += sorted(inside, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])
    return found


def _logged(record: dict[str, Any], reward_column: str, correct_column: str) -> Logged:
    """One row. Raises `ValueError` that says what is unfit."""
    verl = {"input", "output"} <= set(record)
    trl = {"prompt", "completion", "advantage"} <= set(record)
    prompt = record["input"] if verl else _first(record, PROMPT)
    prompt_tokens = _tokens(record, PROMPT_TOKENS)
    response, tokens = _first(record, RESPONSE), _tokens(record, RESPONSE_TOKENS)
    if prompt is None and prompt_tokens is None:
        raise ValueError(f"no prompt; looked for {', '.join((*PROMPT, *PROMPT_TOKENS, 'input'))}, {_found(record)}")
    if response is None and tokens is None:
        raise ValueError(f"no response; looked for {', '.join((*RESPONSE, *RESPONSE_TOKENS))}, {_found(record)}")
    if prompt_tokens is None and not isinstance(prompt, str):
        problem_text(prompt)  # raises for what are no chat messages
    correct = record.get(correct_column) if correct_column else _first(record, CORRECT)
    reward = _reward(record, reward_column, trl)
    number = _number(correct, "a verdict")
    identity = _first(record, ID)
    return Logged(
        prompt=prompt,
        form="decoded" if verl else "literal" if trl else "problem",
        prompt_tokens=prompt_tokens,
        response=None if tokens is not None else _response_text(response),
        tokens=tokens,
        reward=float(number) if reward is None and number is not None else reward,
        correct=None if number is None else number > 0,
        prompt_id="" if identity is None else scalar_text(identity),
        answer=_answer(_first(record, ANSWER)),
        step=_step(record.get("step")),
    )


def _reward(record: dict[str, Any], column: str, trl: bool) -> float | None:
    if column:
        if column not in record:
            raise ValueError(f"no column {column!r} with rewards, {_found(record)}")
        return _number(record[column], "a reward")
    if not trl:
        return _number(_first(record, REWARD), "a reward")
    rewards = [value for name, value in record.items() if _is_number(value) and name not in (*NO_REWARDS, *CORRECT)]
    given = [value for value in rewards if not math.isnan(value)]  # NaN: the function did not apply, as TRL logs None
    return _number(math.fsum(given), "a reward") if rewards else None


def _number(value: Any, what: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} must be a finite number, found {value!r:.40}")
    return float(value)


def _step(value: Any) -> int:
    if value is None:
        return -1
    try:
        return int(value)  # TRL writes text
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"a step must be a whole number, found {value!r:.40}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tokens(record: dict[str, Any], names: tuple[str, ...]) -> Tokens | None:
    value = _first(record, names)
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or not value
        or not all(type(token) is int and 0 <= token < 2**31 for token in value)
    ):
        raise ValueError(f"token ids must be a list of whole numbers that is not empty, found {value!r:.40}")
    return np.array(value, np.int32)


def _response_text(value: Any) -> str:
    """Text; of TRL's chat completions that of the assistant."""
    if isinstance(value, list) and value and isinstance(value[-1], dict) and isinstance(value[-1].get("content"), str):
        return str(value[-1]["content"])
    if not isinstance(value, str):
        raise ValueError(f"a response must be text, found {value!r:.40}")
    return value


def _answer(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else scalar_text(value)


def _first(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _found(record: dict[str, Any]) -> str:
    return f"found {', '.join(record) or 'nothing'}"
