"""bench/gpu.sh without a GPU: a failing part stops nothing and is seen, its commands exist, and the script runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PRINTS = 'print(\'working\'); print(\'{"bars_met": {"speed": false}, "summary": "half as fast"}\')'


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    """The driver, as a module."""
    spec = importlib.util.spec_from_file_location("bench_gpu", ROOT / "bench" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def run(
    gpu: ModuleType, tmp_path: Path, *parts: object, total: float = 600.0
) -> tuple[int, dict[str, dict[str, object]]]:
    code = gpu.run_parts(parts, tmp_path / "out", total)
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]
    assert all((tmp_path / "out" / f"{outcome['name']}.log").is_file() for outcome in found if outcome["seconds"])
    return code, {outcome["name"]: outcome for outcome in found}


def test_a_failing_part_stops_nothing_and_is_seen(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = run(
        gpu,
        tmp_path,
        gpu.Part("broken", 60, [sys.executable, "-c", "import no_such_module"]),
        gpu.Part("hangs", 0.5, ["bash", "-c", "sleep 1000 & sleep 1000"]),
        gpu.Part("missing", 0, [], "no tool"),
        gpu.Part("works", 60, [sys.executable, "-c", PRINTS]),
    )
    assert code == 1
    assert [part["status"] for part in found.values()] == ["failed (1)", "too slow (0 s)", "not here: no tool", "ok"]
    assert found["works"]["result"] == {"bars_met": {"speed": False}, "summary": "half as fast"}
    shown = capsys.readouterr().out
    assert "No module named 'no_such_module'" in shown
    table = shown[shown.index("part  ") :]
    for line in ("broken .*failed", "hangs .*too slow", "missing .*not here: no tool", "works .*misses its bar: speed"):
        assert re.search(line, table), table
    assert "half as fast" in table


def test_what_there_is_no_time_for_is_not_begun_and_fails(gpu: ModuleType, tmp_path: Path) -> None:
    marker = tmp_path / "begun"
    code, found = run(gpu, tmp_path, gpu.Part("late", 60, ["touch", str(marker)]), total=0.0)
    assert (code, found["late"]["status"]) == (1, "not begun")
    assert not marker.exists()


def test_missed_bars_and_missing_tools_are_no_failures(gpu: ModuleType, tmp_path: Path) -> None:
    parts = (gpu.Part("missing", 0, [], "no tool"), gpu.Part("works", 60, [sys.executable, "-c", PRINTS]))
    assert run(gpu, tmp_path, *parts)[0] == 0


@pytest.mark.parametrize("rehearse", [False, True])
def test_every_part_calls_what_there_is(gpu: ModuleType, rehearse: bool) -> None:
    """Modules, files and options by name; the list on a GPU is never run where CI runs."""
    for part in gpu.parts(rehearse):
        for word in part.command:
            if word.startswith("bench."):
                source = (ROOT / f"{word.replace('.', '/')}.py").read_text()
            elif word.startswith(("tests/", "bench/")):
                assert (ROOT / word).is_file(), word
            elif word.startswith("--") and "-m" in part.command and "pytest" not in part.command:
                known = f'"{word}"' in source or (word == "--quick" and "asked_quick(" in source)
                assert known, f"{part.name}: {word}"


def test_the_script_builds_and_runs(tmp_path: Path) -> None:
    """From the shell to the table; in place of compiling, the extension that is here already is copied."""
    from learnalign import _core

    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\nfor word; do out=$word; done\ncp "{_core.__file__}" "$out"\n')
    compiler.chmod(0o755)
    environment = {**os.environ, "PYTHON": sys.executable, "CXX": str(compiler)}
    command = ["bash", "bench/gpu.sh", "--rehearse", "--only", "build", "ceilings", "gpu_neighbors", "launches", "--"]
    done = subprocess.run(
        [*command, str(tmp_path / "out")], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {part["name"]: part for part in json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]}
    assert [part["status"] for part in found.values()] == ["ok"] * 4
    assert found["gpu_neighbors"]["result"]["dimensions"]["32"]["recall"] == 1.0
    assert "launched: dot_rows" in done.stdout


def test_tests_are_collected_from_the_built_package(tmp_path: Path, gpu: ModuleType) -> None:
    """On a box without the package installed: the root, where there is no extension, must not hide what was built."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "learnalign", site / "learnalign", ignore=shutil.ignore_patterns("kernels", "__pycache__"))
    shutil.copytree(ROOT / "kernels", site / "learnalign" / "kernels")
    shutil.copytree(ROOT / "bench", site / "bench")
    (tmp_path / "root" / "learnalign").mkdir(parents=True)
    (tmp_path / "root" / "learnalign" / "__init__.py").write_text("raise ImportError('the package of the root')")
    shutil.copytree(ROOT / "tests", tmp_path / "root" / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "root")
    part = next(part for part in gpu.parts(True) if part.name == "tests")
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(site)}
    command = [*part.command, "--collect-only"]
    done = subprocess.run(command, cwd=tmp_path / "root", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    without = [word for word in command if word not in (*gpu.BUILT, "tests/test_fold_kernels.py")]
    done = subprocess.run(without, cwd=tmp_path / "root", env=environment, capture_output=True, text=True, check=False)
    assert "the package of the root" in done.stdout, "the root is not in the way any more: then nothing need be said"


def test_a_bench_runs_without_the_extension(tmp_path: Path) -> None:
    """A failed build is one line of the table, not the end of what needs no extension; tomli_w is not there either."""
    shutil.copytree(ROOT / "learnalign", tmp_path / "learnalign", ignore=shutil.ignore_patterns("_core*.so", "kernels"))
    shutil.copytree(ROOT / "kernels", tmp_path / "learnalign" / "kernels")
    shutil.copytree(ROOT / "bench", tmp_path / "bench")
    hidden = (
        "import sys; sys.modules['tomli_w'] = None; sys.modules['learnalign._core'] = None; sys.argv = ['x', '--quick']"
    )
    run = f"{hidden}; import learnalign.gradient, bench.sketch, bench.fold, bench.passes, bench.ceilings as b; b.main()"
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", run], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["machine"]["simd"].startswith("not built")


def test_the_clock_is_split_by_kinds_of_kernels(gpu: ModuleType) -> None:
    passes = pytest.importorskip("bench.passes")
    kernels = [
        ("nvjet_tst_128x256", 0.0, 10.0),
        ("nvjet_tst_128x256", 20.0, 30.0),  # in the head
        ("delta_rows", 30.0, 35.0),
        ("fold_tiles", 35.0, 45.0),  # the head's fold is fold
        ("flash_fwd_kernel", 44.0, 54.0),  # on another stream, a little at once
        ("vectorized_elementwise_kernel", 60.0, 65.0),
    ]
    found = passes.split(kernels, [("vocabulary head", 18.0, 50.0)], 100.0)
    assert found == pytest.approx(
        {"fold": 0.1, "head": 0.25, "attention": 0.0, "products": 0.1, "rest": 0.05, "waiting": 0.51}
    )
    found = passes.split(kernels, [("vocabulary head", 18.0, 43.0)], 100.0)
    assert found["attention"] == pytest.approx(0.1)
