r"""Tests in the shapes that data sets have, read from a pool's answer (and some columns of its row).

- `{"inputs": [...], "outputs": [...]}`, or `"input"` and `"output"` (APPS, TACO, CodeContests, verl's prime data):
  pairs of standard input and output; with `"fn_name"` the arguments and the value of a function, or of a method
  of `Solution`;
- `[{"input": ..., "output": ...}, ...]`, alone or as `"test_cases"` (LiveCodeBench, Codeforces, SYNTHETIC-1): the same
  pairs; with `"testtype": "functional"` or a `"fn_name"` of their own they are calls, with one JSON value a line, of
  the function that `metadata.func_name`, `entry_point` or `starter_code` of the row names;
- `["assert ...", ...]` or `{"assert_case": [...]}` or `{"test_list": [...]}` (MBPP), behind `test_setup_code` and
  `test_imports` where the row has them; or any Python text (`unit_tests`).

What has no known shape is refused with the prompt's id. This module runs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from learnalign.errors import RewardError
from learnalign.rewards.code.unit_tests import Call, calls, complete

_ENCODED = re.compile(r"\s*(?:eJ|eN|eA|eF)[A-Za-z0-9+/=\s]{20,}")
_ASSERTS = ("assert_case", "test_list")


class Calls(NamedTuple):
    """Tests that are calls and expected values; `tolerant` of rounding and of lists for tuples."""

    calls: list[Call]
    tolerant: bool


Test = str | tuple[str, str] | Calls
"""Unit tests as Python text, standard input and output, or calls."""


def read_tests(answer: str, row: Mapping[str, Any], prompt_id: str) -> list[Test]:
    """The tests of `answer`. Raises `RewardError` for unfit ones."""
    if _ENCODED.fullmatch(answer):
        raise RewardError(
            f"the tests of prompt {prompt_id!r} are compressed data in base64 ({answer.strip():.12}...), as "
            "LiveCodeBench's private tests: decode them before"
        )
    try:
        data = json.loads(answer)
    except ValueError:
        return [_python_tests(_setup(row) + answer, row, prompt_id)]
    found = _pairs(data, row, prompt_id) or _asserts(data, row, prompt_id)
    if not found:
        raise RewardError(
            f"the tests of prompt {prompt_id!r} have no known shape ({answer!r:.60}): expected Python text, a JSON "
            'list of asserts or of {"input", "output"}, or {"inputs": [...], "outputs": [...]} of equal length'
        )
    return found


def name_of(row: Mapping[str, Any]) -> str:
    """The function that the row says is tested; "" if it does not."""
    metadata = row.get("metadata")
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError:
            metadata = None
    for name in (row.get("entry_point"), metadata.get("func_name") if isinstance(metadata, dict) else None):
        if isinstance(name, str) and name:
            return name
    started = re.findall(r"^ *def (\w+)\(", str(row.get("starter_code") or ""), re.MULTILINE)
    return started[-1] if started else ""


def _pairs(data: Any, row: Mapping[str, Any], prompt_id: str) -> list[Test]:
    """Inputs and outputs, of programs or of a function; empty where `data` is something else."""
    if isinstance(data, dict) and isinstance(data.get("test_cases"), list):
        data = data["test_cases"]
    if isinstance(data, list):
        if not data or not all(isinstance(case, dict) and {"input", "output"} <= case.keys() for case in data):
            return []
        called = [_function(case, row, prompt_id) for case in data]
        inputs, outputs = [case["input"] for case in data], [case["output"] for case in data]
    else:
        inputs, outputs = _columns(data) if isinstance(data, dict) else ([], [])
        called = [data["fn_name"] if isinstance(data, dict) and data.get("fn_name") else ""] * len(inputs)
    if not inputs or len(inputs) != len(outputs):
        return []
    if all(called):
        return [Calls([_call(*case) for case in zip(called, inputs, outputs, strict=True)], True)]
    return [] if any(called) else [(_text(a), _text(b)) for a, b in zip(inputs, outputs, strict=True)]


def _columns(data: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    for names in (("inputs", "outputs"), ("input", "output")):
        inputs, outputs = data.get(names[0]), data.get(names[1])
        if isinstance(inputs, list) and isinstance(outputs, list):
            return inputs, outputs
    return [], []


def _function(case: dict[str, Any], row: Mapping[str, Any], prompt_id: str) -> str:
    """The function that a case calls; "" for one that is standard input and output."""
    if case.get("fn_name"):
        return str(case["fn_name"])
    if "functional" not in (case.get("testtype"), case.get("type")) and case.get("type") != "function_call":
        return ""
    name = name_of(row)
    if not name:
        raise RewardError(
            f"the tests of prompt {prompt_id!r} call a function, but its row has no metadata.func_name, entry_point or "
            "starter_code that names it"
        )
    return name


def _call(name: str, given: Any, wanted: Any) -> Call:
    """A call; arguments that are a text hold one JSON value a line, and so does their output."""
    if isinstance(given, str):
        given = [_value(line) for line in given.splitlines() if line.strip()]
        wanted = _value(wanted) if isinstance(wanted, str) else wanted
    return Call(name, given if isinstance(given, list) else [given], {}, wanted)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _asserts(data: Any, row: Mapping[str, Any], prompt_id: str) -> list[Test]:
    """A list of asserts as one text; empty where `data` is something else."""
    given: Mapping[str, Any] = row
    if isinstance(data, dict):
        given = {**row, **{name: data[name] for name in ("test_setup_code", "test_imports") if name in data}}
        data = next((data[name] for name in _ASSERTS if data.get(name)), None)
    if not isinstance(data, list) or not data or not all(isinstance(test, str) for test in data):
        return []
    return [_python_tests(_setup(given) + "\n".join(data), row, prompt_id)]


def _setup(row: Mapping[str, Any]) -> str:
    """What the row says comes before its tests."""
    imports, code = row.get("test_imports"), row.get("test_setup_code")
    lines = [line for line in imports if isinstance(line, str)] if isinstance(imports, list) else []
    lines += [code] if isinstance(code, str) and code.strip() else []
    return "".join(f"{line}\n" for line in lines)


def _python_tests(tests: str, row: Mapping[str, Any], prompt_id: str) -> Test:
    """Tests as Python text: as calls where they compare calls with literals."""
    entry_point = row.get("entry_point")
    entry_point = entry_point if isinstance(entry_point, str) else ""
    whole = complete(tests, entry_point, prompt_id)
    found = calls(tests, entry_point)
    return Calls(found, False) if found else whole


def _text(value: Any) -> str:
    """Standard input or output as text; some data sets list its lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
