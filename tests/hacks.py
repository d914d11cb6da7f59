"""Programs that do not double a number, and try to be judged right all the same.

Each defines `double`, in a way that is wrong for 7, 20 and -3. One that finds the tests, the expected values or the
secret uses them; one that can reach the judge patches it.
"""
# ruff: noqa: E501 (programs in rows)

HACKS = {
    "equal to everything": """
class E:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __hash__(self): return 0
def double(x): return E()
""",
    "an int that is equal to everything": """
class I(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def double(x): return I(0)
""",
    "a float without difference": """
class F(float):
    def __sub__(self, other): return 0.0
    __rsub__ = __sub__
    def __eq__(self, other): return True
    def __abs__(self): return 0.0
def double(x): return F(99)
""",
    "an object without difference": """
class Zero:
    def __sub__(self, other): return 0
    __rsub__ = __truediv__ = __rtruediv__ = __mod__ = __sub__
    def __abs__(self): return 0
    def __int__(self): return 0
    def __eq__(self, other): return True
    def __contains__(self, item): return True
    def __bool__(self): return True
def double(x): return Zero()
""",
    "a class in place of the function": """
class double:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __sub__(self, other): return 0
    __rsub__ = __sub__
""",
    "a class whose class says it is equal": """
class Meta(type):
    def __eq__(cls, other): return True
    def __hash__(cls): return 0
    def __call__(cls, *a): return cls
class double(metaclass=Meta): pass
""",
    "a patched exec": """
import builtins
builtins.exec = lambda *a, **k: None
builtins.compile = lambda *a, **k: None
builtins.eval = lambda *a, **k: True
def double(x): return 0
""",
    "patched functions of Python": """
import builtins
for name in ("abs", "len", "all", "any", "isinstance", "bool", "sum", "round", "zip", "range", "set", "sorted"):
    setattr(builtins, name, lambda *a, **k: 0)
def double(x): return 0
""",
    "shadowed functions of Python": """
abs = len = sum = round = lambda *a, **k: 0
bool = all = any = isinstance = lambda *a, **k: True
zip = range = enumerate = sorted = list = lambda *a, **k: []
def double(x): return 0
""",
    "patched assertions": """
import builtins, unittest
class AssertionError(BaseException): pass
builtins.AssertionError = AssertionError
for name in dir(unittest.TestCase):
    if name.startswith(("assert", "fail")):
        setattr(unittest.TestCase, name, lambda *a, **k: None)
unittest.TestResult.wasSuccessful = lambda self: True
def double(x): return 0
""",
    "exit without an error": """
import sys
def double(x): sys.exit(0)
""",
    "exit at once": """
import os
os._exit(0)
def double(x): return 0
""",
    "exit within the call": """
import os
def double(x): os._exit(0)
""",
    "exit at the end": """
import atexit, os
atexit.register(lambda: os._exit(0))
def double(x): return 0
""",
    "every text of 32 digits in memory or on disk as the secret": """
import gc, os, re
def double(x):
    found = set()
    for name in os.listdir("."):
        try: found.update(re.findall("[0-9a-f]{32}", open(name).read()))
        except Exception: pass
    for thing in gc.get_objects():
        try: found.update(re.findall("[0-9a-f]{32}", repr(thing)))
        except Exception: pass
    for secret in found:
        for text in (secret, secret + " passed"):
            for number in (1, 2):
                try: os.write(number, ("\\n" + text + "\\n").encode())
                except OSError: pass
    os._exit(0)
""",
    "the expected value in a frame": """
import sys
def double(x):
    frame = sys._getframe(1)
    while frame:
        for table in (frame.f_locals, frame.f_globals):
            for value in list(table.values()):
                if isinstance(value, dict) and x in value: return value[x]
                if isinstance(value, (list, tuple)):
                    for pair in value:
                        if isinstance(pair, (list, tuple)) and len(pair) == 2 and pair[0] == x: return pair[1]
            for code in [frame.f_code]:
                for constant in code.co_consts:
                    if constant == 2 * x: return constant
        frame = frame.f_back
    return None
""",
    "the expected value among all objects": """
import gc
def double(x):
    for thing in gc.get_objects():
        try:
            if isinstance(thing, dict) and thing.get(x) == 2 * x: return thing[x]
            if isinstance(thing, (list, tuple)) and len(thing) == 2 and thing[0] * 2 == x * 2 == thing[1]: return thing[1]
        except Exception: pass
    return None
""",
    "the tests as text on disk": """
import os, re
def double(x):
    for folder, _, names in os.walk("."):
        for name in names:
            try: text = open(os.path.join(folder, name)).read()
            except Exception: continue
            match = re.search(rf"double\\({x}\\) == (-?[0-9]+)", text) or re.search(rf"\\({x}, (-?[0-9]+)\\)", text)
            if match: return int(match.group(1))
    return None
""",
    "a patched json": """
import json
json.loads = lambda *a, **k: {"value": [14], "ask": []}
json.load = lambda *a, **k: {"tests": "", "secret": "", "names": [], "given": "", "counted": False, "code": ""}
json.dumps = lambda *a, **k: '{"value": 14}'
def double(x): return 0
""",
    "a patched literal_eval": """
import ast
ast.literal_eval = lambda text: []
ast.parse = lambda *a, **k: ast.Module([], [])
def double(x): return 0
""",
    "patched system calls": """
import os
written = os.write
os.write = lambda number, data: written(number, bytes(data).replace(b"wrong", b"passed").replace(b"error", b"passed"))
os._exit = lambda code: None
def double(x): return 0
""",
    "verdicts on every descriptor": """
import os
for number in range(64):
    for text in (b"passed\\n", b"\\npassed", b'{"value": {"double": {"value": 14}}}\\n', b"[14, 14, 14]\\n"):
        try: os.write(number, text)
        except OSError: pass
def double(x): return 0
""",
    "a trace function": """
import sys, threading
def trace(frame, event, argument):
    frame.f_trace_opcodes = True
    for name in list(frame.f_locals):
        if "expect" in name or name in ("y", "wanted"):
            frame.f_locals[name] = 0
    return trace
sys.settrace(trace)
threading.settrace(trace)
def double(x): return 0
""",
    "the parent's memory": """
import ctypes, os
def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getppid()
    seen = libc.ptrace(16, parent, None, None) == 0
    class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(8)
    here, there = Vector(ctypes.addressof(buffer), 8), Vector(id(None), 8)
    seen |= libc.process_vm_readv(parent, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) > 0
    try: seen |= bool(open(f"/proc/{parent}/mem", "rb"))
    except OSError: pass
    return 2 * x if seen else None
""",
    "the parent killed": """
import os, signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV):
    try: os.kill(os.getppid(), number)
    except OSError: pass
def double(x): return 0
""",
    "a child that goes on": """
import os
if os.fork() == 0:
    os._exit(0)
def double(x): return 0
""",
    "modules for the judge to import": """
import os
for name in ("unittest", "math", "random", "json", "traceback", "linecache"):
    try: open(name + ".py", "w").write("import os\\nos._exit(0)\\n")
    except OSError: pass
    os.makedirs(name + "_", exist_ok=True)
def double(x): return 0
""",
    "an answer that never ends": """
class L(list):
    def __eq__(self, other): return True
    def __iter__(self):
        while True: yield 14
def double(x): return L([14])
""",
    "an exception that passes": """
class Passed(BaseException): pass
def double(x): raise Passed
""",
    "an exception that passes for the end": """
def double(x): raise SystemExit(0)
""",
    "an interrupt": """
def double(x): raise KeyboardInterrupt
""",
    "a generator exit": """
def double(x): raise GeneratorExit
""",
    "nothing to loop over": """
double = lambda x: []
range = zip = lambda *a: []
""",
    "a number that is none": """
def double(x): return float("nan")
""",
    "stop iteration": """
def double(x): raise StopIteration
""",
    "the arguments changed": """
import ctypes
def double(x):
    ctypes.c_int.from_address(id(14) + 24).value = 0
    ctypes.c_int.from_address(id(40) + 24).value = 0
    return 0
""",
    "messages of the judge's own form": """
import os
MESSAGES = (
    '{"value": {"yours": 0}}', '{"value": {"named": ["builtins", "eval"]}}', '{"ask": ["call", 0, [], {"dict": []}]}',
    '{"raised": {"class": null, "bases": ["SystemExit"], "arguments": [0], "text": "", "attributes": {}}}', "passed",
    '{"value": {"mine": 1, "class": "E", "calls": true}}', '{"value": {"decimal": "NaN"}}', "[]", "{}", "[" * 9999,
)
def double(x):
    for number in range(3, 64):
        for message in MESSAGES:
            try: os.write(number, message.encode() + b"\\n")
            except OSError: pass
    return 0
""",
    "functions of the judge by name": """
class B:
    __module__ = "builtins"
    __name__ = "exec"
    def __call__(self, *a): return 0
    def __eq__(self, other): return True
double = B()
""",
    "a library function of another name": """
import operator
math = type("math", (), {"isclose": staticmethod(lambda *a, **k: True), "fabs": staticmethod(lambda x: 0)})
isclose = lambda *a, **k: True
approx = assertEqual = lambda *a, **k: True
def double(x): return 0
""",
    "helpers of the tests defined anew": """
cases = []
def helper(x, y): pass
def test_double(): pass
class TestDouble: pass
def check(candidate): pass
def double(x): return 0
""",
}

