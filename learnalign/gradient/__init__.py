"""Policy gradients of whole prompts, sketched during one forward and one backward pass.

    groups     a prompt with its responses and rewards; the coefficient of every response token
    packing    how groups are laid out as a batch: the prompt once for several responses, or once for each
    layers     which weight matrices are sketched, under which keys, and what is left out
    hooks       what takes a layer's inputs and output gradients to the fold while a batch runs
    probe      a tiny forward pass that finds out what a model honors
    gap        recorded log-probabilities against the policy's own
    sketcher   `Sketcher`, which puts them together
    pending    a batch that has been launched, and whose sketches may not be there yet

This package does not load models, sample responses, or write files.
"""

from learnalign.gradient.batching import Costs, batches
from learnalign.gradient.gap import Gap
from learnalign.gradient.groups import Group, Weighted, advantages, weighted
from learnalign.gradient.layers import Coverage, is_linear, layer_keys
from learnalign.gradient.pending import Pending, Sketched
from learnalign.gradient.probe import Honored
from learnalign.gradient.sketcher import FOLD_VERSION, Sketcher, cut

__all__ = [
    "FOLD_VERSION",
    "Costs",
    "Coverage",
    "Gap",
    "Group",
    "Honored",
    "Pending",
    "Sketched",
    "Sketcher",
    "Weighted",
    "advantages",
    "batches",
    "cut",
    "is_linear",
    "layer_keys",
    "weighted",
]
