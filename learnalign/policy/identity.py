"""What identifies a policy's weights.

A directory's digest is computed once for the files that it holds: it is kept by their paths, sizes and modification
times for as long as the process lives, since several stages ask for it and a policy has many gigabytes.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import transformers

from learnalign.errors import PolicyError
from learnalign.policy.renderer import first_line


def policy_digest(name: str) -> str:
    """What identifies a policy's weights: SHA-256 of a directory's files, or a hub model's commit.

    An adapter's counts for itself: its settings name the model that it belongs to.
    """
    directory = Path(name)
    if directory.is_dir():
        found = [(path, path.stat()) for path in sorted(directory.iterdir()) if path.is_file()]
        return _digest_of(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in found))
    try:
        commit = getattr(transformers.AutoConfig.from_pretrained(name), "_commit_hash", None)
    except (OSError, ValueError) as error:
        raise PolicyError(f"cannot find the policy {name!r}: {first_line(error)}") from error
    if commit is None:
        raise PolicyError(f"the hub gives no commit for {name!r}; download it and name the directory")
    return f"{name}@{commit}"


@lru_cache(maxsize=16)
def _digest_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    """SHA-256 of names and bytes; sizes and times only say whether it is known already."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
