"""Reference answers that a verifier of answers in text cannot find in any response, and verdicts that it gave up on.

What is told from an answer's text: LaTeX that was cut off, a sentence where a short answer is compared, a placeholder,
more characters than are compared. This module does not run a verifier.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from learnalign.rewards.answers.alternatives import alternatives
from learnalign.rewards.answers.exact import LONGEST
from learnalign.rewards.answers.extract import gold_answer
from learnalign.suspects import Suspect

MOST_WORDS = 8
"""Of an answer that responses are expected to give in the same words."""
GAVE_UP = {
    "timeout": "ended in a timeout",
    "crash": "ended in a crash",
    "too long": "were too long to compare",
    "no reward": "got no reward",
}
"""Verdicts that say nothing of the response."""

_LEFT, _RIGHT = re.compile(r"\\left(?![a-z])"), re.compile(r"\\right(?![a-z])")
_ESCAPED = re.compile(r"\\[{}$\\]")
_PLACEHOLDER = re.compile(
    r"(?:n/?a|null|nan|unknown|tbd|todo|see (?:the )?(?:solution|explanation|above|below|figure|proof)|"
    r"(?:answers? (?:may |will )?vary)|no answer(?: given)?|not (?:given|provided|available)|[-?.\u2026*_ ]+)[.)]?",
    re.IGNORECASE,
)
_UNFINISHED = re.compile(r"(?:[-+*/^_=(,<\[\\]|\\(?:[dt]?frac|sqrt|text|cdot|times|div)|\\[dt]?frac\s*\{[^{}]*\})$")
_WORD = re.compile(r"[^\W\d_]{2,}")
_MATH = re.compile(r"\$[^$]*\$|\\text\s*\{[^{}]*\}|\\\(.*?\\\)|\\[A-Za-z]+")


def unreadable(prompt_ids: Sequence[str], answers: Sequence[str]) -> list[Suspect]:
    """Prompts of which no accepted answer can be read."""
    found = []
    for prompt_id, answer in zip(prompt_ids, answers, strict=True):
        if answer.isascii() and answer.isdecimal() and len(answer) <= LONGEST:
            continue
        reasons = [_reason(gold_answer(one)) for one in alternatives(answer)]
        if all(reasons):
            found.append(Suspect(prompt_id, "unreadable", f"the reference answer {answer!r:.80} {reasons[0]}"))
    return found


def undecided(prompt_id: str, lost: Counter[str], responses: int) -> Suspect | None:
    """The prompt, if most of its responses have one of the verdicts `GAVE_UP`; lost: how many have which."""
    verdict, count = lost.most_common(1)[0]
    if 2 * count <= responses:
        return None
    return Suspect(prompt_id, "undecided", f"{count} of {responses} responses {GAVE_UP[verdict]}")


def _reason(answer: str) -> str:
    """Why an answer cannot be read; "" if it can."""
    if not answer or _PLACEHOLDER.fullmatch(answer):
        return "is a placeholder"
    if len(answer) > LONGEST:
        return f"has {len(answer):,} characters, and {LONGEST:,} are compared"
    plain = _ESCAPED.sub("", answer)
    if plain.count("{") != plain.count("}") or len(_LEFT.findall(plain)) != len(_RIGHT.findall(plain)):
        return "is cut off: its braces do not match"
    if _UNFINISHED.search(plain):
        return "is cut off: something has to follow its end"
    if len(_WORD.findall(_MATH.sub(" ", answer))) > MOST_WORDS:
        return "is a text, which a response would have to repeat word for word"
    return ""