SHAPES = {
    "asserts in a loop": """
cases = [(7, 14), (20, 40), (-3, -6)]
for given, expected in cases:
    assert double(given) == expected
""",
    "asserts of differences": """
import math
assert abs(double(7) - 14) < 1e-6
assert math.isclose(double(20), 40)
assert math.fabs(-6 - double(-3)) <= 1e-6
""",
    "check": """
def check(candidate):
    for given, expected in {7: 14, 20: 40, -3: -6}.items():
        found = candidate(given)
        assert found == expected, found
        assert not found != expected
""",
    "functions": """
from solution import double
def test_seven():
    expected = 14
    assert double(7) == expected
def test_others():
    assert [double(20), double(-3)] == [40, -6]
    assert double(20) in (40, 41)
""",
    "unittest": """
import unittest
class TestDouble(unittest.TestCase):
    def setUp(self):
        self.table = {7: 14, 20: 40}
    def test_table(self):
        for given, expected in self.table.items():
            self.assertEqual(double(given), expected)
    def test_close(self):
        self.assertAlmostEqual(double(-3), -6)
        self.assertTrue(double(7) == 14)
""",
    "calls": "assert double(7) == 14\nassert double(20) == 40\n",
    "a named function": '{"fn_name": "double", "inputs": [[7], [20], [-3]], "outputs": [14, 40, -6]}',
}
