"""How numbers, durations and foreign texts are written, alike on the page and in the terminal.

Nothing here escapes HTML or terminal markup: that is done where the text is placed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

ABSENT = "–"  # noqa: RUF001 (an en dash is meant)
UNRECORDED = "not recorded"

# Control characters would act on a terminal or break a page; bidirectional overrides would reorder the rest.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """`text` with every control character but tab and newline shown as U+FFFD."""
    return _INVISIBLE.sub("\ufffd", text.replace("\r\n", "\n"))


def shorten(text: str, width: int) -> str:
    """`text` on one line, cut at a word near `width` characters with an ellipsis where it is longer."""
    line = " ".join(visible(text).split())
    if len(line) <= width:
        return line
    cut = line[: width - 1]
    space = cut.rfind(" ")
    return (cut[:space] if space > width // 2 else cut).rstrip() + "…"


def plural(n: int, noun: str) -> str:
    """`1 prompt`, `2 prompts`, `12,000 prompts`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def were(n: int) -> str:
    """`1 was`, `2 were`."""
    return f"{n:,} {'was' if n == 1 else 'were'}"


def decimals(values: Iterable[float], significant: int = 4) -> int:
    """Digits after the point that give the largest finite magnitude `significant` digits; from 1 to 10."""
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    if largest == 0.0:
        return 1
    return min(max(significant - 1 - math.floor(math.log10(largest)), 1), 10)


def number(value: float, places: int) -> str:
    """`value` with `places` digits after the point and a true minus; a dash where it is not finite."""
    if not math.isfinite(value):
        return ABSENT
    text = f"{value:,.{places}f}"
    return text.replace("-", "\u2212") if float(text.replace(",", "")) else text.lstrip("-")


def share(part: float, whole: float) -> str:
    """`part` of `whole` in percent; a dash where there is no whole."""
    if not whole:
        return ABSENT
    percent = 100.0 * part / whole
    if 0.0 < percent < 0.1:
        return "<0.1%"
    return ">99.9%" if 99.9 < percent < 100.0 else f"{percent:.1f}%"


def duration(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `2 min 05 s`, `3 h 04 min`."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def rate(amount: float, seconds: float) -> str:
    """`amount` per second with three significant digits; a dash where no time passed."""
    if not seconds > 0:
        return ABSENT
    per_second = amount / seconds
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"
