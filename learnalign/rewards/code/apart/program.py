"""The process of the program: it runs the program's text and does with its objects what the tests ask for.

Nothing here is a secret, and nothing here is trusted: whatever the program does to this process, all it can do to the
tests is to give other values.
"""

from __future__ import annotations

import builtins
import linecache
import operator
import os
import sys
import types
from typing import Any

from learnalign.rewards.code.apart.data import Plain
from learnalign.rewards.code.apart.peer import Peer

PRINTED = 8 << 20
"""Characters that a program may print while it is tested."""
_OPERATORS = (
    "eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul",
    "and_", "or_", "xor", "lshift", "rshift", "neg", "pos", "abs", "invert", "contains", "getitem",
    "setitem", "delitem", "index",
)  # fmt: skip
_FUNCTIONS: dict[str, Any] = {
    **{name: getattr(operator, name) for name in _OPERATORS},
    "len": len, "iter": iter, "next": next, "str": str, "repr": repr, "hash": hash, "bool": bool,
    "int": int, "float": float, "complex": complex, "round": round, "isinstance": isinstance,
    "issubclass": issubclass, "getattr": getattr, "setattr": setattr, "delattr": delattr, "reversed": reversed,
    "divmod": divmod,
}  # fmt: skip


class TestObject:
    """A function or an iterator of the tests, as the program sees it."""

    def __init__(self, peer: Peer, number: int) -> None:
        self._peer, self._number = peer, number

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._peer.decode(self._peer.ask("call", self._number, list(arguments), keywords)["value"])

    def __iter__(self) -> TestObject:
        return self

    def __next__(self) -> Any:
        return self._peer.decode(self._peer.ask("next", self._number)["value"])


class Printed:
    """Standard output of a program: what it prints during a call goes with the answer."""

    encoding, errors, closed, name = "utf-8", "strict", False, "<stdout>"

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._length = 0

    def write(self, text: str) -> int:
        """Keep it. Raises `OSError` beyond `PRINTED`."""
        self._length += len(text)
        if self._length > PRINTED:
            raise OSError("too much output")
        self.parts.append(str(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """As for any file."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        """It is none."""
        return False

    def fileno(self) -> int:
        """The real one, which leads nowhere."""
        return 1

    def writable(self) -> bool:
        """It is."""
        return True


def run(peer: Peer) -> None:
    """Serve until the tests end; called in a process of its own."""
    _quitters()
    printed = sys.stdout = Printed()
    solution = types.ModuleType("solution")
    sys.modules["solution"] = solution

    def handle(name: str, *operands: Plain) -> Plain:
        reply = _load(*operands) if name == "load" else _apply(name, operands)
        if printed.parts:
            reply["printed"] = "".join(printed.parts)
            printed.parts.clear()
        return reply

    def _load(code: str, wanted: list[str]) -> Plain:
        linecache.cache["solution.py"] = (len(code), None, code.splitlines(keepends=True), "solution.py")
        exec("from typing import *", solution.__dict__)
        exec(compile(code, "solution.py", "exec"), solution.__dict__)
        found = vars(solution)
        return {"value": {name: _exported(name, found[name]) for name in wanted if name in found}}

    def _exported(name: str, value: Any) -> Plain:
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        module = getattr(value, "__module__", "")
        standard = isinstance(module, str) and module.partition(".")[0] in sys.stdlib_module_names
        if standard and getattr(value, "__name__", "") == name and callable(value):
            return {"library": [module, name]}
        return {"value": peer.encode(value)}

    def _apply(name: str, operands: tuple[Plain, ...]) -> Plain:
        if name == "call":
            return _call(*operands)
        values = [peer.decode(operand) for operand in operands]
        if name == "await":
            import asyncio

            return {"value": peer.encode(asyncio.run(values[0]))}
        return {"value": peer.encode(_FUNCTIONS[name](*values))}

    def _call(function: Plain, arguments: list[Plain], keywords: Plain) -> Plain:
        given, named = peer.decode(arguments), peer.decode(keywords)
        result = peer.decode(function)(*given, **named)
        reply = {"value": peer.encode(result)}
        after = [peer.encode(given), peer.encode(named)]
        if after != [arguments, keywords]:
            reply["arguments"] = after
        for position, one in enumerate(given):
            if one is result and isinstance(one, list | dict | set):
                reply["same"] = position
        return reply

    peer.handle = handle
    peer.stand_in = lambda plain: TestObject(peer, plain["mine"])
    peer.number_of = lambda value: value._number if isinstance(value, TestObject) else None
    peer.serve()
    os._exit(0)


def _quitters() -> None:
    """`exit` and `quit`, which a Python without `site` lacks."""
    import _sitebuiltins

    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, ""))
