"""Unit tests and the program that they test, in two processes of one sandbox: what runs inside of it.

data      values as JSON: plain ones cross, objects stay where they are and go by number
peer      either end of the pipes between the two: asking, answering, what is raised
program   the process of the program: it gets its text and calls, never tests, expected values or the secret
standins  what tests see of the program: functions, objects, classes, exceptions
tests     the process of the tests: it runs them with stand-ins, compares, and tells the secret with the result

`source()` is all of it as one program text that needs the standard library alone, so that it runs anywhere. Its
standard input is a job as JSON (`tests.Job`). It splits before that is read: the program's process never had the tests
in its memory. Only plain data that the program's process sends is looked at; nothing of it is executed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

MODULES = ("data", "peer", "program", "standins", "tests")
_START = """\
import sys, types
for name, text in {texts!r}.items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
sys.modules[{last!r}].main()
"""


@cache
def source() -> str:
    """The program text that runs tests and program apart."""
    texts = {f"{__name__}.{name}": Path(__file__).with_name(f"{name}.py").read_text("utf-8") for name in MODULES}
    return _START.format(texts=texts, last=f"{__name__}.tests")
