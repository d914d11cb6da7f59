"""A run over a pool: its directory, the order of its stages, and what a stage may not do twice.

directory   configuration, manifest, lock, and what each stage has made from what
pipeline    runs the stages in order, skips what is up to date, resumes what was interrupted
rounds      sampling and judging in rounds
early       what the rest will cost, said after the first minutes
plan        what a run will cost, from some prompts that go through all stages
estimate    the arithmetic of both
suspects    prompts whose reference answer is probably wrong
export      the whole pool with what was measured
verifier    the run's verifier, open over its own pool
stages      one module a stage
"""
