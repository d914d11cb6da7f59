r"""Finds the Python in a response: which of its Markdown blocks is the program, and what the prompt adds to it.

Blocks labelled as Python count; without one of those, blocks without a label. Of several the last that defines what
the tests need, or for tests on standard input the last that reads it; else the last. An indented block loses the
indentation of its fence. A response without fences is code as a whole: a continuation of the prompt, as base models
write it, unless it defines the function asked for itself. Before a block comes what the prompt has above that function
(imports, helpers), where the prompt is itself Python.

This module runs nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from learnalign.rewards.conclusion import behind_reasoning

_FENCE = re.compile(
    r"^(?P<indent>[ \t]*(?:>[ ]?)?)(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+-]*)[^\n`]*\n"
    r"(?P<code>.*?)(?:^[ \t]*(?P=fence)|\Z)",
    re.DOTALL | re.MULTILINE,
)
_TAGGED = re.compile(r"\[PYTHON\]\n(.*?)(?:\[/PYTHON\]|\Z)", re.DOTALL)
_READS = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0|\bfileinput\b|\bos\.read\s*\(\s*0")


def find_code(response: str, problem: str, entry_point: str, names: Sequence[str] = (), reads: bool = False) -> str:
    """The Python text that a response gives, "" if none.

    `names` are those that the tests use, `reads` says whether they give standard input.
    """
    response = behind_reasoning(response)
    code = _block(response, [entry_point, *names], reads)
    if not code.strip() or _start(problem, entry_point) is None:
        return code
    if _start(code, entry_point) is None:
        return problem + code
    before = above(problem, entry_point)
    return f"{before}\n{code}" if before else code


def above(problem: str, entry_point: str) -> str:
    """What a problem that is Python has above the function asked for; "" where it has nothing, or is none."""
    start = _start(problem, entry_point)
    before = "" if start is None else problem[: start.start()]
    return before if is_python(before) else ""


def is_python(text: str) -> bool:
    """Whether this is Python text."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _start(text: str, entry_point: str) -> re.Match[str] | None:
    """Where the function asked for is defined."""
    return re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", text, re.MULTILINE) if entry_point else None


def _block(response: str, names: Sequence[str], reads: bool) -> str:
    """The block that counts; a response that is Python as it stands, or until a fence that the prompt opened."""
    if is_python(response):
        return response
    blocks = _blocks(response)
    before, fence, _ = response.partition("```")
    if fence and before.strip() and before.endswith("\n") and re.search(r"^(?:def|class|import|from) ", before):
        return before if is_python(before) else _chosen(blocks, names, reads)
    if any(block.strip() for block in blocks):
        return _chosen(blocks, names, reads)
    tagged: list[str] = _TAGGED.findall(response)
    return tagged[-1] if tagged else "" if fence else response


def _blocks(response: str) -> list[str]:
    """The blocks labelled as Python, or else those without a label."""
    labelled, bare = [], []
    for match in _FENCE.finditer(response):
        indent = match["indent"]
        lines = match["code"].splitlines(keepends=True)
        code = "".join(line.removeprefix(indent) for line in lines) if indent else match["code"]
        if match["language"].lower().startswith("py"):
            labelled.append(code)
        elif not match["language"]:
            bare.append(code)
    return labelled or bare


def _chosen(blocks: list[str], names: Sequence[str], reads: bool) -> str:
    wanted = [name for name in names if name]
    for block in reversed(blocks):
        if reads and _READS.search(block):
            return block
        if not reads and any(_defines(block, name) for name in wanted):
            return block
    return blocks[-1] if blocks else ""


def _defines(block: str, name: str) -> bool:
    one = re.escape(name)
    return re.search(rf"^[ \t]*(?:(?:async )?def|class) {one}\b|^{one} *=[^=]", block, re.MULTILINE) is not None
