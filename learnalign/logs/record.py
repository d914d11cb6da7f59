"""Makes a response of one row of a log: which prompt, which response, which reward.

What a row holds is told from its columns:

- verl's `rollout_data_dir` (`<step>.jsonl`): `input`, `output`, `score`, and `gts`, `step`, `acc`, `uid` where it has
  them;
- TRL's `completions_<step>.parquet`: `prompt`, `completion`, `step`, `advantage` and a column for each reward
  function. These are added up; a number whose name does not say that it is a reward has to be named or left out;
- plain JSON Lines, JSON or Parquet: a prompt (`prompt`, `problem`, `question`, or token ids in `prompt_tokens`,
  `prompt_ids`, `prompt_token_ids`), a response (`response`, `completion`, `output`, or token ids in `response_tokens`,
  `completion_ids`, `response_ids`, `tokens`), a reward (`reward`, `score`) or `correct`, and `id`, `answer`, `step`
  where it has them.

A response is what the policy wrote, and nothing else: one assistant message, or token ids whose mask (`response_mask`,
`completion_mask`, `loss_mask`) leaves out padding at their ends alone. What holds the output of tools is refused, since
its tokens are not the policy's. This module reads no files (see `reader`) and knows no tokenizer.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal, NamedTuple

import numpy as np

from learnalign.pool.columns import problem_text, scalar_text
from learnalign.rewards.verdict import as_verdict, is_correct

PROMPT = ("prompt", "problem", "question", "messages")
PROMPT_TOKENS = ("prompt_tokens", "prompt_ids", "prompt_token_ids")
RESPONSE = ("response", "completion", "output")
RESPONSE_TOKENS = ("response_tokens", "completion_ids", "response_ids", "tokens")
MASK = ("response_mask", "completion_mask", "loss_mask")
REWARD = ("reward", "score")
CORRECT = ("correct", "acc")
ID = ("prompt_id", "id", "uid", "index")
ANSWER = ("gts", "answer", "ground_truth", "solution")
NO_REWARDS = ("step", "advantage", "num_images")
"""Numeric columns of TRL's log that are no rewards."""
REWARD_NAME = re.compile(r"reward|acc|correct|score|format|solved|penalty", re.IGNORECASE)
"""What a column is called that is evidently a reward."""
TOOL_OUTPUT = re.compile(r"</?tool_response>|<\|im_start\|>|<\|start_header_id\|>|\[TOOL_RESULTS\]|</?information>")
"""What stands in a text that holds more turns than the policy's one (Qwen, Llama, Mistral, Search-R1)."""

Tokens = np.ndarray[Any, np.dtype[np.int32]]
Record = dict[str, Any]


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


class Chosen(NamedTuple):
    """The columns that a person named.

    rewards: name to weight, added up; none are found by name. correct: what decides; of verdicts these, of other
    numbers those from `threshold` on.
    """

    rewards: dict[str, float]
    correct: str
    threshold: float

    @classmethod
    def of(cls, reward_column: str, correct_column: str, threshold: float) -> Chosen:
        """From options: `--reward-column` is a name, or `accuracy=1,format=0.5` (a weight left out is 1)."""
        weights: dict[str, float] = {}
        for part in filter(None, (text.strip() for text in reward_column.split(","))):
            name, found, weight = part.rpartition("=")
            try:
                weights[name if found else part] = float(weight) if found else 1.0
            except ValueError:
                weights[part] = 1.0
        return cls(weights, correct_column, threshold)


