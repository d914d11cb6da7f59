"""What a person should know of a pool before anything is sampled: answers in disguise, prompts rendered already.

This module changes nothing and refuses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from learnalign.config import RENDERED
from learnalign.rewards.code.blocks import is_python

LOOKED_AT = 2000
"""Rows, evenly spread."""
MANY_WORDS = 60
SOME_WORDS = 12
"""More words than that on several lines are a solution, unless they are a program."""


def remarks(problems: Sequence[str], answers: Sequence[str], column: str) -> list[str]:
    """Notes on what most of the answers in `column` look like, and on rendered problems."""
    some = [answer for answer in answers[:: 1 + len(answers) // LOOKED_AT] if answer]
    notes = [
        f"most answers in column {column!r} look like {what}, such as {example!r:.60}: {advice}"
        for what, looks, advice in KINDS
        if (example := _most(some, looks)) is not None
    ]
    rendered = sum(1 for problem in problems[:: 1 + len(problems) // LOOKED_AT] if RENDERED.search(problem))
    if rendered:
        notes.append("some prompts are rendered already (they hold the marks of a chat template): taken as they are")
    return notes


def _most(answers: list[str], looks: Callable[[str], bool]) -> str | None:
    """One of the answers that look so, if more than half of them do."""
    found = [answer for answer in answers if looks(answer)]
    return found[0] if 2 * len(found) > len(answers) else None


def _is_json(kind: type[list[Any]] | type[dict[str, Any]]) -> Callable[[str], bool]:
    def looks(answer: str) -> bool:
        if answer[:1] not in "[{":
            return False
        try:
            value = json.loads(answer)
        except ValueError:
            return False
        texts = bool(value) and isinstance(value, list) and all(isinstance(one, str) for one in value)
        return isinstance(value, kind) and (kind is dict or texts)

    return looks


def _is_solution(answer: str) -> bool:
    if _is_json(dict)(answer) or _is_json(list)(answer):
        return False
    words = len(answer.split())
    if r"\boxed" in answer or words > MANY_WORDS:
        return True
    return "\n" in answer.strip() and words > SOME_WORDS and "####" not in answer and not is_python(answer)


KINDS: tuple[tuple[str, Callable[[str], bool], str], ...] = (
    ("JSON lists of accepted answers", _is_json(list), "any of a list counts as right"),
    ("JSON objects", _is_json(dict), "name the field with --answer-column, or judge with a function of your own"),
    (
        "whole solutions",
        _is_solution,
        "name the column of final answers with --answer-column; of a solution only one \\boxed{x}, `#### x` or a last "
        "line `A: x` is read as its answer",
    ),
)
