"""Either end of the two pipes between tests and program: it asks, it answers, and it knows its own objects by number.

A line is one message as JSON: `{"ask": [operation, ...]}`, `{"value": ...}` or `{"raised": ...}`. While an answer is
awaited, questions of the other side are answered, so that a test's function may be called by the program that it calls.
"""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable
from typing import Any

from learnalign.rewards.code.apart.data import Plain, decode, encode, named

LONGEST = 64 << 20
"""Bytes of the longest message that is read."""


class Gone(BaseException):
    """The other side has ended, or sends what is no message. No test catches it by `except Exception`."""


class Peer:
    """One side. `handle(operation, *operands)` does what the other side asks; `stand_in` makes what tests see of it."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._received = bytearray()
        self._numbers: dict[int, int] = {}
        self.own: list[Any] = []
        self.handle: Callable[..., Any] = _refuse
        self.stand_in: Callable[[Plain], Any] = _refuse
        self.number_of: Callable[[Any], int | None] = lambda value: None
        """The other side's number of a stand-in; None for anything else."""
        self.rebuild: Callable[[Plain], BaseException] = _exception
        self.gone = False

    def ask(self, *request: Any) -> Any:
        """Have the other side do something. Raises what it raises, or `Gone`."""
        self._send({"ask": [self.encode(part) for part in request]})
        while "ask" in (message := self._receive()):
            self._answer(message["ask"])
        if "raised" in message:
            raise self.rebuild(message["raised"])
        return message

    def serve(self) -> None:
        """Answer until the other side ends."""
        try:
            while True:
                self._answer(self._receive()["ask"])
        except (Gone, KeyError):
            return

    def encode(self, value: Any) -> Plain:
        """`value` as JSON, with objects of this side by number."""
        return encode(value, self._object)

    def decode(self, plain: Plain) -> Any:
        """The value of JSON, with this side's own objects for numbers and stand-ins for those of the other."""
        return decode(plain, self._value)

    def _object(self, value: Any) -> Plain:
        number = self.number_of(value)
        return {"yours": number} if number is not None else named(value) or self.described(value)

    def described(self, value: Any) -> Plain:
        """An object of this side as the other is told of it."""
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self.own)
            self.own.append(value)  # kept, so that its id stays its own
        if not isinstance(value, type):
            return {"mine": number, "class": type(value).__name__, "calls": callable(value)}
        bases = [base.__name__ for base in value.__mro__ if base.__module__ == "builtins"]
        return {"mine": number, "class": "type", "name": value.__name__, "bases": bases}

    def _value(self, plain: Plain) -> Any:
        if "yours" in plain:
            return self.own[plain["yours"]]
        return self.stand_in(plain)

    def _answer(self, request: Plain) -> None:
        try:
            reply = self.handle(*request)
        except Gone:
            raise
        except BaseException as error:
            reply = {"raised": raised(error, self)}
        self._send(reply)

    def _send(self, message: Plain) -> None:
        view = memoryview(json.dumps(message).encode("ascii") + b"\n")
        try:
            while view:
                view = view[os.write(self._write, view) :]
        except OSError as error:
            self.gone = True
            raise Gone(str(error)) from None

    def _receive(self) -> dict[str, Any]:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            chunk = os.read(self._read, 1 << 20)
            if not chunk or searched > LONGEST:
                self.gone = True
                raise Gone("it has ended" if not chunk else "its message is too long")
            self._received += chunk
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            self.gone = True
            raise Gone(f"no message: {error}") from None
        if not isinstance(message, dict):
            self.gone = True
            raise Gone("no message")
        return message


def raised(error: BaseException, peer: Peer) -> Plain:
    """An exception as JSON: its class, the built-in classes that it derives from, arguments, text, attributes."""
    kind = type(error)
    try:
        text = str(error)
    except Exception:
        text = ""
    plain = {name: value for name, value in vars(error).items() if type(value) in (bool, int, float, str, type(None))}
    arguments = [value for value in error.args if type(value) in (bool, int, float, str, type(None))]
    if len(arguments) < len(error.args):
        arguments = [text]
    return {
        "class": peer.described(kind) if kind.__module__ != "builtins" else None,
        "bases": [base.__name__ for base in kind.__mro__ if base.__module__ == "builtins"],
        "arguments": arguments,
        "text": text[:10_000],
        "attributes": plain,
    }


def built_in(names: list[str]) -> type[BaseException]:
    """The first of `names` that is a built-in exception."""
    for name in names:
        found = getattr(builtins, str(name), None)
        if isinstance(found, type) and issubclass(found, BaseException):
            return found
    return Exception


def _exception(plain: Plain) -> BaseException:
    kind = built_in(plain["bases"])
    try:
        return kind(*plain["arguments"])
    except TypeError:
        return Exception(plain["text"])


def _refuse(*request: Any) -> Any:
    raise TypeError("nothing may be asked here")