class Layout(NamedTuple):
    """Which columns a row has for what; of several the first that is not null counts."""

    names: tuple[str, ...]
    """All of them, in their order."""
    prompt: tuple[str, ...]
    prompt_tokens: tuple[str, ...]
    response: tuple[str, ...]
    response_tokens: tuple[str, ...]
    mask: tuple[str, ...]
    reward: tuple[str, ...]
    correct: tuple[str, ...]
    identity: tuple[str, ...]
    answer: tuple[str, ...]
    verl: bool
    trl: bool

    @classmethod
    def of(cls, names: tuple[str, ...]) -> Layout:
        """From the names of a row's columns."""

        def found(known: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for name in known if name in names)

        verl = {"input", "output"} <= set(names)
        return cls(
            names=names,
            prompt=("input",) if verl else found(PROMPT),
            prompt_tokens=found(PROMPT_TOKENS),
            response=found(RESPONSE),
            response_tokens=found(RESPONSE_TOKENS),
            mask=found(MASK),
            reward=found(REWARD),
            correct=found(CORRECT),
            identity=found(ID),
            answer=found(ANSWER),
            verl=verl,
            trl={"prompt", "completion", "advantage"} <= set(names),
        )

    @property
    def is_log(self) -> bool:
        """Whether a response can be made of such rows."""
        prompts = (*self.prompt, *self.prompt_tokens, *(name for name in self.names if name == "input"))
        return bool(prompts) and bool((*self.response, *self.response_tokens))


def logged(record: Record, layout: Layout, chosen: Chosen) -> Logged:
    """One row; layout: of its columns. Raises `ValueError` that says what is unfit."""
    prompt, prompt_tokens = _first(record, layout.prompt), _tokens(record, layout.prompt_tokens)
    response, tokens = _first(record, layout.response), _tokens(record, layout.response_tokens)
    if prompt is None and prompt_tokens is None:
        raise ValueError(f"no prompt; looked for {', '.join((*PROMPT, *PROMPT_TOKENS, 'input'))}, {_found(record)}")
    if response is None and tokens is None:
        raise ValueError(f"no response; looked for {', '.join((*RESPONSE, *RESPONSE_TOKENS))}, {_found(record)}")
    if prompt_tokens is None and not isinstance(prompt, str):
        problem_text(prompt)  # raises for what are no chat messages
    reward, correct = _reward(record, layout, chosen), _correct(record, layout, chosen)
    identity = _first(record, layout.identity)
    return Logged(
        prompt,
        "decoded" if layout.verl else "literal" if layout.trl else "problem",
        prompt_tokens,
        None if tokens is not None else _response_text(response),
        None if tokens is None else _own_tokens(record, layout, tokens, response),
        float(correct) if reward is None and correct is not None else reward,
        correct,
        "" if identity is None else identity if isinstance(identity, str) else scalar_text(identity),
        _answer(_first(record, layout.answer)),
        _step(record.get("step")),
    )


def added_up(record: Record, layout: Layout, chosen: Chosen) -> list[str]:
    """Which columns a reward is the sum of, where there is a choice."""
    weights = chosen.rewards or (dict.fromkeys(_rewards_of_trl(record), 1.0) if layout.trl else {})
    if len(weights) < 2 and all(weight == 1.0 for weight in weights.values()):
        return []
    terms = [name if weight == 1.0 else f"{weight:g} x {name}" for name, weight in weights.items()]
    return [f"rewards are {' + '.join(terms)}"]


def _reward(record: Record, layout: Layout, chosen: Chosen) -> float | None:
    if not chosen.rewards and not layout.trl:
        return _number(_first(record, layout.reward), "a reward")
    missing = next((name for name in chosen.rewards if name not in record), None)
    if missing is not None:
        raise ValueError(f"no column {missing!r} with rewards, {_found(record)}")
    weights = chosen.rewards or dict.fromkeys(_rewards_of_trl(record), 1.0)
    given = {name: record[name] for name in weights if record[name] is not None and not _is_nan(record[name])}
    if not given:  # None and NaN: the function did not apply; nothing applied is a reward of 0, as in TRL
        return 0.0 if len(weights) > 1 or (weights and layout.trl) else None
    return math.fsum(weights[name] * (_number(value, "a reward") or 0.0) for name, value in given.items())


