"""Online selection: training goes over the whole pool, and what training itself samples says what comes back when.

    selector    `OnlineSelector`: which prompts come next
    known       all that it knows
    history     success rates whose evidence ages
    weights     how often training should come back to a prompt
    schedule    when each prompt's turn comes
    pairs       the training's own responses that gradients are taken of
    agreement   how much gradients agree
    measurer    what is asked of the policy
    folder      what is known, on the disk
    live        a model in this process as a measurer
    next        the next prompts over a run directory, from logs
    trl         attaches a selector to TRL's GRPOTrainer
    observing   its reward function also tells the selector
    sampler     which rows a trainer takes next
    ranks       several processes that train together
    checkpoint  an online selection in a trainer's checkpoint
    verl        the dataset and the replay buffer that verl's trainer is given

This package does not train.
"""

from __future__ import annotations

from learnalign.config import OnlineConfig
from learnalign.online.measurer import Measurer
from learnalign.online.selector import OnlineSelector

__all__ = ["Measurer", "OnlineConfig", "OnlineSelector"]
