"""Unit tests and program in two processes: what crosses, and what tests see of a program's objects."""
# ruff: noqa: E501 (programs in rows)

from __future__ import annotations

from collections.abc import Iterator

import pytest

from learnalign.rewards import Prompt, Verifier, make_verifier

pytestmark = pytest.mark.usefixtures("contained")


@pytest.fixture(scope="module")
def judge() -> Iterator[Verifier]:
    with make_verifier("code", workers=2, timeout_seconds=10.0, memory_mb=512) as made:
        yield made


def how(judge: Verifier, code: str, tests: str, entry_point: str = "", problem: str = "") -> str:
    prompt = Prompt("p", problem, row={"entry_point": entry_point} if entry_point else {})
    return judge.judge([f"```python\n{code}\n```"], [tests], [prompt])[0].how


VALUES = [
    "None", "True", "-7", "10 ** 5000", "2.5", "float('inf')", "3 + 4j", "'\\ud800 \\u4e2d'", "b'\\xff'",
    "bytearray(b'a')",     "[1, [2, [3]]]", "(1, (2,))", "{1, 2}", "frozenset({1})", "{(1, 2): [3], None: {}}", "range(3)", "[]", "()",
    "set()",     "Counter('aab')", "OrderedDict(a=1)", "deque([1, 2])", "Decimal('1.10')", "Fraction(1, 3)",
    "datetime.date(2024, 2, 29)", "datetime.datetime(2024, 2, 29, 1, 2)", "datetime.timedelta(hours=3)", "int", "len",
    "ValueError",
]  # fmt: skip
IMPORTS = """\
import datetime
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction
"""


def test_plain_values_cross_both_ways(judge: Verifier) -> None:
    code = f"{IMPORTS}\nvalues = [{', '.join(VALUES)}]\ndef given(i): return values[i]\ndef same(x): return x"
    tests = f"""{IMPORTS}
for i, value in enumerate([{", ".join(VALUES)}]):
    assert given(i) == value and type(given(i)) is type(value), value
    assert same(value) == value and type(same(value)) is type(value), value
"""
    assert how(judge, code, tests) == "passed"


VECTOR = """
class Vector:
    def __init__(self, x, y): self.x, self.y = x, y
    def __add__(self, other): return Vector(self.x + other.x, self.y + other.y)
    def __mul__(self, by): return Vector(self.x * by, self.y * by)
    def __rmul__(self, by): return self * by
    def __eq__(self, other): return isinstance(other, Vector) and (self.x, self.y) == (other.x, other.y)
    def __lt__(self, other): return self.x < other.x
    def __len__(self): return 2
    def __iter__(self): return iter((self.x, self.y))
    def __getitem__(self, i): return (self.x, self.y)[i]
    def __contains__(self, x): return x in (self.x, self.y)
    def __repr__(self): return f"Vector({self.x}, {self.y})"
    @property
    def norm(self): return (self.x ** 2 + self.y ** 2) ** 0.5
    @classmethod
    def unit(cls): return cls(1, 0)
    zero = (0, 0)
"""
SEEN = [
    # (program, tests that pass)
    (VECTOR, "v = Vector(3, 4)\nassert v.norm == 5 and v.x == 3\nv.x = 6\nassert v.x == 6 and list(v) == [6, 4]"),
    (VECTOR, "assert Vector(1, 2) + Vector(3, 4) == Vector(4, 6) and Vector(1, 2) * 3 == 3 * Vector(1, 2)"),
    (VECTOR, "assert repr(Vector(1, 2)) == 'Vector(1, 2)' and len(Vector(1, 2)) == 2 and Vector(1, 2)[1] == 2"),
    (VECTOR, "assert Vector.unit() == Vector(1, 0) != Vector(1, 0) * 2 and 1 in Vector(1, 2)\nassert Vector.zero == (0, 0)"),
    (VECTOR, "assert isinstance(Vector(1, 2), Vector) and sorted([Vector(2, 0), Vector(1, 0)])[0].x == 1"),
    (VECTOR, "from solution import Vector as V\nassert V(1, 2).x == 1"),
    (VECTOR, "import solution\nassert solution.Vector(1, 2).x == 1"),
    ("class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
     "    def pop(self): return self.items.pop()",
     "s = Stack()\ns.push(1)\ns.push([2])\nassert s.pop() == [2] and s.pop() == 1\n"
     "try:\n    s.pop()\n    assert False\nexcept IndexError as error:\n    assert 'empty' in str(error)"),
    ("class Odd(ValueError):\n    def __init__(self, n):\n        super().__init__(f'{n} is odd')\n        self.n = n\n"
     "def half(n):\n    if n % 2: raise Odd(n)\n    return n // 2",
     "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        with self.assertRaises(Odd) as caught:"
     "\n            half(3)\n        self.assertEqual(caught.exception.n, 3)\n        self.assertIn('3 is odd', "
     "str(caught.exception))\n        self.assertRaises(ValueError, half, 5)\n        self.assertEqual(half(4), 2)"),
    ("def double_all(items):\n    for i in range(len(items)): items[i] *= 2",
     "x = [1, 2]\ndouble_all(x)\nassert x == [2, 4]\nassert double_all(x) is None and x == [4, 8]"),
    ("def fill(a, b):\n    a[0].append(1)\n    b['k'] = {2}\n    return 7", "a, b = [[]], {}\ninner = a[0]\nfill(a, b)"
     "\nassert a == [[1]] and inner == [1] and b == {'k': {2}}"),
    ("def same(x): return x", "x = [1]\nassert same(x) is x"),
    ("def apply(f, items): return [f(item) for item in items]",
     "seen = []\nassert apply(lambda x: seen.append(x) or x + 1, [1, 2]) == [2, 3] and seen == [1, 2]\n"
     "assert apply(str, (n for n in range(2))) == ['0', '1']\nassert apply(lambda f: f(3), [lambda x: x * 2]) == [6]"),
    ("def count(n):\n    while True:\n        yield n\n        n += 1",
     "c = count(5)\nassert next(c) == 5 and next(c) == 6\nfor n in count(0):\n    if n > 3: break\nassert n == 4"),
    ("def adder(n): return lambda x: x + n", "assert adder(2)(3) == 5 and callable(adder(1))"),
    ("async def wait(n): return n + 1", "import asyncio\nassert asyncio.run(wait(1)) == 2"),
    ("def hello(name): print('hello', name)",
     "import io\nfrom contextlib import redirect_stdout\nout = io.StringIO()\nwith redirect_stdout(out):\n"
     "    hello('you')\nassert out.getvalue() == 'hello you\\n'"),
    ("from enum import Enum\nclass Color(Enum):\n    RED = 1\n    BLUE = 2\ndef pick(n): return Color(n)",
     "assert pick(1) == Color.RED and pick(2) is Color.BLUE and pick(1).value == 1 and len(list(Color)) == 2"),
    ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef p(): return P(1, 2)",
     "assert p().x == 1 and p() == (1, 2) and P(1, 2).y == 2"),
    ("import math\nfrom collections import Counter\ndef f(x): return math.sqrt(x)",
     "assert math.isclose(f(4), 2) and Counter('a') == {'a': 1}"),  # as programs of data sets import for their tests
    ("def sum(a, b): return a * b", "assert sum(3, 4) == 12"),  # a function that Python has too
    ("import inspect\ndef f(x): return inspect.getsource(f).count('return')", "for i in (2,): assert f(i) == i"),
    ("def f(path):\n    with open(path, 'w') as file: file.write('x')",
     "import os\nf('made')\nassert open('made').read() == 'x' and os.path.exists('made')"),
    ("LIMIT = 5\ndef f(): return LIMIT", "assert [f()] == [LIMIT] and LIMIT == 5"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "tests"), SEEN)