def _rewards_of_trl(record: Record) -> list[str]:
    """The columns of TRL's reward functions. Raises `ValueError` where others may be among them."""
    numbers = [name for name, value in record.items() if _is_number(value) and name not in (*NO_REWARDS, *CORRECT)]
    strange = [name for name in numbers if not REWARD_NAME.search(name)]
    if strange and len(numbers) > 1:
        raise ValueError(
            f"the numbers {', '.join(map(repr, strange))} are not evidently rewards: name those that are, "
            f"with --reward-column {','.join(name for name in numbers if name not in strange) or 'NAME'}"
        )
    return numbers


def _correct(record: Record, layout: Layout, chosen: Chosen) -> bool | None:
    """The verdict, None where the row has none. Raises `ValueError` for a number that is no verdict."""
    name = chosen.correct or next((name for name in layout.correct if record[name] is not None), "")
    if chosen.correct and name not in record:
        raise ValueError(f"no column {name!r} with verdicts, {_found(record)}")
    value = record.get(name)
    if value is None:
        return None
    _number(value, "a verdict")
    try:
        return as_verdict(value)
    except ValueError as error:
        if chosen.correct:
            return is_correct(value, chosen.threshold)
        raise ValueError(
            f"a verdict in column {name!r} {error}; name the column that decides with --correct-column: "
            "its numbers are correct from reward.threshold on"
        ) from None


def _number(value: Any, what: str) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, int | float) and math.isfinite(number := float(value)):
            return number
    except OverflowError:  # of a whole number with hundreds of digits
        pass
    raise ValueError(f"{what} must be a finite number, found {value!r:.40}")


def _step(value: Any) -> int:
    if value is None:
        return -1
    try:
        return int(value)  # TRL writes text
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"a step must be a whole number, found {value!r:.40}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _tokens(record: Record, names: tuple[str, ...]) -> Tokens | None:
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


def _own_tokens(record: Record, layout: Layout, tokens: Tokens, response: Any) -> Tokens:
    """The policy's own token ids: without the padding behind them. Raises `ValueError` for others between them."""
    mask = _first(record, layout.mask)
    if mask is None:
        if response is not None:
            _response_text(response)  # raises for several turns
        return tokens
    if not isinstance(mask, list) or len(mask) != len(tokens) or not all(value in (0, 1) for value in mask):
        raise ValueError(f"a mask must hold 0 or 1 for each of {len(tokens)} token ids, found {mask!r:.40}")
    own = sum(mask)
    if not own or not all(mask[:own]):
        raise ValueError(
            f"the mask leaves out {len(mask) - own} token ids that the policy has not written: a response with the "
            "output of tools between its tokens cannot be sketched; leave such rows out of the log"
        )
    return tokens[:own]


def _response_text(value: Any) -> str:
    """Text; of chat messages that of the one message of the assistant. Raises `ValueError` for several turns."""
    if isinstance(value, list):
        return _message_text(value)
    if not isinstance(value, str):
        raise ValueError(f"a response must be text, found {value!r:.40}")
    other = TOOL_OUTPUT.search(value)
    if other:
        raise ValueError(
            f"the response holds {other[0]!r}, the sign of another turn, whose tokens are not the policy's: leave such "
            "rows out of the log, or log token ids"
        )
    return value


def _message_text(messages: list[Any]) -> str:
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    if roles != ["assistant"]:
        found = ", ".join(map(str, roles)) or "none"
        raise ValueError(
            f"a response must be one message of the assistant, found {len(messages)} ({found}): tokens of others are "
            "not the policy's; leave such rows out of the log"
        )
    content = messages[0].get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content = content[0].get("text")
    if not isinstance(content, str) or messages[0].get("tool_calls"):
        raise ValueError(f"the message of the assistant must hold text and call no tools, found {messages[0]!r:.60}")
    return content


def _answer(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else scalar_text(value)


def _first(record: Record, names: tuple[str, ...]) -> Any:
    """The first value that is not null in these columns, which the row has."""
    for name in names:
        if (value := record[name]) is not None:
            return value
    return None


def _found(record: Record) -> str:
    return f"found {', '.join(record) or 'nothing'}"
