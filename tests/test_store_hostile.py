"""Files that somebody made up open as a sound store or are refused.

LEARNALIGN_FUZZ=20000 python -m pytest tests/test_store_hostile.py -k any_bytes    a longer search
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import small_unfinished

from learnalign import _core
from learnalign.errors import StoreCorruptError, StoreError
from learnalign.store import SketchReader


def seal(record: bytes) -> bytes:
    return record + struct.pack("<I", _core.crc32c(record))


HOSTILE = {
    "more rows than bytes": struct.pack("<4sIQQQ", b"BLK1", 0, 40, 0, 2**60) + bytes(4),
    "rows that overflow": struct.pack("<4sIQQQ", b"BLK1", 0, 40, 0, 2**64 - 1) + bytes(4),
    "longer than the file": struct.pack("<4sIQQQ", b"BLK1", 0, 2**63, 0, 1) + bytes(4),
    "length 0": struct.pack("<4sIQQQ", b"BLK1", 0, 0, 0, 1) + bytes(4),
    "no rows": struct.pack("<4sIQQQ", b"BLK1", 0, 40, 0, 0) + bytes(4),
    "other first row": struct.pack("<4sIQQQ", b"BLK1", 0, 64, 5, 1) + bytes(20) + struct.pack("<I", 4) + b"name",
    "id longer than record": struct.pack("<4sIQQQ", b"BLK1", 0, 64, 0, 1) + bytes(20) + b"\xff" * 4 + bytes(4),
    "closing record of other rows": struct.pack("<4sIQQQ", b"END1", 0, 40, 9, 0) + bytes(4),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_records_are_not_believed(tmp_path: Path, name: str) -> None:
    """Their checksums are right, their contents are not."""
    store = small_unfinished(tmp_path / "store", 1)
    index = store / "shard-00000.index"
    header = index.read_bytes()[:64]
    index.write_bytes(header + seal(HOSTILE[name]))
    reader = SketchReader(store)
    assert reader.rows == 0
    assert reader.check() != []


def test_a_prompt_id_that_is_not_text(tmp_path: Path) -> None:
    store = small_unfinished(tmp_path / "store", 1)
    index = store / "shard-00000.index"
    head = struct.pack("<4sIQQQ", b"BLK1", 0, 64, 0, 1) + bytes(20) + struct.pack("<I", 4) + b"\xff\xfe\xfd\xfc"
    index.write_bytes(index.read_bytes()[:64] + seal(head))
    reader = SketchReader(store)
    assert reader.rows == 1
    with pytest.raises(StoreCorruptError, match="row 0 is not UTF-8"):
        _ = reader.prompt_ids


@settings(max_examples=int(os.environ.get("LEARNALIGN_FUZZ", "150")), deadline=None)
@given(tail=st.binary(max_size=300), keep=st.integers(0, 400), name=st.sampled_from(["index", "json"]))
def test_any_bytes_open_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, keep: int, name: str
) -> None:
    store = tmp_path_factory.getbasetemp() / "hostile"
    if not store.exists():
        small_unfinished(store, 2)
    path = store / {"index": "shard-00000.index", "json": "store.json"}[name]
    original = path.read_bytes()
    path.write_bytes(original[:keep] + tail)
    try:
        reader = SketchReader(store)
        assert reader.rows in (0, 2, 4)
        reader.check()
    except StoreError:
        pass  # refused: as good
    finally:
        path.write_bytes(original)
