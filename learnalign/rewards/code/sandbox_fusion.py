"""Runs programs on a Sandbox Fusion server (`POST /run_code`): the stronger choice, a machine of its own.

https://bytedance.github.io/SandboxFusion. The server decides what contains a program; this module asks it for the same
limits as `sandbox`, and asks again with growing pauses while it is busy or down.
"""

from __future__ import annotations

import time
from typing import Any

from learnalign.errors import MissingPackageError, RewardError
from learnalign.rewards.code.sandbox import Ran

ATTEMPTS = 6
PAUSE_SECONDS = 0.5
"""Before the second attempt; doubled before each further one."""
QUEUE_SECONDS = 30.0
"""Time that a request may take beside the program's own."""


def run(url: str, source: str, stdin: str, *, seconds: float, memory_mb: int) -> Ran:
    """Run `source` as a Python program that reads `stdin`. Raises `RewardError` if the server does not do it."""
    body = {
        "code": source,
        "language": "python",
        "stdin": stdin,
        "run_timeout": seconds,
        "compile_timeout": seconds,
        "memory_limit_MB": memory_mb,
    }
    address = url.rstrip("/")
    address = address if address.endswith("/run_code") else f"{address}/run_code"
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            return _ran(_post(address, body, seconds + QUEUE_SECONDS))
        except _Unavailable as error:
            problem = str(error)
    raise RewardError(f"the Sandbox Fusion server {address} gave no result in {ATTEMPTS} attempts: {problem}")


class _Unavailable(Exception):
    """No result this time; another attempt may have one."""


def _post(address: str, body: dict[str, Any], timeout: float) -> Any:
    client = http_client()
    try:
        reply = client.post(address, json=body, timeout=timeout)
    except client.TransportError as error:
        raise _Unavailable(str(error)) from error
    said = f"HTTP {reply.status_code} {reply.reason_phrase}"
    if reply.status_code == 429 or reply.status_code >= 500:
        raise _Unavailable(said)
    if reply.status_code >= 400:
        raise RewardError(f"{address} refuses the request: {said}")
    try:
        return reply.json()
    except ValueError as error:
        raise RewardError(f"{address} is no Sandbox Fusion server: {error}") from error


def http_client() -> Any:
    """The package `httpx2`, as the server engine uses it. Raises `MissingPackageError`."""
    try:
        import httpx2
    except ImportError as error:
        raise MissingPackageError("reward.sandbox_url", "server", error) from error
    return httpx2


def _ran(reply: Any) -> Ran:
    """The server's reply as what became of the program."""
    status = reply.get("status") if isinstance(reply, dict) else None
    result = reply.get("run_result") if isinstance(reply, dict) else None
    if status not in ("Success", "Failed") or not isinstance(result, dict):
        said = reply.get("message") if isinstance(reply, dict) else reply
        raise _Unavailable(f"status {status!r}: {said!r:.100}")
    if result.get("status") == "TimeLimitExceeded":
        return Ran("timeout", 0, b"", b"")
    if result.get("status") != "Finished":
        raise _Unavailable(f"the program was not run: {result!r:.100}")
    stdout, stderr = (str(result.get(name) or "").encode(errors="replace") for name in ("stdout", "stderr"))
    return Ran("exit", int(result.get("return_code") or 0), stdout, stderr)
