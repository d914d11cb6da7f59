"""The numerical heart: counter-based signs and the signed fold of weight gradients.

Installed as `learnalign.kernels`. Nothing here knows about models, prompts or files.
"""
