"""What a response concludes: the part behind its reasoning, and what its answer tags hold.

Reasoning stands in `<think>...</think>`, where the prompt may have opened it: only what follows the last closing tag
counts. Reasoning that is opened and never closed was cut off, so that nothing is concluded. Within what counts, the
last `<answer>...</answer>` singles out the answer. This module does not know answers: see `answers` and `code`.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

_THINKING = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_OPENS = re.compile(r"<answer>", re.IGNORECASE)
_CLOSES = re.compile(r"</answer>", re.IGNORECASE)


class Conclusion(NamedTuple):
    """The text that counts; `tagged` says whether answer tags single it out."""

    text: str
    tagged: bool


def conclusion(response: str) -> Conclusion:
    """See above. Linear in the length of the response."""
    text = behind_reasoning(response)
    inside = ""
    for opening in _OPENS.finditer(text):
        closing = _CLOSES.search(text, opening.end())
        end = closing.start() if closing else len(text)
        inside = text[opening.end() : end].strip() or inside
        if not closing:
            break
    return Conclusion(inside, True) if inside else Conclusion(text, False)


def behind_reasoning(response: str) -> str:
    """The response behind its reasoning; "" where that was cut off."""
    marks = deque(_THINKING.finditer(response), maxlen=1)
    if not marks:
        return response
    return response[marks[0].end() :] if marks[0].group(1) else ""
