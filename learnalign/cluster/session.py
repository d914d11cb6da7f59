"""The connection to a Ray cluster: made when the first worker is needed, kept for one command, ended with it.

A connection that somebody else made in this process (a notebook, a trainer) is used and left alone.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

from learnalign.errors import EngineError, MissingPackageError

_open: list[ExitStack] = []
"""One entry a session that is open; the outermost undoes the connection."""


@contextmanager
def session() -> Iterator[None]:
    """Whatever connects within is disconnected at the end; sessions may be nested."""
    with ExitStack() as stack:
        _open.append(stack)
        stack.callback(_open.pop)
        yield


def connect(address: str) -> None:
    """Connect to `auto` (the cluster that this machine is part of), HOST:PORT, or `local` (a new one of this machine).

    Raises `EngineError` where there is none, and `MissingPackageError` without Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError(f"--ray {address}", "ray", error) from error
    if ray.is_initialized():
        return
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # ConnectionError, RuntimeError (another version of Ray), ValueError, ...
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EngineError(
            f"cannot use the Ray cluster {address!r}: {first} (ray start --head makes one; --ray local needs none)"
        ) from error
    if _open:
        _open[0].callback(ray.shutdown)
        _open[0].enter_context(redirect_stdout(sys.stderr))  # Ray writes there of every worker that dies
