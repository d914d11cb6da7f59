"""What the value of a setting may be: names to choose from, forms of a text, the largest seed.

Bounds of numbers stand with the settings themselves (`sections`). This module checks nothing.
"""

from __future__ import annotations

import re
from typing import Literal

Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
EngineName = Literal["transformers", "vllm", "server"]
Allocation = Literal["fixed", "screen", "halving"]
StoredDtype = Literal["float16", "int8", "float32"]
Weighting = Literal["mean", "token", "constant"]
ResponsesUsed = Literal["all", "one_correct"]
Space = Literal["full", "lora"]
StrategyName = Literal["top", "greedy", "random_positive", "band", "alignment", "random", "length", "history", "limr"]
Order = Literal["rank", "file", "easy_to_hard", "gaussian"]
NeighborSearch = Literal["auto", "exact", "flat", "lists", "ivf", "cagra", "int8"]
VERIFIERS = ("math", "exact", "choice", "code", "imported")
FUNCTION = re.compile(r".+\.py:[^\W\d]\w*")
"""How a reward of one's own is named: `file.py:function`."""
RENDERED = re.compile(r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|user\|>|<\uff5cUser\uff5c>")
"""What stands in a text that a chat template has made."""
MOST_SEED = (1 << 63) - 1
