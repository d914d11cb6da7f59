r"""Makes programs that test a response's code: finds the code, reads the tests, joins the two.

Code is the last Markdown block fenced as Python (or without a language); a response without fences is code as a whole:
a continuation of the prompt, as base models write it, unless it defines the function asked for itself. Before a block
comes what the prompt has above that function (imports, helpers), where the prompt is itself Python.

Tests are the pool's answer as text, in the shapes that data sets have:

- `{"inputs": [...], "outputs": [...]}`: pairs of standard input and output; with `"fn_name"` the arguments and the
  value of a function or of a method of `Solution` (APPS, TACO, verl's prime data), floats to 1e-6;
- `[{"input": ..., "output": ...}, ...]`: the same pairs (LiveCodeBench, Codeforces);
- `["assert ...", ...]` (MBPP), or any Python text that raises where the code is wrong; where it defines
  `check(candidate)`, that is called with the function that the pool's column `entry_point` names (HumanEval). Test
  functions and test cases that nothing calls are called; tests that assert nothing, or that import more than the
  standard library, are refused.

Of tests that compare calls with literals only the arguments reach the solution's process; what it returns is compared
outside (`unit_tests.calls`). Other tests in Python run in the same process as the code they test.

Output is equal if its lines are, but for white space at both ends and blank lines at the end; else word by word, where
numbers with a decimal point may differ by 1e-6. This module runs nothing.
"""

from __future__ import annotations

import ast
import json
import math
import re
import secrets
from typing import Any, NamedTuple

from learnalign.errors import RewardError
from learnalign.rewards.code import apart
from learnalign.rewards.code.apart.tests import Job
from learnalign.rewards.code.unit_tests import Call, calls, complete, counted, inseparable, used_names
from learnalign.rewards.conclusion import behind_reasoning
from learnalign.rewards.verdict import Prompt

TOLERANCE = 1e-6

_FENCE = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.DOTALL | re.MULTILINE
)
_PYTHON = ("", "python", "python3", "py")
_UNIT_TESTS = """\
import builtins, os, sys, types
{builtins}
solution = types.ModuleType("solution")
sys.modules["solution"] = solution
exec("from typing import *", solution.__dict__)
exec(compile({code!r}, "solution.py", "exec"), solution.__dict__)
exec(compile({tests!r}, "tests.py", "exec"), solution.__dict__)
sys.stdout.flush()
os.write(1, b"\\n{token}\\n")
os._exit(0)
"""
_CALLS = """\
import ast, builtins, os, sys, types
{builtins}
calls = ast.literal_eval(sys.stdin.read())
solution = types.ModuleType("solution")
sys.modules["solution"] = solution
exec("from typing import *", solution.__dict__)
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
_BUILTINS = "import _sitebuiltins; builtins.exit = builtins.quit = _sitebuiltins.Quitter('exit', '')"
_WITH_BUILTINS = f"import builtins; {_BUILTINS}\nexec(compile({{code!r}}, 'program.py', 'exec'), globals())\n"


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
    entry_point = prompt.row.get("entry_point")
    entry_point = entry_point if isinstance(entry_point, str) else ""
    tests = _read_tests(answer, entry_point, prompt.id)
    code = find_code(response, prompt.problem, entry_point)
    if not code.strip():
        return []
    return [_program(code, test, above(prompt.problem, entry_point), entry_point) for test in tests]


def find_code(response: str, problem: str, entry_point: str) -> str:
    """The Python text that a response gives; see above for its use of the prompt."""
    response = behind_reasoning(response)
    code = _block(response)
    if not code.strip() or _start(problem, entry_point) is None:
        return code
    if _start(code, entry_point) is None:
        return problem + code
    before = above(problem, entry_point)
    return f"{before}\n{code}" if before else code


def above(problem: str, entry_point: str) -> str:
    """What a problem that is Python has above the function asked for; "" where it has nothing, or is none."""
    start = _start(problem, entry_point)
    before = "" if start is None else problem[: start.start()]
    return before if _is_python(before) else ""


def _start(text: str, entry_point: str) -> re.Match[str] | None:
    """Where the function asked for is defined."""
    return re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", text, re.MULTILINE) if entry_point else None


def _block(response: str) -> str:
    """The last block of Python; a response that is Python as it stands, or until a fence that the prompt opened."""
    if _is_python(response):
        return response
    tagged: list[str] = re.findall(r"\[PYTHON\]\n(.*?)(?:\[/PYTHON\]|\Z)", response, re.DOTALL)
    blocks: list[str] = [text for language, text in _FENCE.findall(response) if language.lower() in _PYTHON]
    before, fence, _ = response.partition("```")
    if fence and before.strip() and before.endswith("\n") and re.search(r"^(?:def|class|import|from) ", before):
        return before if _is_python(before) else blocks[-1] if blocks else ""
    if blocks and blocks[-1].strip():
        return blocks[-1]
    return tagged[-1] if tagged else "" if fence else response


def same_output(found: str, expected: str) -> bool:
    """Whether a program's standard output counts as the expected one."""
    if _lines(found) == _lines(expected):
        return True
    ours, theirs = found.split(), expected.split()
    return len(ours) == len(theirs) and all(map(_same_word, ours, theirs))


