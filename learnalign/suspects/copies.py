"""Problems that stand in a pool twice, or in a test set too.

Two texts are the same problem if they differ in layout alone: the same words, numbers and symbols in the same order,
but for case, punctuation, math delimiters and words that carry nothing ("the", "find", "compute"). What allows for
more finds problems that differ in one word that matters: "radius" for "center", 12 for 6. For a test set, where a copy
need not contradict anything, one word in seven may differ, but no number and no symbol.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from learnalign.rewards.answers.alternatives import alternatives
from learnalign.suspects import Suspect
from learnalign.suspects.answers import same_answer

LIKE = 0.85
"""Words that two texts have in common, of all that they have, from which on one is a copy of the other."""
FEWEST_TOKENS = 4
"""Of a text that can be told to be a copy: "2+2" stands everywhere."""
SHOWN = 80
"""Characters of a problem in the evidence."""

_TOKEN = re.compile(
    r"\\[A-Za-z]+|\d+(?:[.,]\d+)*|[^\W\d_]+|(?<=[A-Za-z)}])'(?![A-Za-z])|[^\w\s.,;:?\"'`$\u2018-\u201d]"
)
_LAYOUT = frozenset((r"\begin", r"\end", r"\left", r"\right", r"\displaystyle", r"\qquad", r"\quad", "&", "\\"))
_EMPTY_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "that",
        "this",
        "these",
        "those",
        "which",
        "who",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "has",
        "have",
        "had",
        "having",
        "of",
        "to",
        "in",
        "on",
        "at",
        "for",
        "with",
        "by",
        "from",
        "and",
        "then",
        "so",
        "also",
        "please",
        "we",
        "you",
        "let",
        "there",
        "it",
        "its",
        "such",
        "given",
        "suppose",
        "find",
        "determine",
        "compute",
        "calculate",
        "what",
        "evaluate",
        "value",
        "do",
        "does",
        "can",
        "could",
        "will",
        "would",
    ]
)


_EMPTY = _LAYOUT | _EMPTY_WORDS


def text_of(problem: str, messages: str | None) -> str:
    """All text of a prompt: its chat messages, or the plain problem."""
    return "\n".join(str(message["content"]) for message in json.loads(messages)) if messages else problem


def contradictions(
    prompt_ids: Sequence[str],
    texts: Sequence[str],
    answers: Sequence[str],
    success_rate: npt.NDArray[np.float64],
) -> list[Suspect]:
    """Prompts of the same problem with different answers.

    Of copies of which most have one answer, those with another are suspect; where no answer has most, those that are
    never solved if another is, else all.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, text in enumerate(texts):
        tokens = tuple([token for token in _TOKEN.findall(text.lower()) if token not in _EMPTY])
        if len(tokens) >= FEWEST_TOKENS:
            groups.setdefault(tokens, []).append(row)
    found = []
    for rows in groups.values():
        if len({answers[row] for row in rows}) > 1:
            found += _contradicting(rows, prompt_ids, answers, success_rate)
    return found


def copies_of(prompt_ids: Sequence[str], texts: Sequence[str], test: Sequence[str], name: str) -> list[Suspect]:
    """Prompts that are problems of a test set; name: of the test set."""
    by_symbols: dict[tuple[str, ...], list[int]] = {}
    words: list[frozenset[str]] = []
    for number, text in enumerate(test):
        symbols, own = _symbols_and_words(text)
        by_symbols.setdefault(symbols, []).append(number)
        words.append(own)
    found = []
    for prompt_id, text in zip(prompt_ids, texts, strict=True):
        symbols, own = _symbols_and_words(text)
        if len(symbols) + len(own) < FEWEST_TOKENS:
            continue
        likeness = {number: _jaccard(own, words[number]) for number in by_symbols.get(symbols, ())}
        best = max(likeness, key=lambda number: likeness[number], default=None)
        if best is not None and likeness[best] >= LIKE:
            shown = " ".join(test[best].split())
            found.append(
                Suspect(prompt_id, "test set", f"problem {best} (counted from 0) of {name}: {shown!r:.{SHOWN}}")
            )
    return found


def _contradicting(
    rows: list[int], prompt_ids: Sequence[str], answers: Sequence[str], success_rate: npt.NDArray[np.float64]
) -> list[Suspect]:
    first: list[int] = []  # of every answer, the first row that has it
    answer_of = {}
    for row in rows:
        same = next((other for other in first if _agree(answers[row], answers[other])), row)
        first += [row] if same == row else []
        answer_of[row] = same
    counts = Counter(answer_of.values())
    most = max(counts.values())
    trusted = {answer for answer, count in counts.items() if count == most} if most < len(rows) else set(first)
    if len(trusted) > 1:
        solved = {answer_of[row] for row in rows if success_rate[row] > 0}
        trusted = solved if 0 < len(solved) < len(first) else set()
    if len(first) == 1:
        return []
    found = []
    for row in rows:
        if answer_of[row] not in trusted:
            other = next(one for one in rows if answer_of[one] != answer_of[row])
            told = f"the same problem as {prompt_ids[other]!r}, whose answer is {answers[other]!r:.40} in place of "
            found.append(Suspect(prompt_ids[row], "contradiction", f"{told}{answers[row]!r:.40}"))
    return found


def _agree(one: str, other: str) -> bool:
    """Whether two reference answers, or any that they accept, are equal or may be."""
    return any(same_answer(a, b) is not False for a in alternatives(one) for b in alternatives(other))


def _tokens(text: str) -> list[str]:
    return [token for token in _TOKEN.findall(text.lower()) if token not in _LAYOUT]


def _symbols_and_words(text: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """The numbers, symbols and commands in order, and the words that carry something."""
    tokens = _tokens(text)
    words = frozenset(token for token in tokens if token[0].isalpha())
    return tuple(token for token in tokens if token not in words), words - _EMPTY_WORDS


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 1.0
