"""What tests see of the program: stand-ins that ask its process, and give plain values back.

Comparing is never left to the program where a plain value is on the other side: an object that it made equals no
number, whatever its `__eq__` says, and takes part in no arithmetic with numbers, unless the tests made it themselves by
calling a class whose name is capitalized, as `Vector(1, 2) * 3`. Two objects of the program are compared by it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from learnalign.rewards.code.apart.data import Plain
from learnalign.rewards.code.apart.peer import Gone, Peer, built_in

MUTABLE = (list, dict, set, bytearray)
_BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift"]
_ORDER = ["lt", "le", "gt", "ge"]
_UNARY = ["neg", "pos", "abs", "invert"]


class Asks:
    """Asks the program's process; `in_place` says that a call is a statement of its own, for what it does to lists."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.in_place = False
        self._known: dict[int, Any] = {}
        peer.stand_in = self._stand_in
        peer.number_of = lambda value: vars(value).get("_number") if isinstance(value, Standin | StandinType) else None
        peer.rebuild = self._rebuild

    def __call__(self, *request: Any) -> Any:
        """The value that comes back."""
        return self.peer.decode(self._reply(*request)["value"])

    def load(self, code: str, wanted: list[str]) -> dict[str, Plain]:
        """What the program's text defines of the names wanted: see `program`."""
        found = self._reply("load", code, wanted)["value"]
        if not isinstance(found, dict):
            raise Gone("no names")
        return found

    def call(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Call, and give arguments the values that they have afterwards where that is what the call is for."""
        reply = self._reply("call", function, list(arguments), keywords)
        same = reply.get("same")
        result = arguments[same] if isinstance(same, int) and same < len(arguments) else None
        value = self.peer.decode(reply["value"])
        if "arguments" in reply and (self.in_place or value is None):
            given, named = (self.peer.decode(one) for one in reply["arguments"])
            for old, new in [*zip(arguments, given, strict=False), *((keywords[key], named[key]) for key in keywords)]:
                merged(old, new)
        return result if result is not None and result == value else value

    def _reply(self, *request: Any) -> dict[str, Any]:
        reply = self.peer.ask(*request)
        printed = reply.get("printed")
        if isinstance(printed, str):
            sys.stdout.write(printed)
        if "value" not in reply:
            raise Gone("no value")
        return reply  # type: ignore[no-any-return]

    def _stand_in(self, plain: Plain) -> Any:
        number = plain["mine"]
        if number not in self._known:
            self._known[number] = self._made(plain)
        return self._known[number]

    def _made(self, plain: Plain) -> Any:
        number, kind = plain["mine"], plain["class"]
        if kind == "type":
            if "BaseException" in plain["bases"]:
                base = built_in(plain["bases"])
                return type(str(plain["name"]), (base,), {"__str__": _text, "_number": number})
            return StandinType(str(plain["name"]), (), {"_number": number, "_asks": self})
        if kind == "coroutine":
            return self._coroutine(number)
        made = StandinFunction if plain["calls"] else Standin
        return made(self, number)

    async def _coroutine(self, number: int) -> Any:
        return self("await", Standin(self, number))

    def _rebuild(self, plain: Plain) -> BaseException:
        if plain["class"] is not None:
            kind: Any = self._stand_in(plain["class"])
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                kind = Exception
        else:
            kind = built_in(plain["bases"])
        try:
            error: BaseException = kind(*plain["arguments"])
        except Exception:
            error = Exception(plain["text"])
        if plain["class"] is not None:
            vars(error).update({**plain["attributes"], "_told": plain["text"]})
        return error


def _text(error: Any) -> str:
    """What the program's own exception says."""
    return str(vars(error).get("_told", ", ".join(map(str, error.args))))


def merged(old: Any, new: Any) -> Any:
    """`old` with the content of `new`, where both are the same kind of list, dict or set; else `new`."""
    if type(old) is not type(new) or not isinstance(old, MUTABLE):
        return new
    if isinstance(old, list):
        old[:] = [merged(a, b) for a, b in zip(old, new, strict=False)] + new[len(old) :]
    elif isinstance(old, dict):
        kept = {key: merged(old[key], value) if key in old else value for key, value in new.items()}
        old.clear()
        old.update(kept)
    elif isinstance(old, set):
        old.clear()
        old.update(new)
    else:
        old[:] = new
    return old


class Standin:
    """An object of the program's process. `_built` says that the tests made it by calling a class."""

    def __init__(self, asks: Asks, number: int, built: bool = False) -> None:
        vars(self).update(_asks=asks, _number=number, _built=built)

    def __getattr__(self, name: str) -> Any:
        return self._asks("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._asks("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._asks("delattr", self, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Standin):
            return False
        return self._number == other._number or bool(self._asks("eq", self, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return int(self._asks("hash", self))

    def __bool__(self) -> bool:
        return bool(self._asks("bool", self))

    def __len__(self) -> int:
        return int(self._asks("len", self))

    def __iter__(self) -> Any:
        return self._asks("iter", self)

    def __next__(self) -> Any:
        return self._asks("next", self)

    def __reversed__(self) -> Any:
        return self._asks("reversed", self)

    def __getitem__(self, key: Any) -> Any:
        return self._asks("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._asks("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._asks("delitem", self, key)

    def __contains__(self, item: Any) -> bool:
        return bool(self._asks("contains", self, item)) if self._built else any(one == item for one in self)

    def __enter__(self) -> Any:
        return self._asks("getattr", self, "__enter__")()

    def __exit__(self, *error: Any) -> Any:
        return self._asks("getattr", self, "__exit__")(*[None if one is None else str(one) for one in error])

    def __str__(self) -> str:
        return str(self._asks("str", self))

    def __repr__(self) -> str:
        return str(self._asks("repr", self))

    def __format__(self, how: str) -> str:
        return str(self._asks("getattr", self, "__format__")(how))

    def __int__(self) -> int:
        return int(self._asks("int", self))

    def __index__(self) -> int:
        return int(self._asks("index", self))

    def __float__(self) -> float:
        return float(self._asks("float", self))

    def __complex__(self) -> complex:
        return complex(self._asks("complex", self))

    def __round__(self, *digits: int) -> Any:
        return self._asks("round", self, *digits)


class StandinFunction(Standin):
    """One that can be called."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._asks.call(self, arguments, keywords)


class StandinType(type):
    """A class of the program's process."""

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        found = cls._asks.call(cls, arguments, keywords)
        if isinstance(found, Standin) and cls.__name__[:1].isupper():
            vars(found)["_built"] = True
        return found

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") or name in ("_asks", "_number"):
            raise AttributeError(name)
        return cls._asks("getattr", cls, name)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, Standin) and bool(cls._asks("isinstance", value, cls))

    def __subclasscheck__(cls, other: type) -> bool:
        return isinstance(other, StandinType) and bool(cls._asks("issubclass", other, cls))

    def __iter__(cls) -> Any:
        return cls._asks("iter", cls)

    def __len__(cls) -> int:
        return int(cls._asks("len", cls))

    def __getitem__(cls, key: Any) -> Any:
        return cls._asks("getitem", cls, key)


def _forward(name: str, reflected: bool, results_too: bool) -> Callable[[Any, Any], Any]:
    """An operator that the program's process carries out; with a plain value only for objects that tests built."""
    asked = name + "_" if name in ("and", "or") else name

    def operate(one: Any, other: Any) -> Any:
        if not isinstance(other, Standin) and not one._built:
            return NotImplemented
        found = one._asks(asked, *((other, one) if reflected else (one, other)))
        if results_too and isinstance(found, Standin) and one._built:
            vars(found)["_built"] = True
        return found

    return operate


for _name in _BINARY:
    setattr(Standin, f"__{_name}__", _forward(_name, reflected=False, results_too=True))
    setattr(Standin, f"__r{_name}__", _forward(_name, reflected=True, results_too=True))
for _name in _ORDER:
    setattr(Standin, f"__{_name}__", _forward(_name, reflected=False, results_too=False))
for _name in _UNARY:
    setattr(Standin, f"__{_name}__", lambda one, asked=_name: one._asks(asked, one))
