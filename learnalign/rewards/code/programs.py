r"""Makes programs that test a response's code: finds the code, reads the tests, joins the two.

Code is the last Markdown block fenced as Python (or without a language); a response without fences is code as a whole:
a continuation of the prompt, as base models write it, unless it defines the function asked for itself. Before a block
comes what the prompt has above that function (imports, helpers), where the prompt is itself Python.

Tests are the pool's answer as text, in the shapes that data sets have:

- `{"inputs": [...], "outputs": [...]}`: pairs of standard input and output; with `"fn_name"` the arguments and the
  value of a function or of a method of `Solution` (APPS, TACO, verl's prime data);
- `[{"input": ..., "output": ...}, ...]`: the same pairs (LiveCodeBench, Codeforces);
- `["assert ...", ...]` (MBPP), or any Python text that raises where the code is wrong; where it defines
  `check(candidate)`, that is called with the function that the pool's column `entry_point` names (HumanEval).

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
from learnalign.rewards.verdict import Prompt

TOLERANCE = 1e-6

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON = ("", "python", "python3", "py")
_UNIT_TESTS = """\
import os, sys, types
solution = types.ModuleType("solution")
sys.modules["solution"] = solution
exec(compile({code!r}, "solution.py", "exec"), solution.__dict__)
exec(compile({tests!r}, "tests.py", "exec"), solution.__dict__)
sys.stdout.flush()
os.write(1, b"\\n{token}\\n")
os._exit(0)
"""
_CALL = """\
import json as _json
_arguments, _expected = _json.loads({case!r})
_function = Solution().{name} if "Solution" in globals() else {name}
_value = _json.loads(_json.dumps(_function(*_arguments)))
assert _value == _expected or [_value] == _expected
"""


class Program(NamedTuple):
    """A program, its standard input, and what its standard output must be."""

    source: str
    stdin: str
    output: str
    whole: bool
    """The output must be equal as said above; else it must hold the line `output`, a secret told after all tests."""


def programs(response: str, answer: str, prompt: Prompt) -> list[Program]:
    """The programs that must all pass; none where the response has no code. Raises `RewardError` for unfit tests."""
    entry_point = prompt.row.get("entry_point")
    entry_point = entry_point if isinstance(entry_point, str) else ""
    tests = _read_tests(answer, entry_point, prompt.id)
    code = find_code(response, prompt.problem, entry_point)
    if not code.strip():
        return []
    return [
        _unit_test(code, test) if isinstance(test, str) else Program(code, test[0], test[1], True) for test in tests
    ]


def find_code(response: str, problem: str, entry_point: str) -> str:
    """The Python text that a response gives; see above for its use of the prompt."""
    blocks = [text for language, text in _FENCE.findall(response) if language.lower() in _PYTHON]
    code = blocks[-1] if blocks else "" if "```" in response else response
    start = re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", problem, re.MULTILINE) if entry_point else None
    if not code.strip() or start is None:
        return code
    if not re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", code, re.MULTILINE):
        return problem + code
    above = problem[: start.start()]
    return f"{above}\n{code}" if _is_python(above) else code


def same_output(found: str, expected: str) -> bool:
    """Whether a program's standard output counts as the expected one."""
    if _lines(found) == _lines(expected):
        return True
    ours, theirs = found.split(), expected.split()
    return len(ours) == len(theirs) and all(map(_same_word, ours, theirs))


def _read_tests(answer: str, entry_point: str, prompt_id: str) -> list[str | tuple[str, str]]:
    """Unit tests as Python text, or pairs of standard input and output."""
    try:
        data = json.loads(answer)
    except ValueError:
        return [_with_check(answer, entry_point, prompt_id)]
    if isinstance(data, list) and data and all(isinstance(test, str) for test in data):
        return [_with_check("\n".join(data), entry_point, prompt_id)]
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
                cases = [_CALL.format(case=json.dumps(case), name=name) for case in zip(inputs, outputs, strict=True)]
                return ["\n".join(cases)]
            return [(_text(a), _text(b)) for a, b in zip(inputs, outputs, strict=True)]
    raise RewardError(
        f"the tests of prompt {prompt_id!r} have no known shape ({answer!r:.60}): expected Python text, a JSON list of "
        'asserts or of {"input", "output"}, or {"inputs": [...], "outputs": [...]} of equal length'
    )


def _with_check(tests: str, entry_point: str, prompt_id: str) -> str:
    if not re.search(r"^def check\(", tests, re.MULTILINE) or re.search(r"^check\(", tests, re.MULTILINE):
        return tests
    if not entry_point:
        raise RewardError(
            f"the tests of prompt {prompt_id!r} define check(candidate), but the pool has no column entry_point that "
            "names the function"
        )
    return f"{tests}\ncheck({entry_point})\n"


def _unit_test(code: str, tests: str) -> Program:
    token = secrets.token_hex(16)
    return Program(_UNIT_TESTS.format(code=code, tests=tests, token=token), "", token, False)


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
