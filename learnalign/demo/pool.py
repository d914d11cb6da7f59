"""Write generated problems as a pool file. What a problem is belongs to `arithmetic`; reading to `learnalign.pool`."""

from __future__ import annotations

import json
from pathlib import Path

from learnalign import files
from learnalign.demo.arithmetic import distinct


def write_pool(path: str | Path, size: int = 1200, seed: int = 0) -> Path:
    """Write `size` distinct problems as JSON lines (id, problem, answer, family, level) and return the path.

    `answer` is a string; ids are `demo-SEED-ROW`. The bytes depend on `size` and `seed` alone; the 28 kinds of
    problem are equally frequent. Raises PoolError where the generator has fewer distinct problems (from about
    13,000 on), RunError where the file cannot be written.
    """
    records = [
        {
            "id": f"demo-{seed}-{row:05d}",
            "problem": problem.text,
            "answer": problem.answer,
            "family": problem.family,
            "level": problem.level,
        }
        for row, problem in enumerate(distinct(size, seed))
    ]
    files.write_text(path, "".join(json.dumps(record) + "\n" for record in records))
    return Path(path)
