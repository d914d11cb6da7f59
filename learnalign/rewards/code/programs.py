r"""Makes programs that test a response's code: of its text (`blocks`) and of the tests (`shapes`).

Of tests that compare calls with literals only the arguments reach the solution's process; what it returns is compared
outside. Other tests in Python run in a process of their own (`apart`). What cannot be kept apart, as tests that patch
the program, runs in the program's process.

Output is equal if its lines are, but for white space at both ends and blank lines at the end; else word by word, where
numbers with a decimal point may differ by 1e-6, and 2.0 is 2. This module runs nothing.
"""

from __future__ import annotations

import ast
import json
import math
import re
import secrets
from typing import Any, NamedTuple

from learnalign.rewards.code import apart
from learnalign.rewards.code.apart.tests import Job
from learnalign.rewards.code.blocks import above, find_code
from learnalign.rewards.code.shapes import Calls, Test, read_tests
from learnalign.rewards.code.unit_tests import counted, inseparable, used_names
from learnalign.rewards.verdict import Prompt

TOLERANCE = 1e-6

_UNIT_TESTS = """\
import builtins, linecache, os, sys, types
{builtins}
solution = types.ModuleType("solution")
sys.modules["solution"] = solution
exec("from typing import *", solution.__dict__)
linecache.cache["solution.py"] = (1, None, {code!r}.splitlines(True), "solution.py")
exec(compile({code!r}, "solution.py", "exec"), solution.__dict__)
exec(compile({tests!r}, "tests.py", "exec"), solution.__dict__)
sys.stdout.flush()
os.write(1, b"\\n{token}\\n")
os._exit(0)
"""
_CALLS = """\
import ast, builtins, linecache, os, sys, types
{builtins}
calls = ast.literal_eval(sys.stdin.read())
solution = types.ModuleType("solution")
sys.modules["solution"] = solution
exec("from typing import *", solution.__dict__)
linecache.cache["solution.py"] = (1, None, {code!r}.splitlines(True), "solution.py")
exec(compile({code!r}, "solution.py", "exec"), solution.__dict__)
def plain(value):
    if isinstance(value, dict):
        return {{plain(key): plain(item) for key, item in value.items()}}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return kind(map(plain, value))
    for kind in (bool, int, float, complex, str, bytes):
        if isinstance(value, kind):
            return kind(value)
    return value
values = []
for name, arguments, keywords in calls:
    function = getattr(solution, name, None)
    if function is None:
        function = getattr(solution.Solution(), name)
    values.append(plain(function(*arguments, **keywords)))
sys.stdout.flush()
os.write(1, b"\\n" + repr(values).encode() + b"\\n")
os._exit(0)
"""
_BUILTINS = """\
import _sitebuiltins
builtins.exit = builtins.quit = _sitebuiltins.Quitter("exit", "")
builtins.help = _sitebuiltins._Helper()
"""
_WITH_BUILTINS = f"import builtins\n{_BUILTINS}\nexec(compile({{code!r}}, 'program.py', 'exec'), globals())\n"


class Program(NamedTuple):
    """A program, its standard input, and how its end is judged."""

    kind: str
    """`output`: its standard output is compared with `expected`; `values`: the last line is, a list of literals, with
    the list `expected`; `apart`: the last line is the secret `expected` and the result (`apart.tests`); `together`: it
    prints the line `expected` if all is right."""
    source: str
    stdin: str
    expected: str
    tolerant: bool = False
    """Values with a decimal point may differ by 1e-6, and tuples are lists."""
    together: str = ""
    """The program of the kind `together`, for tests of which `apart` finds that they cannot be kept apart."""


def programs(response: str, answer: str, prompt: Prompt) -> list[Program]:
    """The programs that must all pass; none where the response has no code. Raises `RewardError` for unfit tests."""
    tests = read_tests(answer, prompt.row, prompt.id)
    entry_point = prompt.row.get("entry_point")
    entry_point = entry_point if isinstance(entry_point, str) else ""
    needed = [name for test in tests for name in _names(test, entry_point)]
    reads = any(not isinstance(test, str | Calls) and test[0].strip() for test in tests)
    code = find_code(response, prompt.problem, entry_point, needed, reads)
    if not code.strip():
        return []
    return [_program(code, test, above(prompt.problem, entry_point), entry_point) for test in tests]


def _names(test: Test, entry_point: str) -> list[str]:
    """What a test needs of the program."""
    if isinstance(test, Calls):
        return list(dict.fromkeys(call.name for call in test.calls))
    return used_names(test, entry_point) if isinstance(test, str) else []


def same_output(found: str, expected: str) -> bool:
    """Whether a program's standard output counts as the expected one."""
    if _lines(found) == _lines(expected):
        return True
    ours, theirs = found.split(), expected.split()
    return len(ours) == len(theirs) and all(map(_same_word, ours, theirs))


def same_values(found: str, expected: str, tolerant: bool) -> bool:
    """Whether the last line of a program's output holds the expected values; compared outside of its process."""
    lines = found.strip().splitlines()
    try:
        return bool(lines) and _same_value(ast.literal_eval(lines[-1]), ast.literal_eval(expected), tolerant)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False


def _same_value(found: Any, expected: Any, tolerant: bool) -> bool:
    if not tolerant:
        return bool(found == expected)
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(_same_returned, found, expected))
    return _same_returned(found, expected)


def _same_returned(found: Any, expected: Any) -> bool:
    """A value as JSON holds it; data sets put some values into a list of one."""
    if _alike(found, expected):
        return True
    return isinstance(expected, list) and len(expected) == 1 and _alike(found, expected[0])


def _alike(found: Any, expected: Any) -> bool:
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(_alike, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        named = {str(key): value for key, value in found.items()}
        return named.keys() == expected.keys() and all(_alike(named[key], value) for key, value in expected.items())
    if isinstance(found, float) and isinstance(expected, float | int) and not isinstance(expected, bool):
        return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(found == expected)


def _program(code: str, test: Test, given: str, entry_point: str) -> Program:
    if isinstance(test, Calls):
        source = _CALLS.format(code=code, builtins=_BUILTINS)
        arguments = repr([(call.name, call.arguments, call.keywords) for call in test.calls])
        return Program("values", source, arguments, repr([call.expected for call in test.calls]), test.tolerant)
    if isinstance(test, tuple):
        if re.search(r"\b(?:exit|quit|help)\b", code):
            code = _WITH_BUILTINS.format(code=code)
        return Program("output", code, *test)
    secret = secrets.token_hex(16)
    together = _UNIT_TESTS.format(code=code, tests=test, token=secret, builtins=_BUILTINS)
    if inseparable(test):
        return Program("together", together, "", secret)
    job = Job(
        code=code,
        given=given,
        tests=test,
        names=used_names(test, entry_point),
        counted=counted(test),
        secret=secret,
    )
    return Program("apart", apart.source(), json.dumps(job), secret, together=together)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def _same_word(found: str, expected: str) -> bool:
    if found == expected:
        return True
    if "." not in expected:
        return re.fullmatch(rf"{re.escape(expected)}\.0+", found) is not None and expected.lstrip("-").isdecimal()
    try:
        return math.isclose(float(found), float(expected), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except ValueError:
        return False
