"""The embedded default: generated arithmetic (`arithmetic`, `pool`) and a small policy that solves part of it.

`policy/` beside this file holds the trained weights and tokenizer; `train` makes them again from a seed. This
module imports nothing, so that asking for the generator never loads torch.
"""
