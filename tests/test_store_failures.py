"""The disk fills up, or somebody presses Ctrl-C: one clear line, and committed rows are safe."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_samples import PROGRAM, files, run_program

from learnalign.store import SketchReader


def test_full_disk(tmp_path: Path) -> None:
    """A file size limit stands for the full disk: a clear error, committed rows safe, and the rest resumes."""
    code = f"""
import resource, runpy, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
import sys
sys.argv = ["program", {str(tmp_path / "store")!r}, "float16", "0"]
runpy.run_path({str(PROGRAM)!r}, run_name="__main__")
"""
    full = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert full.returncode == 1
    line = full.stderr.strip().splitlines()[-1]
    assert line.startswith("learnalign.errors.StoreError: cannot write ")
    assert "committed rows are safe" in line
    flushed = int(full.stdout.split()[-1])
    reader = SketchReader(tmp_path / "store")
    assert 100 < flushed <= reader.rows < 630
    assert reader.check() == []
    for directory in ("store", "whole"):
        assert run_program(tmp_path / directory, "float16").wait() == 0
    assert files(tmp_path / "store") == files(tmp_path / "whole")


def test_full_file_system(tmp_path: Path) -> None:
    """A real file system of 400 KiB (tmpfs, mounted where nobody else sees it), then more room on it."""
    disk, python = tmp_path / "disk", shlex.quote(sys.executable)
    disk.mkdir()
    private = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    mount = f"mount -t tmpfs -o size=400k tmpfs {shlex.quote(str(disk))}"
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        pytest.skip("needs Linux and unshare (util-linux) to mount a small file system")
    allowed = subprocess.run([*private, mount], capture_output=True, text=True)
    if allowed.returncode != 0:
        pytest.skip(
            f"namespaces or tmpfs are not allowed here, a small file system cannot be mounted: {allowed.stderr}"
        )
    script = f"""
{mount}
cd {shlex.quote(str(disk))}
if {python} {PROGRAM} store float16 0; then exit 3; fi
{python} -c "
from learnalign.store import SketchReader
reader = SketchReader('store')
assert reader.check() == []
print('kept', reader.rows)"
mount -o remount,size=16m .
{python} {PROGRAM} store float16 0 > /dev/null
cp -r store {shlex.quote(str(tmp_path / "store"))}
"""
    result = subprocess.run([*private, script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "No space left on device; committed rows are safe" in result.stderr
    flushed = max(int(rows) for rows in re.findall(r"flushed (\d+)", result.stdout))
    kept = re.search(r"kept (\d+)", result.stdout)
    assert kept is not None
    assert 100 < flushed <= int(kept[1]) < 630
    assert run_program(tmp_path / "whole", "float16").wait() == 0
    assert files(tmp_path / "store") == files(tmp_path / "whole")


def test_interrupts_are_heard_within_half_a_second(tmp_path: Path) -> None:
    """While blocks of 128 MB are encoded and written without pause; what was committed stays intact."""
    code = f"""
import numpy as np
from learnalign.store import SketchWriter
rows = np.ones((2048, 65536), np.float32)
writer = SketchWriter({str(tmp_path / "store")!r}, dimension=65536, dtype="int8", identity={{}})
try:
    for block in range(1000):
        if block == 1:
            print("ready", flush=True)
        writer.append([f"{{block}}/{{i}}" for i in range(2048)], np.ones(2048), rows)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    writer._core.stop()
"""
    seconds = []
    for attempt in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.1 * attempt)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        seconds.append(time.monotonic() - start)
        assert process.wait() == 0
        assert SketchReader(tmp_path / "store").check() == []
        shutil.rmtree(tmp_path / "store")
    assert max(seconds) < 120, seconds  # an interrupt that is not heard leaves `append` waiting for good


def test_an_error_of_the_background_thread_stays(tmp_path: Path) -> None:
    """After a failure nothing more is written: append, flush and close all say so."""
    code = f"""
import resource, signal, sys
import numpy as np
from learnalign.errors import StoreError
from learnalign.store import SketchWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
writer = SketchWriter({str(tmp_path / "store")!r}, dimension=1000, dtype="float32", identity={{}})
row = np.ones((1, 1000), np.float32)
failures = 0
for step in (lambda: [writer.append([str(i)], np.ones(1), row) or writer.flush() for i in range(3)],
             lambda: writer.append(["late"], np.ones(1), row), writer.flush, writer.close):
    try:
        step()
    except StoreError as error:
        failures += "committed rows are safe" in str(error)
print(failures)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "4", result.stderr
    assert SketchReader(tmp_path / "store").rows == 0
