"""Code judged by its tests: the shapes of tests, what counts as code, verdicts, and a Sandbox Fusion server."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hacks import HACKS, SHAPES

from learnalign.config import Config, PoolConfig, RewardConfig
from learnalign.errors import RewardError
from learnalign.progress import Progress
from learnalign.rewards import Prompt, Verifier, make_verifier
from learnalign.rewards.code import sandbox, sandbox_fusion
from learnalign.rewards.code.blocks import find_code
from learnalign.rewards.code.programs import Program, same_output
from learnalign.rewards.code.worker import prepare
from learnalign.rewards.worker import CannotServe
from learnalign.runs import pipeline
from learnalign.runs.verifier import open_verifier

pytestmark = pytest.mark.usefixtures("contained")

DOUBLE = "def double(x):\n    return 2 * x"
PAIRS = json.dumps({"inputs": ["3\n", "-1\n"], "outputs": ["6\n", "-2\n"]})


def code_judge(seconds: float = 5.0, url: str = "") -> Verifier:
    return make_verifier("code", workers=2, timeout_seconds=seconds, memory_mb=512, sandbox_url=url)


@pytest.fixture(scope="module")
def judge() -> Iterator[Verifier]:
    with code_judge() as made:
        yield made


def fenced(code: str) -> str:
    return f"We double it.\n```python\n{code}\n```\nThat is all."


@pytest.mark.parametrize(
    "tests",
    [
        "assert double(3) == 6\nassert double('a') == 'aa'",
        json.dumps(["assert double(3) == 6", "assert double(0) == 0"]),
        "def check(candidate):\n    assert candidate(3) == 6\ncheck(double)",
        "def check(candidate):\n    assert candidate(3) == 6\n",  # the column entry_point names it
        json.dumps({"inputs": [[3], ["a"]], "outputs": [6, "aa"], "fn_name": "double"}),
        json.dumps({"inputs": [[[1, 2]]], "outputs": [[[1, 2, 1, 2]]], "fn_name": "double"}),
    ],
)
def test_unit_tests(judge: Verifier, tests: str) -> None:
    prompt = Prompt("p", "Double a number.", row={"entry_point": "double"})
    wrong = DOUBLE.replace("2 * x", "x + x + x")
    verdicts = judge.judge([fenced(DOUBLE), fenced(wrong)], [tests] * 2, [prompt] * 2)
    assert [(v.correct, v.reward, v.how) for v in verdicts] == [(True, 1.0, "passed"), (False, 0.0, "wrong")]


@pytest.mark.parametrize(
    "tests", [PAIRS, json.dumps([{"input": "3", "output": "6"}, {"input": ["-1"], "output": ["-2"]}])]
)
def test_standard_input_and_output(judge: Verifier, tests: str) -> None:
    programs = [
        "print(2 * int(input()))",
        "print(int(input()) + 3)",
        "import sys\nsys.stdout.write(f' {2 * int(input())} \\n\\n')",
    ]
    verdicts = judge.judge([fenced(text) for text in programs], [tests] * 3)
    assert [v.how for v in verdicts] == ["passed", "wrong", "passed"]


def test_methods_of_solution(judge: Verifier) -> None:
    tests = json.dumps({"inputs": [[3]], "outputs": [6], "fn_name": "double"})
    code = "class Solution:\n    def double(self, x):\n        return 2 * x"
    assert judge.judge([fenced(code)], [tests])[0].correct


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("def double(x):\n    return 1 / 0", "error"),
        ("def double(x:", "error"),
        ("def double(x):\n    while True: pass", "timeout"),
        ("def double(x):\n    import time; time.sleep(60)", "timeout"),
        ("def double(x):\n    return bytearray(1 << 30)", "error"),
        ("import os\ndef double(x):\n    print('x' * (20 << 20))", "error"),
        ("import os\nos._exit(0)", "wrong"),  # before the tests
        ("import sys\nsys.exit(0)", "wrong"),
        ("import sys\ndef double(x):\n    sys.exit()", "wrong"),
        ("import atexit, time\natexit.register(time.sleep, 60)\n" + DOUBLE, "passed"),
        (
            "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    a: int\n"
            + DOUBLE,
            "passed",
        ),
        ("if __name__ == '__main__':\n    input()\n" + DOUBLE, "passed"),
        ("print('chatter')\n" + DOUBLE, "passed"),
    ],
)
def test_how_programs_fail(code: str, how: str) -> None:
    with code_judge(seconds=1.0 if how == "timeout" else 30.0) as judge:  # only a hang uses them up
        verdict = judge.judge([fenced(code)], ["assert double(3) == 6"])[0]
    assert verdict.how == how


def test_what_is_code() -> None:
    problem = "import math\n\ndef double(x):\n    '''Twice x.'''\n"
    assert find_code("    return 2 * x\n", problem, "double") == problem + "    return 2 * x\n"  # a base model goes on
    assert find_code(fenced(DOUBLE), problem, "double") == f"import math\n\n\n{DOUBLE}\n"
    assert find_code(fenced(DOUBLE), "Please write\ndef double(x):", "double") == DOUBLE + "\n"
    assert find_code(DOUBLE, "Double a number.", "") == DOUBLE
    assert find_code(f"{fenced('a = 1')}\n{fenced('b = 2')}", "", "") == "b = 2\n"
    assert find_code("```bash\nls\n```", "", "") == ""
    assert find_code("```python\ncut = off", "", "") == "cut = off"
    assert find_code("```py\nx = '''\n  ``\n'''\n```", "", "") == "x = '''\n  ``\n'''\n"


def test_no_code_is_no_answer(judge: Verifier) -> None:
    verdicts = judge.judge(["", "```bash\nls\n```", "```python\n```"], ["assert f()"] * 3)
    assert [v.how for v in verdicts] == ["empty", "no answer", "no answer"]


def test_output_comparison() -> None:
    for found, expected in [
        ("1 2\n3\n", "1 2\n3"),
        (" 1 2 \n3\n\n", "1 2\n3\n"),
        ("0.3333333", "0.33333333"),
        ("1.0", "1.00"),
        ("1  2\n3", "1 2 3"),
        ("2.0 -3.00", "2 -3"),
    ]:
        assert same_output(found, expected), (found, expected)
    for found, expected in [
        ("1 2\n3", "1 2\n4"),
        ("", "1"),
        ("0.333", "0.3333333"),
        ("yes", "Yes"),
        ("1.5", "1"),
        ("1e0", "1"),
        ("1 1", "1"),
    ]:
        assert not same_output(found, expected), (found, expected)


@pytest.mark.parametrize(
    "tests", ["72", "[]", "{}", '{"inputs": ["1"], "outputs": []}', '[{"input": "1"}]', '[1, "assert x"]', "true"]
)
def test_unfit_tests_name_the_prompt(judge: Verifier, tests: str) -> None:
    with pytest.raises(RewardError, match=r"tests of prompt 'p7' have no known shape") as caught:
        judge.judge(["x = 1"], [tests], [Prompt("p7")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tests",
    [
        "from solution import double\n\ndef test_one():\n    assert double(4) == 8\n",
        "def test(candidate):\n    assert candidate(4) == 8\n",
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(double(4), 8)\n",
        "class TestAll:\n    def test_a(self):\n        assert double(4) == 8\n",
    ],
)
def test_tests_that_are_only_defined_are_called(judge: Verifier, tests: str) -> None:
    prompt = Prompt("p", "", row={"entry_point": "double"})
    verdicts = judge.judge(
        [fenced(DOUBLE), fenced(DOUBLE.replace("2", "3")), fenced("x = 1")], [tests] * 3, [prompt] * 3
    )
    assert [v.correct for v in verdicts] == [True, False, False]


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ("# no tests here\n", "assert nothing"),
        ("double(3) == 6\n", "assert nothing"),
        ("assert True", "assert nothing"),
        ("import numpy as np\nassert np.all(double(3) == 6)", "import numpy"),
        ("import pytest\ndef test_a():\n    assert double(3) == 6", "import pytest"),
        ("eJxrYJlqwwABPRbR1UqZeQWlJUpWCkrGMXlKOgpK", "base64.*decode them before"),
        ("def test_a(fixture):\n    assert fixture", "parameters that nothing gives"),
    ],
)
def test_tests_that_test_nothing_are_refused(judge: Verifier, tests: str, said: str) -> None:
    with pytest.raises(RewardError, match=rf"'p7'.*{said}"):
        judge.judge([fenced(DOUBLE)], [tests], [Prompt("p7")])


@pytest.mark.parametrize("shape", SHAPES)
def test_no_program_talks_its_way_to_a_verdict(judge: Verifier, shape: str) -> None:
    prompts = [Prompt("p", "", row={"entry_point": "double"})] * len(HACKS)
    assert judge.judge([fenced(DOUBLE)], [SHAPES[shape]], prompts[:1])[0].how == "passed"  # and not in one process
    with code_judge(seconds=1.0) as short:
        verdicts = short.judge([fenced(code) for code in HACKS.values()], [SHAPES[shape]] * len(HACKS), prompts)
    assert [name for name, found in zip(HACKS, verdicts, strict=True) if found.correct] == []
    assert len(HACKS) >= 40


@pytest.mark.parametrize(
    "code",
    [
        "x = int(input())\nprint(2 * x)\nquit()",
        "print(2 * int(input()))\nexit(0)",
        "import sys\nx = int(input())\nprint(len(str(2 ** 20000)) and 2 * x)",
        "print(2 * int(open('/dev/stdin').read()))",
        "help\nprint(2 * int(input()))",
    ],
)
def test_programs_have_what_python_gives_them(judge: Verifier, code: str) -> None:
    assert judge.judge([fenced(code)], [PAIRS])[0].how == "passed"


BLOCKS = [
    "```python\n{0}\n```\nUsage:\n```python\nprint(double(3))\n```\n",
    "```python\n{0}\n```\nOutput:\n```\n6\n```\n",
    "```\n{0}\n```\nIt prints:\n```text\n6\n```\n",
    "Wrong:\n```python\ndef double(x): return x\n```\nRight:\n```py\n{0}\n```\nas `double(3)` shows.",
    "```Python3\n{0}\n```",
    "```{{python}}\n{0}\n```",
    "~~~~py\n{0}\n~~~~",
    "<think>```python\ndef double(x): return 0\n```</think>```python\n{0}\n```",
]


@pytest.mark.parametrize("blocks", BLOCKS)
def test_which_block_is_the_program(judge: Verifier, blocks: str) -> None:
    assert judge.judge([blocks.format(DOUBLE)], ["assert double(3) == 6 and double(4) == 8"])[0].how == "passed"


def test_an_indented_block_loses_the_indentation_of_its_fence() -> None:
    indented = DOUBLE.replace("\n", "\n   ")
    assert find_code(f"1. So:\n   ```python\n   {indented}\n   ```\n", "", "") == f"{DOUBLE}\n"
    assert find_code("```python\n    return 2 * x\n```", "def double(x):\n", "double").endswith("\n    return 2 * x\n")


def test_for_standard_input_the_block_that_reads_it_counts(judge: Verifier) -> None:
    read = "print(2 * int(input()))"
    response = f"```python\n{read}\n```\nFor example:\n```python\nprint(2 * 3)\n```"
    assert judge.judge([response], [PAIRS])[0].how == "passed"


ROWS: list[tuple[str, Any, dict[str, Any]]] = [
    # (what it is, tests, row)
    ("columns", {"input": ["3\n", "-1\n"], "output": ["6\n", "-2\n"]}, {}),
    ("test_cases", {"test_cases": [{"type": "stdin_stdout", "input": "3", "output": "6", "fn_name": None}]}, {}),
    ("functional, named by metadata", [{"input": "3", "output": "6", "testtype": "functional"}],
     {"metadata": '{"func_name": "double"}'}),
    ("functional, named by the starter", [{"input": "[1, 2]\n", "output": "[1, 2, 1, 2]", "testtype": "functional"}],
     {"starter_code": "class Solution:\n    def double(self, x: List[int]) -> List[int]:\n        "}),
    ("stdin of LiveCodeBench", [{"input": "3", "output": "6", "testtype": "stdin"}], {"metadata": "{}"}),
    ("function_call", {"test_cases": [{"type": "function_call", "fn_name": "double", "input": [3], "output": 6}]}, {}),
    ("assert_case", {"assert_case": ["assert double(3) == 6", "assert double(-1) == -2"]}, {}),
    ("assert_case beside nothing", {"inputs": None, "outputs": None, "assert_case": ["assert double(3) == 6"]}, {}),
    ("test_list", {"test_list": ["assert same(double(3), 6)"], "test_setup_code": "def same(a, b): return a == b"}, {}),
    ("setup in the row", ["assert same(double(3), 6)"],
     {"test_setup_code": "def same(a, b):\n    return math.isclose(a, b)", "test_imports": ["import math"]}),
    ("texts of values", {"fn_name": "double", "inputs": ["3\n", '"a"'], "outputs": ["6", '"aa"']}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "tests", "row"), ROWS)
def test_shapes_of_tests(judge: Verifier, name: str, tests: Any, row: dict[str, Any]) -> None:
    both = (
        DOUBLE
        + "\nimport sys\ntext = sys.stdin.read().strip()\nif text.lstrip('-').isdecimal(): print(double(int(text)))"
    )
    responses = [fenced(both), fenced(both.replace("2 * x", "3 * x"))]
    right, wrong = judge.judge(responses, [json.dumps(tests)] * 2, [Prompt("p", "", row=row)] * 2)
    assert (right.how, wrong.how) == ("passed", "wrong")


def test_a_functional_test_needs_a_name(judge: Verifier) -> None:
    tests = json.dumps([{"input": "3", "output": "6", "testtype": "functional"}])
    with pytest.raises(RewardError, match=r"'p7' call a function.*metadata.func_name"):
        judge.judge([fenced(DOUBLE)], [tests], [Prompt("p7")])


def test_numbers_of_more_than_4300_digits(judge: Verifier) -> None:
    digits = "9" * 5000
    code = "def f(n): return 10 ** n - 1"
    tests = [f"assert f(5000) == {digits}", f"for n in [5000]:\n    assert f(n) == {digits}"]
    tests += [f'{{"fn_name": "f", "inputs": [[5000]], "outputs": [{digits}]}}']
    assert [v.how for v in judge.judge([fenced(code)] * 3, tests)] == ["passed"] * 3
    wrong = judge.judge([fenced(code.replace("- 1", "- 2"))] * 3, tests)
    assert [v.how for v in wrong] == ["wrong"] * 3
    pair = json.dumps({"inputs": [digits], "outputs": [digits[:-1] + "8"]})
    assert judge.judge([fenced("print(int(input()) - 1)")], [pair])[0].how == "passed"


def test_values_are_compared_as_data(judge: Verifier) -> None:
    near = json.dumps({"fn_name": "f", "inputs": [[0.1, 0.2]], "outputs": [0.3]})
    typed = json.dumps({"fn_name": "f", "inputs": [[[3, 1]]], "outputs": [[1, 3]]})
    codes = [
        "def f(a, b): return a + b",
        "class Solution:\n    def f(self, x: List[int]) -> List[int]: return sorted(x)",
    ]
    assert [v.correct for v in judge.judge([fenced(code) for code in codes], [near, typed])] == [True, True]


def test_exit_codes_of_the_launcher_are_no_refusal(judge: Verifier) -> None:
    codes = [f"import sys\nsys.exit({code})" for code in (126, 127, 1)]
    assert [v.how for v in judge.judge([fenced(code) for code in codes], [PAIRS] * 3)] == ["error"] * 3


def test_check_without_an_entry_point_is_refused(judge: Verifier) -> None:
    with pytest.raises(RewardError, match=r"'p7' define check.*no column entry_point"):
        judge.judge(["x = 1"], ["def check(candidate):\n    assert candidate(1)"], [Prompt("p7")])


def test_a_contained_judge_has_nothing_to_say(judge: Verifier) -> None:
    assert judge.notes() == []


def test_without_namespaces_it_is_refused_or_said(monkeypatch: pytest.MonkeyPatch) -> None:
    contained = sandbox.run

    def run(source: str, stdin: str, *, seconds: float, memory_mb: int, namespaces: bool = True) -> sandbox.Ran:
        if namespaces:
            raise RewardError("namespaces are not allowed")
        return contained(source, stdin, seconds=seconds, memory_mb=memory_mb)

    monkeypatch.setattr(sandbox, "run", run)
    for name in ("adopt_orphans", "kill_descendants"):  # they are for a process that runs nothing but programs
        monkeypatch.setattr(sandbox, name, lambda: None)
    with pytest.raises(CannotServe, match="namespaces are not allowed"):
        prepare(["5", "", "strong"], 512)
    answer = prepare(["5", "", "weak"], 512)
    assert "could read files" in str(answer("where"))
    assert answer([Program("output", "print(6)", "", "6")]) == {"how": "passed"}


# --- HumanEval

CHANGED = """
def _changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, dict):
        return {**value, "another": 1}
    return 0 if value is None else value + type(value)([0] if not isinstance(value, str) else "x")
