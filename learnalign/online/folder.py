"""The state of an online selection on the disk.

    state-0000003/state.json    the numbers of `OnlineSelector.state_dict`
    state-0000003/*.npy         its arrays
    state-0000003/log.jsonl     what has come since, a line each call of `next` and `observe`

A folder appears whole (written as .partial, flushed, renamed), then the one before it goes; the log is appended to and
flushed, and a torn last line is left out. So a kill costs at most the line in progress. This module decides nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from learnalign import files
from learnalign.errors import RunError
from learnalign.online.known import Line, State


class Folder:
    """Where one selector keeps its state; made when something is written. Raises `RunError` for what is a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is not a directory: name another for the state of an online selection")
        names = [one.name for one in path.iterdir()] if path.exists() else []
        numbers = [int(match[1]) for name in names if (match := re.fullmatch(r"state-(\d+)", name))]
        self._number = max(numbers, default=0)
        self._length = 0
        """Bytes of whole lines in the log."""

    @property
    def begun(self) -> bool:
        """Whether it holds a state."""
        return self._number > 0

    def read(self) -> tuple[State, list[Line]]:
        """The last state, and what came after it. Raises `RunError` for what cannot be read."""
        folder = self._state_folder()
        try:
            state: State = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            state |= {path.stem: path.read_bytes() for path in sorted(folder.glob("*.npy"))}
            log = self._log().read_bytes() if self._log().exists() else b""
            self._length = log.rfind(b"\n") + 1
            return state, [json.loads(line) for line in log[: self._length].splitlines()]
        except (OSError, ValueError) as error:
            raise RunError(f"{folder} cannot be read ({error}): delete it to begin anew") from error

    def write(self, state: State) -> None:
        """Make `state` the last one, after which nothing has come. Raises `RunError` where the disk refuses."""
        folder = self.path / f"state-{self._number + 1:07d}"
        partial = folder.with_name(folder.name + files.PARTIAL)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for name, value in state.items():
                if isinstance(value, bytes):
                    files.write_bytes(partial / f"{name}.npy", value)
            numbers = {name: value for name, value in state.items() if not isinstance(value, bytes)}
            files.write_json(partial / "state.json", numbers)
            files.publish(partial, folder)
            self._number, self._length = self._number + 1, 0
            for other in self.path.glob("state-*"):
                if other != folder:
                    shutil.rmtree(other)
        except OSError as error:
            raise RunError(f"cannot write {folder}: {error.strerror}") from error

    def append(self, line: Line) -> None:
        """Add to what came after the last state. Raises `RunError` where the disk refuses."""
        data = (json.dumps(line, separators=(",", ":")) + "\n").encode()
        try:
            with self._log().open("ab") as file:
                file.truncate(self._length)  # without what a kill left of a line
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self._log()}: {error.strerror}") from error
        self._length += len(data)

    def _state_folder(self) -> Path:
        return self.path / f"state-{self._number:07d}"

    def _log(self) -> Path:
        return self._state_folder() / "log.jsonl"
