r"""The boxes of a response: `\boxed{...}` and `\fbox{...}` with balanced braces.

Of several boxes the last one counts. Boxes that stand next to one another, with no more between them than a comma,
a space or the word "and", are one answer in several parts: `\boxed{2} and \boxed{3}` is "2, 3" (a
repetition counts once; `exact` drops one in another form). A last box that never closes was cut off inside its
answer: there is none. Empty boxes are no boxes.
This module does not look for other markers: see `extract`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(r"(?:\\|(?<![A-Za-z]))(?:boxed|fbox)\s*\{|\\(?s:.)|[{}]")
_BARE = re.compile(r"\\(?:boxed|fbox)\s*(-?\d[^\s{}$\\]*|\\[dt]?frac\s?\{[^{}]*\}\s?\{[^{}]*\})")
_BETWEEN = re.compile(r"(?:[\s$,;&~]|\\[\\,;:!\[\]() ]|\\q?quad\b|\\text\{\s*(?:,|and|or)*\s*\}|\band\b|\bor\b)*")
APART = 60
"""Characters that may stand between two boxes of one answer."""


class Box(NamedTuple):
    """Where a box starts and ends in its text, and what it holds; `end` is -1 if it never closes."""

    start: int
    end: int
    content: str


def has_box(text: str) -> bool:
    """Whether the text has a box that holds something, closed or not."""
    return ("boxed" in text or "fbox" in text) and bool(_boxes(text))


def last_box(text: str) -> str | None:
    """Content of the last box of `text`, joined as said above; None without a box, or when the last never closes."""
    return ", ".join(last_boxes(text)) or None


def last_boxes(text: str) -> list[str]:
    """The last box of `text` and those that stand next to it, in order; empty where `last_box` is None."""
    boxes = _boxes(text) if "boxed" in text or "fbox" in text else []
    if not boxes or boxes[-1].end < 0:
        return []
    found = [boxes[-1].content]
    for earlier, later in zip(boxes[-2::-1], boxes[:0:-1], strict=False):
        if earlier.end < 0 or not 0 <= later.start - earlier.end <= APART:
            break
        if not _BETWEEN.fullmatch(text, earlier.end, later.start):
            break
        found.append(earlier.content)
    return list(dict.fromkeys(reversed(found)))


def _boxes(text: str) -> list[Box]:
    """The boxes that hold something and lie in no other, in order."""
    found: list[Box] = []
    stack: list[tuple[int, int]] = []  # (start of the command or -1 for a plain brace, start of the content)
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark == "{":
            stack.append((-1, token.end()))
        elif mark == "}":
            if stack:
                start, content = stack.pop()
                if start >= 0:
                    found.append(Box(start, token.end(), text[content : token.start()].strip()))
        elif mark.endswith("{") and len(mark) > 2:
            stack.append((token.start(), token.end()))
    found += [Box(start, -1, "...") for start, _ in stack if start >= 0]
    found += [Box(match.start(), match.end(), match.group(1).strip(".,;")) for match in _BARE.finditer(text)]
    innermost: list[Box] = []
    for box in sorted(box for box in found if box.content):
        if innermost and 0 <= box.end <= innermost[-1].end:
            innermost.pop()  # a box in a box: the inner one says the same
        innermost.append(box)
    return innermost
