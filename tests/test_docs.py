"""The README and the guides say what works: every block of code is run, in the order of its page.

A block whose fence says `not run: WHY` (it needs a server, a model, minutes) is checked without running it: Python
compiles, and every `learnalign` command parses with the options and settings that there are.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from learnalign.cli import app
from learnalign.config import Config, choices, get
from learnalign.guides import TOPICS, page, summary

ROOT = Path(__file__).parent.parent
PAGES = {"README": (ROOT / "README.md").read_text(), **{topic: page(topic) for topic in TOPICS}}
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 600  # that only a hang uses up


class Block(NamedTuple):
    language: str
    run: bool
    code: str


def blocks(text: str) -> list[Block]:
    return [Block(m[1], not m[2].strip().startswith("not run:"), m[3]) for m in FENCE.finditer(text)]


@pytest.mark.parametrize("name", PAGES)
def test_every_block_runs(name: str, tmp_path: Path) -> None:
    """In processes of their own: the Python blocks of a page together, each shell block for itself."""
    found = blocks(PAGES[name])
    assert all(block.language in ("python", "bash", "text", "") for block in found)
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": tools, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    python = "\n".join(block.code for block in found if block.run and block.language == "python")
    commands = [["bash", "-euo", "pipefail", "-c", b.code] for b in found if b.run and b.language == "bash"]
    for command in [*([[sys.executable, "-c", python]] if python else []), *commands]:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PAGES)
def test_what_is_not_run_is_well_formed(name: str) -> None:
    for block in blocks(PAGES[name]):
        if block.language == "python":
            ast.parse(block.code)
        elif block.language == "bash":
            for line in block.code.replace("\\\n", " ").splitlines():
                if line.startswith("learnalign "):
                    check_command(shlex.split(line, comments=True)[1:])


def check_command(arguments: list[str]) -> None:
    """Raise where the command, an option or a setting does not exist."""
    name, *rest = arguments
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, rest).params
    for assignment in given.get("settings") or []:
        get(Config(), assignment.partition("=")[0])


@pytest.mark.parametrize("name", PAGES)
def test_settings_that_a_page_names_exist(name: str) -> None:
    sections = "|".join(Config.__dataclass_fields__)
    for key in re.findall(rf"`(?:--set )?((?:{sections})\.[a-z_]+)", PAGES[name]):
        if not key.endswith((".parquet", ".jsonl", ".py")):
            get(Config(), key)


def test_strategies_are_all_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGES["strategies"], re.MULTILINE)
    assert tuple(rows) == choices("select.strategy")


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = PAGES["README"]
    assert len(text.splitlines()) <= 150
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_guide_command_lists_and_shows_pages() -> None:
    listed = CliRunner().invoke(app, ["guide"])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(TOPICS)
    assert all(summary(topic) in listed.stdout for topic in TOPICS)
    assert CliRunner().invoke(app, ["guide", "pools"]).stdout == page("pools")
    unknown = CliRunner().invoke(app, ["guide", "nothing"])
    assert unknown.exit_code == 2
    assert "there is no guide 'nothing'; there are: pools, sampling" in unknown.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["trl_selection.py", "RUN", "--prompts", "60", "--steps", "1"], marks=pytest.mark.train),
        ["gsm8k.py"],
    ],
)
def test_examples_run(arguments: list[str], tmp_path: Path) -> None:
    from learnalign.demo.pool import write_pool
    from learnalign.demo.run import POLICY

    script, *rest = arguments
    if script == "gsm8k.py":
        pool = write_pool(tmp_path / "pool.jsonl", 24, seed=1)
        rest = [str(pool), str(POLICY), "RUN", "--select", "4", "--max-new-tokens", "8", "--instruction", ""]
    command = [sys.executable, "-P", str(ROOT / "learnalign/guides/examples" / script), *rest]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert ("trained 1 steps on 6 prompts" if script == "trl_selection.py" else "selection.jsonl") in done.stdout
