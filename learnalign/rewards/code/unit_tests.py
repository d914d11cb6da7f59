"""Reads unit tests as Python: what has to be called, what asserts, what is imported; and tests that are mere data.

`assert f(1, [2]) == 3` with literals needs nothing but a call: such tests are separated (`calls`), so that neither the
expected value nor the comparison is in the solution's process. This module runs nothing.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from typing import Any, NamedTuple

from learnalign.errors import RewardError

_CHECKS = re.compile(r"^(?:assert|fail|expect)", re.IGNORECASE)
SOLUTION = "solution"


class Call(NamedTuple):
    """A call with literal arguments, and the literal that has to come back."""

    name: str
    arguments: list[Any]
    keywords: dict[str, Any]
    expected: Any


def complete(tests: str, entry_point: str, prompt_id: str) -> str:
    """`tests` with the calls of what they only define. Raises `RewardError` where nothing would be tested."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RewardError(
            f"the tests of prompt {prompt_id!r} are no Python text ({tests!r:.40}: {error}); base64 and pickled tests "
            "have to be decoded before"
        ) from None
    _refuse_packages(tree, prompt_id)
    if not any(_asserts(node) for node in ast.walk(tree)):
        raise RewardError(
            f"the tests of prompt {prompt_id!r} assert nothing ({tests!r:.60}), so that any program would pass; "
            "expected assert statements, or raise, or methods of unittest.TestCase"
        )
    return tests + _missing_calls(tree, entry_point, prompt_id)


def calls(tests: str, entry_point: str) -> list[Call] | None:
    """The calls that `tests` compare with literals; None where they do anything else."""
    tree = ast.parse(tests)
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.FunctionDef) and tree.body[0].name == "check":
        checked = tree.body[0]
        names = [argument.arg for argument in checked.args.args]
        found = [_call(statement, names[0] if names else "", entry_point) for statement in checked.body]
    else:
        found = [_call(statement, "", "") for statement in tree.body]
    return None if None in found or not found else [call for call in found if call is not None]


def used_names(tests: str, entry_point: str) -> list[str]:
    """Names that `tests` use and do not define: what the program has to give.

    A function of Python that the program defines anew counts only where it is what is tested: `entry_point`, or the one
    function that the tests call.
    """
    tree = ast.parse(tests)
    nodes = list(ast.walk(tree))
    bound = {name for statement in tree.body for name in _bound(statement)}
    loaded = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    loaded |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_solution(node.value)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == SOLUTION:
            loaded |= {alias.name for alias in node.names}
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)} - bound
    anew = {entry_point} if entry_point else called if len(called) == 1 else set()
    return sorted(name for name in loaded - bound if name in anew or not hasattr(builtins, name))


def inseparable(tests: str) -> str:
    """Why `tests` have to run in the program's own process; "" where they need not."""
    tree = ast.parse(tests)
    own = {name for statement in tree.body for name in _bound(statement)} | set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            if any("mock" in name for name in names) or "inspect" in names:
                return "they patch or inspect the program"
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_module(node.value):
            return f"they set {ast.unparse(node)}"
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if isinstance(base, ast.Name) and base.id not in own:
                    return f"they derive from the program's {base.id}"
    return ""


def _bound(statement: ast.stmt) -> list[str]:
    """Names that a statement of the top level binds, but for those that it takes from the program."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.ImportFrom) and statement.module == SOLUTION:
        return []
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in statement.names]
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _is_module(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("sys", "builtins", "os", "time", "random", SOLUTION)


def _is_solution(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == SOLUTION


def counted(tests: str) -> bool:
    """Whether tests that reach no assertion have tested nothing: there is an assertion, and nothing is raised."""
    nodes = list(ast.walk(ast.parse(tests)))
    return not any(isinstance(node, ast.Raise) for node in nodes)


def _call(statement: ast.stmt, candidate: str, entry_point: str) -> Call | None:
    if not (isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare)):
        return None
    compared = statement.test
    called = compared.left
    if not (len(compared.ops) == 1 and isinstance(compared.ops[0], ast.Eq) and isinstance(called, ast.Call)):
        return None
    if not isinstance(called.func, ast.Name) or any(keyword.arg is None for keyword in called.keywords):
        return None
    name = entry_point if candidate and called.func.id == candidate else called.func.id
    try:
        arguments = [ast.literal_eval(argument) for argument in called.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in called.keywords}
        return Call(name, arguments, keywords, ast.literal_eval(compared.comparators[0]))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _asserts(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return not isinstance(node.test, ast.Constant)
    if isinstance(node, ast.Raise):
        return True
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    return bool(_CHECKS.match(name))


def _refuse_packages(tree: ast.Module, prompt_id: str) -> None:
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            package = name.partition(".")[0]
            if package not in sys.stdlib_module_names and package != SOLUTION:
                raise RewardError(
                    f"the tests of prompt {prompt_id!r} import {package}, and programs get the standard library alone: "
                    "leave the prompt out, or judge with a function of your own (file.py:function)"
                )


def _missing_calls(tree: ast.Module, entry_point: str, prompt_id: str) -> str:
    """Calls of test functions, test cases and `check` that nothing on the top level calls."""
    called = {
        node.func.id
        for statement in tree.body
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    added = ""
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name not in called:
            if statement.name == "check":
                added += f"\ncheck({_named(entry_point, prompt_id)})\n"
            elif statement.name.startswith("test"):
                added += f"\n{statement.name}({_values(statement, entry_point, prompt_id)})\n"
        elif isinstance(statement, ast.ClassDef):
            added += _test_class(statement)
    return added


def _named(entry_point: str, prompt_id: str) -> str:
    if not entry_point:
        raise RewardError(
            f"the tests of prompt {prompt_id!r} define check(candidate), but the pool has no column entry_point that "
            "names the function"
        )
    return entry_point


def _values(test: ast.FunctionDef, entry_point: str, prompt_id: str) -> str:
    """Arguments of a test function: the candidate, where it takes one."""
    missing = len(test.args.args) - len(test.args.defaults)
    if missing > 1 or (missing == 1 and not entry_point):
        raise RewardError(
            f"the tests of prompt {prompt_id!r} define {test.name} with parameters that nothing gives: fixtures of "
            "pytest are not there"
        )
    return entry_point if missing else ""


def _test_class(case: ast.ClassDef) -> str:
    """The test methods of a class, run one by one; unittest's own if it is a test case."""
    methods = [item.name for item in case.body if isinstance(item, ast.FunctionDef) and item.name.startswith("test")]
    if not methods:
        return ""
    if case.bases:
        return (
            f"\nimport unittest as _unittest\n_result = _unittest.TestResult()\n"
            f"_unittest.defaultTestLoader.loadTestsFromTestCase({case.name}).run(_result)\n"
            "assert _result.testsRun and _result.wasSuccessful() and not _result.skipped\n"
        )
    return "".join(f"\n{case.name}().{method}()\n" for method in methods)
