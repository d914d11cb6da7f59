r"""Two whole numbers, one of them in a lone `\boxed{72}` or behind a last `#### 72`: the commonest verdict, at once.

It is what `extract`, `normalize` and `structure` find, in a tenth of the time, and whatever is less plain is left to
them: signs other than "-", commas, decimals, units, tags of reasoning, several boxes. This module decides nothing that
they would decide in another way.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from learnalign.rewards.answers.extract import gold_answer

_WHOLE = re.compile(r"-?[0-9]{1,15}")
_TAG = re.compile(r"</?think|<answer", re.IGNORECASE)
_BOX, _HASHES = "\\boxed{", "####"


class Plain(NamedTuple):
    """The two numbers as they are written."""

    gold: str
    candidate: str

    @property
    def same(self) -> bool:
        """Whether they are the same number."""
        return int(self.gold) == int(self.candidate)


def plain_numbers(response: str, answer: str) -> Plain | None:
    """The gold number of `answer` and the one that `response` marks; None where either is less plain than that."""
    gold = _plain_gold(answer)
    candidate = _marked(response) if gold else None
    return Plain(gold, candidate) if gold and candidate else None


@lru_cache(maxsize=1024)
def _plain_gold(answer: str) -> str | None:
    """Asked once for all responses to a prompt."""
    gold = gold_answer(answer)
    return gold if _WHOLE.fullmatch(gold) else None


def _marked(response: str) -> str | None:
    """The whole number in the only box, or behind the hashes that end a response without boxes."""
    if "fbox" in response or ("<" in response and _TAG.search(response)):
        return None
    box = response.find("boxed")
    if box >= 0:
        start = box + len("boxed{")
        lone = response.startswith(_BOX, box - 1) and box > 0 and response.find("boxed", start) < 0
        found = _WHOLE.match(response, start) if lone else None
        return found.group() if found and response.startswith("}", found.end()) else None
    hashes = response.rfind(_HASHES)
    if hashes < 0 or (hashes > 0 and not response[hashes - 1].isspace()):
        return None
    rest = response[hashes + len(_HASHES) :].lstrip(" \t").rstrip()
    return rest if _WHOLE.fullmatch(rest) else None