_original = {name}
def {name}(*arguments):
    return _changed(_original(*arguments))
"""


def test_human_eval(data_dir: Path) -> None:
    """Every canonical solution passes, as a block and as a continuation; every one fails with its values changed."""
    with gzip.open(data_dir / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        rows: list[dict[str, str]] = [json.loads(line) for line in file]
    assert len(rows) == 164
    prompts = [Prompt(row["task_id"], row["prompt"], row=row) for row in rows]
    tests = [row["test"] for row in rows]
    solutions = [row["canonical_solution"] for row in rows]
    mutants = [
        fenced(row["prompt"] + solution + CHANGED.replace("{name}", row["entry_point"]))
        for row, solution in zip(rows, solutions, strict=True)
    ]
    with code_judge(seconds=10) as judge:
        right = judge.judge(solutions, tests, prompts)
        changed = judge.judge(mutants, tests, prompts)
    assert [row["task_id"] for row, v in zip(rows, right, strict=True) if v.how != "passed"] == []
    assert [row["task_id"] for row, v in zip(rows, changed, strict=True) if v.correct] == []
    assert {v.how for v in changed} <= {"wrong", "error"}


def test_human_eval_as_a_pool(data_dir: Path, tmp_path: Path) -> None:
    """The stage hands over the columns that tests of code need: the file is a pool as it is."""
    pool = data_dir / "humaneval" / "HumanEval.jsonl.gz"
    config = Config(
        pool=PoolConfig(path=str(pool), answer_column="test", limit=2), reward=RewardConfig(verifier="code")
    )
    run = pipeline.create_run(tmp_path / "run", config)
    pipeline.work(run, config, "pool", Progress(quiet=True))
    with gzip.open(pool, "rt", encoding="utf-8") as file:
        first, second = (json.loads(next(file))["canonical_solution"] for _ in range(2))
    with open_verifier(run) as judging:
        verdicts = judging.verdicts([first, second, second], ["0", "0", "1"])
    assert [verdict.correct for verdict in verdicts] == [True, False, True]


# --- Sandbox Fusion


@contextmanager
def fusion(script: list[Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server on loopback that speaks Sandbox Fusion's /run_code; `script` holds what it does first instead.

    Yields its address and the list of the requests that it has got.
    """
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, **body})
            status, reply = script.pop(0) if script else (200, answer(body))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        ran = sandbox.run(body["code"], body["stdin"], seconds=body["run_timeout"], memory_mb=body["memory_limit_MB"])
        result = {
            "status": "TimeLimitExceeded" if ran.ended == "timeout" else "Finished",
            "return_code": ran.code,
            "stdout": ran.stdout.decode(),
            "stderr": ran.stderr.decode(),
        }
        status = "Success" if ran.ended == "exit" and not ran.code else "Failed"
        return {"status": status, "message": "", "compile_result": None, "run_result": result, "files": {}}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_gives_the_verdicts_of_the_sandbox(judge: Verifier) -> None:
    responses = [
        fenced(DOUBLE),
        fenced("def double(x): return 7"),
        fenced("def double(x):\n    while 1: pass"),
        "```python\n1 +\n```",
    ]
    tests = ["assert double(3) == 6"] * 4
    responses += [fenced("print(2 * int(input()))"), fenced("print(6)")]
    tests += [PAIRS] * 2
    with fusion([]) as (url, asked), code_judge(5.0, url) as remote, code_judge(5.0) as local:
        there = remote.judge(responses, tests)
        assert there == local.judge(responses, tests)
        assert remote.notes() == []
    assert [v.how for v in there] == ["passed", "wrong", "timeout", "error", "passed", "wrong"]
    assert {request["path"] for request in asked} == {"/run_code"}
    assert {(r["language"], r["run_timeout"], r["memory_limit_MB"]) for r in asked} == {("python", 5.0, 512)}


def test_an_outage_is_waited_for() -> None:
    failing = {"status": "SandboxError", "message": "busy", "run_result": None}
    with fusion([(503, b"down"), (200, failing)]) as (url, asked), code_judge(5.0, url) as remote:
        assert remote.judge([fenced(DOUBLE)], ["assert double(3) == 6"])[0].correct
    assert len(asked) == 3


def test_a_server_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_fusion, "PAUSE_SECONDS", 0.001)
    with fusion([(404, b"no")]) as (url, _), pytest.raises(RewardError, match=r"127.0.0.1.*refuses.*HTTP 404"):
        sandbox_fusion.run(url, "", "", seconds=1, memory_mb=100)
    with fusion([(200, b"<html>")]) as (url, _), pytest.raises(RewardError, match=r"is no Sandbox Fusion server"):
        sandbox_fusion.run(url, "", "", seconds=1, memory_mb=100)
    with pytest.raises(RewardError, match=r"no result in 6 attempts.*refused") as caught:
        sandbox_fusion.run(url, "", "", seconds=1, memory_mb=100)  # nobody listens there any more
    assert "\n" not in str(caught.value)
