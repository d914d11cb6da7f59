"""Does training on a selection gain anything, and does it when selecting is paid for? `python -m bench.outcome`.

policies     the embedded policy, misled further, once for every pair
pools        generated arithmetic with right answers; or with wrong ones, and coins to guess
grpo         sampling, one training step, exact evaluation
measuring    responses and sketches of a pool, counted in tokens
arms         how a run chooses its prompts, and the run
jobs         what the processes do, and the files of results
table, plot  figures of the results
"""
