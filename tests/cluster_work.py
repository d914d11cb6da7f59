"""Work for the workers of tests, in a module of its own so that workers can import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnalign.cluster import Later, Needs
from learnalign.errors import RewardError


@dataclass(frozen=True)
class Doubling:
    """Doubles numbers. Of "poison" it dies, of "stumble FILE" once only; "wrong" is an error, "later" comes later."""

    @property
    def needs(self) -> Needs:
        return Needs()

    def identity(self) -> dict[str, str]:
        return {"arithmetic": "1"}

    @contextmanager
    def open(self, say: Callable[[str], None]) -> Iterator[Doubler]:
        yield Doubler(say)


class Doubler:
    device = "abacus"

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    @property
    def about(self) -> dict[str, Any]:
        return {"digits": 10}

    def pid(self) -> int:
        return os.getpid()

    def __call__(self, what: Any) -> Any:
        self.say("at work")
        if isinstance(what, int):
            time.sleep(0.02 if what % 3 else 0.1)  # so that later units are done before earlier ones
            return 2 * what
        kind, _, file = str(what).partition(" ")
        if kind == "later":
            return Later(lambda: "came")
        if kind == "wrong":
            raise RewardError("there is no double of wrong")
        if kind == "stumble" and Path(file).exists():
            return "went on"
        if file:
            Path(file).touch()
        os.kill(os.getpid(), signal.SIGKILL)
        return None
