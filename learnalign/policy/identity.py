"""What identifies a policy's weights.

A directory's digest is computed once for the files that it holds: it is kept by their paths, sizes and modification
times for as long as the process lives, since several stages ask for it and a policy has many gigabytes.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

import transformers

from learnalign.errors import PolicyError
from learnalign.policy.checkpoint import adapter_base, first_line

SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})/")
"""Where the hub's local cache says which commit a file is of."""


def policy_digest(name: str) -> str:
    """What identifies a policy's weights: SHA-256 of a directory's files, or a hub model's commit.

    Of an adapter it covers its own files and the model that it belongs to: the same adapter on another base is
    another policy. Raises `PolicyError`.
    """
    directory = Path(name)
    if not directory.is_dir():
        return _hub_digest(name)
    found = [(path, path.stat()) for path in sorted(directory.iterdir()) if path.is_file()]
    own = _digest_of(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in found))
    base = adapter_base(name)
    return hashlib.sha256(f"{own} on {policy_digest(base)}".encode()).hexdigest() if base else own


def _hub_digest(name: str) -> str:
    """A hub model's name with the commit in whose snapshot its configuration is."""
    try:
        file = transformers.utils.cached_file(name, "config.json")
    except (OSError, ValueError) as error:
        raise PolicyError(f"cannot find the policy {name!r}: {first_line(error)}") from error
    commit = SNAPSHOT.search(Path(file or "").as_posix())
    if commit is None:
        raise PolicyError(f"the hub gives no commit for {name!r}; download it and name the directory")
    return f"{name}@{commit[1]}"


@lru_cache(maxsize=16)
def _digest_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    """SHA-256 of names and bytes; sizes and times only say whether it is known already."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
