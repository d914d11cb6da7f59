"""What a server with OpenAI's completions endpoint answers, checked once: no other module reads its JSON.

vLLM, SGLang and TGI answer in the same frame and differ in what they add: token ids (vLLM, newer SGLang), the token
that ended a response (`stop_reason` of vLLM, `matched_stop` of SGLang), their own names of an end (TGI, which takes
prompts as text only, and so refuses what is asked here). This module sends nothing.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from learnalign.errors import EngineError

ENDS = {"stop": True, "eos_token": True, "stop_sequence": True, "length": False}
"""Reasons to finish, and whether the policy ended the response itself; of any other a response is not whole."""

WANTED = {"text": str, "index": int, "finish_reason": str}
"""What every choice has."""


class Choice(NamedTuple):
    """One response as the server tells it."""

    text: str
    ended: bool
    tokens: list[int] | None
    """None where the server does not tell token ids."""
    log_probabilities: list[float]
    """One a token, or empty."""
    end: int | None
    """The token that ended it, where the server says so."""
    top: dict[str, float]
    """The likeliest first tokens with their log-probabilities, where they were asked for."""


def only_choice(answer: Any, url: str) -> Choice:
    """The response in an answer to a request for one. Raises `EngineError` that says what is wrong with the answer."""
    if not isinstance(answer, dict):
        raise EngineError(f"{url} answers {_shown(answer)} where an object with choices was expected")
    if answer.get("error"):
        raise EngineError(f"{url} answers with an error: {_shown(answer['error'])}")
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        found = f"{len(choices):,} responses" if isinstance(choices, list) else _shown(choices)
        raise EngineError(f"{url} answers {found} as choices where one response was asked for")
    return _choice(choices[0], url)


def _choice(choice: Any, url: str) -> Choice:
    found: dict[str, Any] = choice if isinstance(choice, dict) else {}
    for key, kind in WANTED.items():
        if type(found.get(key)) is not kind:
            raise EngineError(f"{url}: a choice needs {key} ({kind.__name__}), found {_shown(found.get(key))}")
    reason, tokens = found["finish_reason"], found.get("token_ids")
    if reason not in ENDS:
        raise EngineError(f"{url}: a response finished by {reason!r} is not whole; expected stop or length")
    if tokens is not None and not (isinstance(tokens, list) and all(type(token) is int for token in tokens)):
        raise EngineError(f"{url}: token_ids must be a list of integers, found {_shown(tokens)}")
    end = next((found[key] for key in ("stop_reason", "matched_stop") if type(found.get(key)) is int), None)
    logs = found.get("logprobs")
    return Choice(found["text"], ENDS[reason], tokens, _log_probabilities(logs), end, _top(logs))


def _log_probabilities(told: Any) -> list[float]:
    """Of the sampled tokens; empty where the server tells none, or in another form."""
    logs = told.get("token_logprobs") if isinstance(told, dict) else None
    return [float(x) if isinstance(x, int | float) else math.nan for x in logs] if isinstance(logs, list) else []


def _top(told: Any) -> dict[str, float]:
    tops = told.get("top_logprobs") if isinstance(told, dict) else None
    first = tops[0] if isinstance(tops, list) and tops else None
    return {str(k): float(x) for k, x in first.items() if isinstance(x, int | float)} if isinstance(first, dict) else {}


def _shown(value: Any) -> str:
    if isinstance(value, dict) and value.get("message"):
        value = value["message"]
    return " ".join(str(value if isinstance(value, str) else repr(value)).split())[:200]
