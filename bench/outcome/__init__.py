"""Does training on a selection gain anything, and does it when selecting is paid for? `python -m bench.outcome`.

policies        the embedded policy, misled further, once for every pair
pools           generated arithmetic: right answers; wrong ones, and coins to guess; mostly hopeless problems
regimes         how long, on how many prompts, which arms
grpo            sampling, one training step, exact evaluation
measuring       responses and sketches of a pool, counted in tokens
cells           what the runs of a pair, a pool and a seed share
choosers, arms  how a run chooses its prompts
runs            one run
jobs            what the processes do, and the files of results
measures        what a run's curve says: costs, and what it takes to reach a value
table, plot     figures of the results
"""
