"""One process of several that train with an online selection; what it knows in the end goes to FOLDER/RANK.json.

torchrun --nproc_per_node=2 tests/online_ranks_program.py FOLDER [CHECKPOINT]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from learnalign.online import OnlineSelector
from learnalign.online.trl import attach
from tests.test_online_trl import POOL, dataset, trainer


def main(folder: Path, checkpoint: str) -> None:
    data = dataset(POOL)
    batches = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 1, "max_steps": 4}
    grpo = trainer(folder, data, save_strategy="steps", save_steps=2, **batches)
    selector = OnlineSelector(data["prompt_id"], directory=folder / "online")
    told, measured = list[list[str]](), list[int]()
    observe, measure = selector.observe, selector.measure

    def observing(ids: Any, rewards: Any) -> bool:
        told.append(list(ids))
        return observe(ids, rewards)

    def measuring(policy: Any) -> int:
        measured.append(measure(policy))
        return measured[-1]

    selector.observe, selector.measure = observing, measuring  # type: ignore[method-assign, assignment]
    attach(grpo, selector, every=1, dimension=512)
    grpo.train(resume_from_checkpoint=checkpoint or None)
    state = {name: value for name, value in selector.state_dict().items() if not isinstance(value, bytes)}
    result = {"told": told, "measured": measured, "state": state}
    (folder / f"{grpo.accelerator.process_index}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
