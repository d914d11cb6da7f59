"""Arithmetic problems of graded difficulty, their answers, and a wrong habit for each family.

Seven families times four levels. Every answer is one non-negative integer without leading zeros, so that exact
comparison of strings and a check of numeric value agree. A *habit* is a deterministic flawed procedure (forgetting
carries, sorting downward; compare the subtraction bugs of Brown and Burton, 1978); where the flaw does no harm
its answer is the right one. This module knows nothing of policies, files, or how often a habit appears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from itertools import zip_longest
from math import prod
from random import Random

from learnalign.errors import PoolError

Operands = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """One problem: `text` as a person writes it, the right `answer`, and what the family's `habit` answers."""

    family: str
    level: int
    text: str
    answer: str
    habit: str

    @property
    def misleading(self) -> bool:
        """Whether the habit leads to a wrong answer here."""
        return self.habit != self.answer


@dataclass(frozen=True)
class Family:
    """How one family writes, solves and mistakes its operands; `ranges[level - 1]` bounds each operand."""

    ranges: tuple[tuple[tuple[int, int], ...], ...]
    write: Callable[[Operands], str]
    solve: Callable[[Operands], int]
    mistake: Callable[[Operands], int]

    def operands(self, level: int, rng: Random) -> Operands:
        """Operands drawn uniformly from the inclusive ranges of `level` (1 to 4)."""
        return tuple(rng.randint(low, high) for low, high in self.ranges[level - 1])


def _digits(operands: Iterable[int]) -> Iterable[tuple[int, ...]]:
    """Columns of decimal digits, units first, shorter numbers padded with zeros."""
    return zip_longest(*(map(int, reversed(str(x))) for x in operands), fillvalue=0)


def _add_without_carry(x: Operands) -> int:
    return sum(sum(column) % 10 * 10**place for place, column in enumerate(_digits(x)))


def _smaller_from_larger(x: Operands) -> int:
    return sum(abs(column[0] - column[1]) * 10**place for place, column in enumerate(_digits(x)))


def _join(digits: Iterable[int]) -> int:
    return int("".join(map(str, digits)))


_DIGIT = (1, 9)  # no zeros: a sorted or reversed number then has no leading zero
_TWO, _THREE = (10, 99), (100, 999)

FAMILIES: dict[str, Family] = {
    "add": Family(
        ranges=((_TWO, _DIGIT), (_TWO, _TWO), (_THREE, _TWO), (_THREE, _THREE)),
        write=lambda x: f"{x[0]}+{x[1]}",
        solve=sum,
        mistake=_add_without_carry,
    ),
    "subtract": Family(
        ranges=((_TWO, _DIGIT), (_TWO, _TWO), (_THREE, _TWO), (_THREE, _THREE)),
        write=lambda x: f"{max(x)}-{min(x)}",
        solve=lambda x: abs(x[0] - x[1]),
        mistake=_smaller_from_larger,
    ),
    "mod": Family(
        ranges=((_TWO, (2, 9)), ((10, 299), (2, 9)), (_THREE, (2, 9)), (_THREE, (10, 20))),
        write=lambda x: f"{x[0]} mod {x[1]}",
        solve=lambda x: x[0] % x[1],
        mistake=lambda x: x[0] // x[1],  # the quotient instead of the remainder
    ),
    "multiply": Family(
        ranges=(((10, 199), (2, 5)), (_TWO, (2, 9)), ((10, 299), (2, 9)), (_TWO, (10, 20))),
        write=lambda x: f"{x[0]}*{x[1]}",
        solve=prod,
        mistake=sum,  # adds instead
    ),
    "sort": Family(
        ranges=tuple((_DIGIT,) * count for count in (4, 5, 6, 7)),
        write=lambda x: f"sort {_join(x)}",
        solve=lambda x: _join(sorted(x)),
        mistake=lambda x: _join(sorted(x, reverse=True)),  # downward
    ),
    "reverse": Family(
        ranges=tuple((_DIGIT,) * count for count in (4, 5, 6, 7)),
        write=lambda x: f"reverse {_join(x)}",
        solve=lambda x: _join(reversed(x)),
        mistake=_join,  # copies
    ),
    "sum3": Family(
        ranges=((_TWO, _DIGIT, _DIGIT), (_TWO, _TWO, _DIGIT), (_TWO,) * 3, (_THREE, _TWO, _TWO)),
        write=lambda x: f"{x[0]}+{x[1]}+{x[2]}",
        solve=sum,
        mistake=lambda x: x[0] + x[1],  # drops the last term
    ),
}
LEVELS = (1, 2, 3, 4)
CELLS: tuple[tuple[str, int], ...] = tuple((family, level) for family in FAMILIES for level in LEVELS)
"""All 28 combinations of family and level."""


def draw(family: str, level: int, rng: Random) -> Problem:
    """One problem of a family (a key of `FAMILIES`) and level (1 to 4), drawn from `rng`."""
    rules = FAMILIES[family]
    x = rules.operands(level, rng)
    return Problem(family, level, rules.write(x), str(rules.solve(x)), str(rules.mistake(x)))


def distinct(size: int, seed: int, avoid: Set[str] = frozenset()) -> list[Problem]:
    """`size` problems with different texts, the 28 cells as equally often as `size` allows, in random order.

    `avoid` holds texts that must not appear: pass the texts of one pool to draw a disjoint held-out set. The
    result depends on the arguments alone. Raises PoolError when a cell has too few problems left.
    """
    if size < 1:
        raise PoolError(f"size must be at least 1, got {size}")
    rng = Random(seed)
    cells = list(CELLS)
    rng.shuffle(cells)  # a size that is no multiple of 28 favors no particular family
    seen = set(avoid)
    problems: list[Problem] = []
    while len(problems) < size:
        family, level = cells[len(problems) % len(cells)]
        for _ in range(1000):
            problem = draw(family, level, rng)
            if problem.text not in seen:
                break
        else:
            raise PoolError(
                f"{size} distinct problems asked for, but after {len(problems)} no new {family!r} problem of "
                f"level {level} was found in 1,000 draws; ask for fewer"
            )
        seen.add(problem.text)
        problems.append(problem)
    rng.shuffle(problems)
    return problems
