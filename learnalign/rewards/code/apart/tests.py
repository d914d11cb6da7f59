"""The process of the tests: runs them on stand-ins for what the program defines, and tells how that went.

The last line of standard output is `SECRET how`: `passed`, `wrong` (an assertion), `error`, `timeout` (of the
program's CPU time), or `inseparable` (a test hands over an object of its own, which cannot cross). Nobody who has not
read the job knows the secret. Tests have passed when they have run to their end with at least one assertion.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import io
import json
import os
import resource
import signal
import sys
import time
import types
from typing import Any, TypedDict

from learnalign.rewards.code.apart.peer import Gone, Peer
from learnalign.rewards.code.apart.program import run
from learnalign.rewards.code.apart.standins import Asks

PR_SET_DUMPABLE = 4
NOBODY = 65534
PATIENCE = 200
"""Looks, 5 ms apart, whether a process whose pipe has ended has ended too."""


class Job(TypedDict):
    """What standard input holds, as JSON."""

    code: str
    """The program's text."""
    given: str
    """Text of the problem whose functions the tests may use: they are the problem's, whatever the program defines."""
    tests: str
    names: list[str]
    """Names that the tests use and do not define."""
    counted: bool
    """Whether tests without any assertion that was reached have failed."""
    secret: str


class Inseparable(BaseException):
    """An object of the tests that cannot cross."""


def main() -> None:
    """Split in two, run, tell."""
    for name in ("stdin", "program.py"):  # standard input is open already
        if os.path.exists(name):
            os.unlink(name)
    to_program, from_tests = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _be_the_program(Peer(to_program[0], from_tests[1]), (to_program[1], from_tests[0]))
        finally:
            os._exit(1)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # the program may not look into this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.close(to_program[0])
    os.close(from_tests[1])
    with open(0, encoding="utf-8", errors="surrogatepass") as given:
        job: Job = json.load(given)
    sys.stdout = io.StringIO()
    peer = Peer(from_tests[0], to_program[1])
    how = _how(job, peer, child)
    os.write(1, f"\n{job['secret']} {how}\n".encode())
    os._exit(0)


def _be_the_program(peer: Peer, others: tuple[int, int]) -> None:
    """In the child: nothing open but its two pipes and standard error, and no privileges."""
    for descriptor in others:
        os.close(descriptor)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.setsid()
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    run(peer)


def _how(job: Job, peer: Peer, child: int) -> str:
    try:
        _run(job, peer)
    except Gone:
        return _ended(child)
    except Inseparable:
        return "inseparable"
    except AssertionError:
        how = "wrong"
    except SystemExit as end:
        how = "error" if end.code else "wrong"
    except BaseException:
        how = "error"
    else:
        how = "passed"
    return _ended(child) if peer.gone else how


def _run(job: Job, peer: Peer) -> None:
    """Run the tests. Raises what they raise."""
    asks = Asks(peer)
    _offer(peer)
    solution = types.ModuleType("solution")
    sys.modules["solution"] = solution
    names = vars(solution)
    exec("from typing import *", names)
    for name, exported in asks.load(job["code"], job["names"]).items():
        if name in job["names"]:
            names[name] = _imported(name, exported, peer)
    reached = [0]
    names["__reached__"] = lambda: reached.__setitem__(0, reached[0] + 1)
    names["__in_place__"] = lambda on: setattr(asks, "in_place", on)
    if job["given"]:
        exec(compile(job["given"], "given.py", "exec"), names)
    tree = ast.fix_missing_locations(_Marked().visit(ast.parse(job["tests"])))
    exec(compile(tree, "tests.py", "exec"), names)
    if job["counted"] and not reached[0]:
        raise AssertionError("no assertion was reached")


def _imported(name: str, exported: Any, peer: Peer) -> Any:
    """What the program's name stands for here: a module or a function of the standard library is our own."""
    if "module" in exported:
        module = str(exported["module"])
        known = module.partition(".")[0] in sys.stdlib_module_names
        return importlib.import_module(module) if known and module.rpartition(".")[2] == name else None
    if "library" in exported:
        module = str(exported["library"][0])
        if module.partition(".")[0] in sys.stdlib_module_names:
            return getattr(importlib.import_module(module), name, None)
        return None
    return peer.decode(exported["value"])


def _offer(peer: Peer) -> None:
    """Let functions and iterators of the tests cross; nothing else of theirs that is not plain does."""
    described = peer.described

    def offered(value: Any) -> Any:
        if isinstance(value, BaseException) or not (callable(value) or hasattr(value, "__next__")):
            raise Inseparable(type(value).__name__)
        return described(value)

    def handle(name: str, number: int, *operands: Any) -> Any:
        function = peer.own[number]
        if name == "next":
            return {"value": peer.encode(next(function))}
        arguments, keywords = (peer.decode(operand) for operand in operands)
        return {"value": peer.encode(function(*arguments, **keywords))}

    peer.described = offered  # type: ignore[method-assign]
    peer.handle = handle


def _ended(child: int) -> str:
    """What became of the program's process, which answers no more."""
    for _ in range(PATIENCE):
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.005)
    else:
        return "error"  # it goes on without its pipes
    limit, _ = resource.getrlimit(resource.RLIMIT_CPU)
    if status and limit > 0 and usage.ru_utime + usage.ru_stime >= 0.9 * limit:
        return "timeout"
    return "wrong" if status == 0 else "error"


class _Marked(ast.NodeTransformer):
    """Counts the assertions that are reached, and marks calls that are statements of their own."""

    def visit_Assert(self, node: ast.Assert) -> Any:
        return [_statement("__reached__"), node]

    def visit_Expr(self, node: ast.Expr) -> Any:
        if not isinstance(node.value, ast.Call):
            return node
        if _asserts(node.value):
            return [_statement("__reached__"), node]
        return ast.Try([_statement("__in_place__", True), node], [], [], [_statement("__in_place__", False)])

    def visit_With(self, node: ast.With) -> Any:
        self.generic_visit(node)
        asserts = any(isinstance(item.context_expr, ast.Call) and _asserts(item.context_expr) for item in node.items)
        return [_statement("__reached__"), node] if asserts else node


def _asserts(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", "") or getattr(call.func, "id", "")
    return str(name).lower().startswith(("assert", "fail"))


def _statement(name: str, *values: bool) -> ast.Expr:
    return ast.Expr(ast.Call(ast.Name(name, ast.Load()), [ast.Constant(value) for value in values], []))
