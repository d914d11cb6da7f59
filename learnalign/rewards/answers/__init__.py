"""Answers in text: what a response states, and whether it is the gold answer.

extract     the final answer of a response
boxes       the boxes of a response
normalize   the layout that does not matter
quantity    numbers, units, percent
units       what follows a number
times       times of day, measures of several units
labels      left sides that only name the answer
parts       lists, sets, tuples
structure   whether two answers are equal, taken apart
algebra     expressions, by math-verify
exact       comparison after normalization: the verifier `exact`
math        algebra by math-verify where that does not decide: the verifier `math`
choice      letters of multiple choice: the verifier `choice`
"""
