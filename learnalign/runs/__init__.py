"""A run over a pool: its directory, the order of its stages, and what a stage may not do twice.

directory   configuration, manifest, lock, and what each stage has made from what
pipeline    runs the stages in order, skips what is up to date, resumes what was interrupted
verifier    the run's verifier, open over its own pool
stages      one module a stage
"""