class Calls(NamedTuple):
    """Tests that are calls and expected values."""

    calls: list[Call]
    tolerant: bool


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


def _read_tests(answer: str, entry_point: str, prompt_id: str) -> list[str | tuple[str, str] | Calls]:
    """Unit tests as Python text or as calls, or pairs of standard input and output."""
    try:
        data = json.loads(answer)
    except ValueError:
        return [_python_tests(answer, entry_point, prompt_id)]
    if isinstance(data, list) and data and all(isinstance(test, str) for test in data):
        return [_python_tests("\n".join(data), entry_point, prompt_id)]
    if (
        isinstance(data, list)
        and data
        and all(isinstance(case, dict) and {"input", "output"} <= set(case) for case in data)
    ):
        return [(_text(case["input"]), _text(case["output"])) for case in data]
    if isinstance(data, dict):
        inputs, outputs, name = data.get("inputs"), data.get("outputs"), data.get("fn_name")
        if isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs) > 0:
            if name:
                cases = [Call(name, given, {}, wanted) for given, wanted in zip(inputs, outputs, strict=True)]
                return [Calls(cases, True)]
            return [(_text(a), _text(b)) for a, b in zip(inputs, outputs, strict=True)]
    raise RewardError(
        f"the tests of prompt {prompt_id!r} have no known shape ({answer!r:.60}): expected Python text, a JSON list of "
        'asserts or of {"input", "output"}, or {"inputs": [...], "outputs": [...]} of equal length'
    )


def _program(code: str, test: str | tuple[str, str] | Calls, given: str, entry_point: str) -> Program:
    if isinstance(test, Calls):
        source = _CALLS.format(code=code, builtins=_BUILTINS)
        arguments = repr([(call.name, call.arguments, call.keywords) for call in test.calls])
        return Program("values", source, arguments, repr([call.expected for call in test.calls]), test.tolerant)
    if isinstance(test, tuple):
        if re.search(r"\b(?:exit|quit)\b", code):
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


def _python_tests(tests: str, entry_point: str, prompt_id: str) -> str | Calls:
    """Tests as Python text: as calls where they can be separated from the code."""
    whole = complete(tests, entry_point, prompt_id)
    found = calls(tests, entry_point)
    return Calls(found, False) if found else whole


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _text(value: Any) -> str:
    """Standard input or output as text; some data sets list its lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def _same_word(found: str, expected: str) -> bool:
    if found == expected:
        return True
    if "." not in expected:
        return False
    try:
        return math.isclose(float(found), float(expected), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except ValueError:
        return False