def test_what_tests_see(judge: Verifier, code: str, tests: str) -> None:
    assert how(judge, code, tests) == "passed"


def test_a_problem_gives_its_own_helpers(judge: Verifier) -> None:
    """Functions above the one asked for are the problem's, also where the program defines them anew."""
    problem = "def encode(s):\n    return s[::-1]\n\ndef decode(s):\n    '''The inverse.'''\n"
    tests = "def check(candidate):\n    for s in ('ab', 'xyz'):\n        assert candidate(encode(s)) == s\n"
    assert how(judge, "def decode(s):\n    return s[::-1]", tests, "decode", problem) == "passed"
    hack = "def encode(s):\n    return 'x'\ndef decode(s):\n    return s"
    assert how(judge, hack, tests, "decode", problem) == "wrong"


@pytest.mark.parametrize(
    ("code", "tests", "expected"),
    [
        ("def f(x): return x + 1", "def ref(x): return x + 1\nfor x in range(5): assert f(x) == ref(x)", "passed"),
        ("def f(x): x.clear(); return []", "x = [2, 1]\nassert [f(x)] == [sorted(x)]", "wrong"),  # its own expectation
        ("def f(x): return []", "for a, b in zip(f(3), [1, 2]):\n    assert a == b", "wrong"),  # none was reached
        ("def f(x):\n    while True: pass", "for x in (1,): assert f(x) == 1", "timeout"),
        ("def f(x): import os; os.abort()", "for x in (1,): assert f(x) == 1", "error"),
        ("def f(x): import os; os.closerange(3, 99)", "for x in (1,): assert f(x) == 1", "wrong"),
        ("def g(x): return 1", "for x in (1,): assert f(x) == 1", "error"),
        ("def f(x): return 1\nf.cache = 1", "try:\n    assert f(1) == 2\nexcept Exception:\n    raise", "wrong"),
        ("def f(x): import os; os._exit(1)", "try:\n    f(1)\nexcept:\n    pass\nassert [1] == [1]", "error"),
        ("def f(x): return 'x' * (100 << 20)", "for x in (1,): assert len(f(x)) == 0", "error"),
    ],
)
def test_how_tests_end(judge: Verifier, code: str, tests: str, expected: str) -> None:
    with make_verifier("code", workers=1, timeout_seconds=1.0 if expected == "timeout" else 20.0, memory_mb=512) as own:
        assert how(own, code, tests) == expected


@pytest.mark.parametrize(
    "tests",
    [
        "from unittest.mock import patch\nwith patch('builtins.print') as printed:\n    f(1)\nassert printed.called",
        "import io, sys\nsys.stdin = io.StringIO('5')\nassert int(input()) == 5\nassert f(1) == 1",
        "class Node:\n    def __init__(self, value): self.value = value\nfor n in (1, 2): assert f(Node(n)).value == n",
    ],
)
def test_what_cannot_be_kept_apart_is_said(judge: Verifier, tests: str) -> None:
    assert how(judge, "def f(x):\n    print(x)\n    return x", tests) == "passed in one process"
    assert how(judge, "def f(x):\n    return None", tests).startswith(("wrong", "error"))
