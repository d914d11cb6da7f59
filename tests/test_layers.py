"""Imports go downward: a module imports lower floors only, stages never meet, heavy packages stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS: list[set[str]] = [
    {"errors", "_core"},
    {"config", "kernels", "progress", "schemas", "guides"},
    {"files", "store", "scoring", "gradient", "cluster"},
    {"policy", "rewards"},
    {"pool"},
    {"selection", "rollout", "suspects"},
    {"report"},
    {"runs"},
    {"logs", "demo"},
    {"online"},
    {"cli"},
    {"__init__", "__main__"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
ONLY_HERE = {
    "transformers": {"policy", "demo.train", "online.trl"},
    "trl": {"policy.warmup"},
    "verl": {"online.verl"},
    "typer": {"cli"},
    "vllm": {"rollout"},
    "httpx2": {"rollout", "rewards.code.sandbox_fusion"},
    "math_verify": {"rewards"},
    "faiss": {"selection.neighbors.packages"},
    "ray": {"cluster"},
    "learnalign._core": {"store", "scoring", "selection", "kernels.fold_native"},
}


def modules() -> dict[str, Path]:
    """Every module of the package by dotted name below `learnalign`; kernels live in their own folder."""
    found = {}
    for folder, prefix in ((ROOT / "learnalign", ()), (ROOT / "kernels", ("kernels",))):
        for path in folder.rglob("*.py"):
            if "examples" in path.parts:  # scripts of users
                continue
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports at any depth, imports for type checking left out."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def unit(module: str) -> str:
    """The floor's name of a module: its first part, and for subpackages the whole folder."""
    return module.split(".")[0]


MODULES = modules()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downward(module: str) -> None:
    here = unit(module)
    assert here in FLOOR, f"{module} has no floor: add it to FLOORS"
    for name in imports(MODULES[module]):
        if not name.startswith("learnalign."):
            continue
        other = name.split(".")[1]
        if other not in FLOOR:  # a name that learnalign itself exports
            other = "__init__"
        if other == here:
            continue
        assert FLOOR[other] < FLOOR[here], f"{module} imports {name}, which is not on a lower floor"


def test_stages_never_import_each_other() -> None:
    stages = {name for name in MODULES if name.startswith("runs.stages.")}
    for module in stages:
        for name in imports(MODULES[module]):
            other = ".".join(name.split(".")[1:4])
            assert other not in stages - {module}, f"{module} imports {name}"


@pytest.mark.parametrize("package", sorted(ONLY_HERE))
def test_heavy_packages_stay_where_they_belong(package: str) -> None:
    for module, path in MODULES.items():
        if any(name == package or name.startswith(package + ".") for name in imports(path)):
            allowed = ONLY_HERE[package]
            assert module in allowed or unit(module) in allowed, f"{module} imports {package}"


def test_importing_learnalign_is_light() -> None:
    code = "import sys, learnalign; print([m for m in ('torch', 'transformers', 'pyarrow') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    import learnalign

    for name in learnalign.__all__:
        assert getattr(learnalign, name) is not None
    import learnalign.runs.stages.score

    assert callable(learnalign.score), "a submodule must not hide the function of the same name"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = learnalign.nothing


def test_help_answers_at_once() -> None:
    """By what is imported, which no busy machine changes: nothing heavy, and few modules at all."""
    code = (
        "import sys\nfrom learnalign.cli import main\nsys.argv = ['learnalign', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = [m for m in ('torch', 'pyarrow', 'numpy', 'transformers', 'jinja2') if m in sys.modules]\n"
        "print(len(sys.modules), heavy)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, _, heavy = out.stdout.splitlines()[-1].partition(" ")
    assert heavy == "[]"
    assert int(count) < 600


def test_the_core_is_the_only_binding() -> None:
    paths = list((ROOT / "csrc").rglob("*.[ch]pp"))
    assert paths
    for path in paths:
        if path.parent.name != "bind":
            text = path.read_text()
            assert "pybind11" not in text, path
            assert "Python.h" not in text, path
