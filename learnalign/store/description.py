"""What the rows of a store are: `store.json`, written before any row and compared at every opening.

This module does not touch rows or their index.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnalign import _core
from learnalign.errors import StoreCorruptError, StoreError, StoreMismatchError
from learnalign.store.lock import not_locked

FORMAT = "learnalign sketch store"
VERSION = 1
DTYPES = ("float16", "int8", "float32")
NAME = "store.json"
PARTIAL = "store.json.partial"
LARGEST_DIMENSION = 1 << 31
LARGEST_FILE = 1 << 20

Identity = Mapping[str, str | int]


@dataclass(frozen=True)
class StoreDescription:
    """What the rows of a store are: the content of its `store.json`."""

    dimension: int
    dtype: str
    identity: dict[str, str | int]

    def text(self) -> str:
        """The bytes of `store.json`, its own checksum included."""
        fields = {
            "format": FORMAT,
            "version": VERSION,
            "dimension": self.dimension,
            "dtype": self.dtype,
            "identity": self.identity,
            "crc32c": "",
        }
        fields["crc32c"] = f"{_core.crc32c(_json(fields).encode()):08x}"
        return _json(fields)

    @property
    def crc(self) -> int:
        """CRC-32C of `store.json`; every shard repeats it, so that one from another store is noticed."""
        return _core.crc32c(self.text().encode())

    def refuse_other(self, asked: StoreDescription, directory: Path) -> None:
        """Raise `StoreMismatchError` naming each difference between this store and the one asked for."""
        stored, wanted = self._facts(), asked._facts()
        differences = [
            f"{name} {stored.get(name, 'nothing')!r} -> {wanted.get(name, 'nothing')!r}"
            for name in [*stored, *(name for name in wanted if name not in stored)]
            if stored.get(name) != wanted.get(name)
        ]
        if differences:
            raise StoreMismatchError(
                f"{directory} was made with something else than asked for (stored -> asked): "
                f"{'; '.join(differences)}. Use another directory, or delete this one to sketch again"
            )

    def _facts(self) -> dict[str, str | int]:
        return {"dimension": self.dimension, "dtype": self.dtype, **self.identity}


def checked_description(dimension: int, dtype: str, identity: Identity) -> StoreDescription:
    whole = isinstance(dimension, int) and not isinstance(dimension, bool)
    if not whole or not 1 <= dimension <= LARGEST_DIMENSION:
        raise StoreError(f"dimension must be a whole number from 1 to {LARGEST_DIMENSION}, found {dimension!r}")
    if dtype not in DTYPES:
        raise StoreError(f"dtype must be one of {', '.join(DTYPES)}, found {dtype!r}")
    for name, value in identity.items():
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, (str, int)):
            raise StoreError(f"identity must map strings to strings or integers, found {name!r}: {value!r}")
    description = StoreDescription(dimension, dtype, dict(identity))
    try:
        size = len(description.text().encode())
    except UnicodeEncodeError as error:
        raise StoreError(f"identity cannot be written as UTF-8: {error}") from error
    if size > LARGEST_FILE:
        raise StoreError(
            f"identity must fit {LARGEST_FILE:,} bytes of JSON, found {size:,}: keep a digest of what is that long"
        )
    return description


def settle_description(directory: Path, asked: StoreDescription) -> None:
    """Write `store.json` where there is none, else compare. Any number of writers may do so at once.

    Whoever holds the lock of the partial file writes; the others find the result when it is their turn.
    """
    path, partial = directory / NAME, directory / PARTIAL
    if not path.exists():
        try:
            with open(partial, "a+b") as file:
                _lock(file.fileno(), partial)
                if not path.exists():
                    if _has_rows(directory):
                        partial.unlink(missing_ok=True)
                        raise _lost(directory)
                    file.truncate(0)
                    file.write(asked.text().encode())
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(partial, path)
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error
    read_description(directory).refuse_other(asked, directory)


def read_description(directory: Path) -> StoreDescription:
    path = directory / NAME
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        if _has_rows(directory):
            raise _lost(directory) from None
        raise StoreError(f"{directory} is not a sketch store: it has no store.json") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    damaged = StoreCorruptError(
        f"{path} is damaged, and what its rows were made with is not known without it: restore it from a copy, or "
        f"delete {directory} and run the same command again to sketch again"
    )
    try:
        fields = json.loads(text[:LARGEST_FILE])
    except (ValueError, RecursionError):
        raise damaged from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise StoreCorruptError(f"{path} describes no sketch store: it is damaged, or another program's")
    if isinstance(fields.get("version"), int) and fields["version"] != VERSION:
        raise StoreMismatchError(
            f"{directory} was made with something else than asked for (stored -> asked): format version "
            f"{fields['version']} -> {VERSION}. Use the version of learnalign that wrote it, or sketch again"
        )
    identity = fields.get("identity")
    if not isinstance(identity, dict):
        raise damaged
    try:
        description = checked_description(fields.get("dimension", 0), str(fields.get("dtype")), identity)
    except StoreError:
        raise damaged from None
    if description.text().encode() != text:
        raise damaged
    return description


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise not_locked(path, error) from error


def _has_rows(directory: Path) -> bool:
    return any(path.stat().st_size > 0 for path in directory.glob("shard-*"))


def _lost(directory: Path) -> StoreCorruptError:
    return StoreCorruptError(
        f"{directory} has rows but no store.json, and what they were made with is not known without it: restore "
        f"store.json from a copy, or delete {directory} and run the same command again to sketch again"
    )


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
