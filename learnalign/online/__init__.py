"""Online selection: prompts are chosen again as the policy moves, from what training itself samples.

    selector    `OnlineSelector`: what is compared and picked in an update
    history     success rates whose evidence ages
    pairs       the training's own responses that gradients are taken of
    agreement   how much gradients agree
    measurer    what is asked of the policy
    state, folder   what is known between updates, and its place on the disk
    live        a model in this process as a measurer
    sampler     which rows a trainer takes next
    checkpoint  an online selection in a trainer's checkpoint
    trl         attaches it to TRL's GRPOTrainer

This package does not train.
"""

from __future__ import annotations

from learnalign.config import OnlineConfig
from learnalign.online.measurer import Measurer
from learnalign.online.selector import OnlineSelector

__all__ = ["Measurer", "OnlineConfig", "OnlineSelector"]
