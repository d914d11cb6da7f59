"""An online selection in a trainer's checkpoint, so that a resumed training picks as an uninterrupted one.

    checkpoint-300/online/state-0000001/...  the selector's state (see `learnalign.online.folder`)
    checkpoint-300/online/training.json      pairs that gradients may be taken of, and where the sampler is

Verdicts and visits of steps after the checkpoint are forgotten with the steps themselves. The folder appears whole.
This module does not know when a trainer saves.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from learnalign import files
from learnalign.errors import RunError
from learnalign.online.pairs import Pairs
from learnalign.online.sampler import PicksSampler
from learnalign.online.selector import OnlineSelector

NAME = "online"
TRAINING = "training.json"


def save(checkpoint: Path, selector: OnlineSelector, pairs: Pairs, sampler: PicksSampler) -> None:
    """Add the online selection to a checkpoint that is there. Raises `RunError` where the disk refuses."""
    folder = checkpoint / NAME
    partial = folder.with_name(folder.name + files.PARTIAL)
    for old in (folder, partial):
        shutil.rmtree(old, ignore_errors=True)
    selector.save(partial)
    files.write_json(partial / TRAINING, {"pairs": pairs.kept(), "sampler": sampler.position()})
    files.publish(partial, folder)


def restore(checkpoint: Path, selector: OnlineSelector, pairs: Pairs, sampler: PicksSampler, within: bool) -> None:
    """Take all of them back to a checkpoint. within: see `PicksSampler.go_on`.

    Raises `RunError` for a checkpoint without an online selection, of another pool, or that cannot be read.
    """
    folder = checkpoint / NAME
    if not (folder / TRAINING).is_file():
        raise RunError(
            f"{checkpoint} holds no online selection, so that the picks and verdicts of its steps are not known: "
            "resume from a checkpoint of a trainer that one was attached to"
        )
    try:
        training = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        position = training["sampler"]
        selector.restore(folder)
        pairs.take_back(training["pairs"])
        sampler.go_on(position, within)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder} cannot be read ({error}): resume from another checkpoint") from error
