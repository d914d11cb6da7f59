"""Shared fixtures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is first imported, and any test may do that


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell: its children ignore interrupts, and so would every test of Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def contained() -> None:
    """Programs can be contained here; a test that needs it is skipped on a system without namespaces."""
    from learnalign.errors import RewardError
    from learnalign.rewards.code import sandbox

    try:
        sandbox.run("", "", seconds=60, memory_mb=512)
    except RewardError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory with the real data sets; a test that needs it is skipped where there is none."""
    given = os.environ.get("LEARNALIGN_DATA")
    if not given or not Path(given).is_dir():
        found = f"{given} is no directory" if given else "it is not set"
        pytest.skip(f"needs the data sets (GSM8K, MATH, verl files) in the folder LEARNALIGN_DATA; {found}")
    return Path(given)


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `FAULT` has system calls fail (tests/faults.c)."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or not Path("/proc/self/fd").exists():
        pytest.skip("needs Linux and a C compiler, to have system calls fail")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}
