"""Answers in text: what a response states, and whether it is the gold answer.

extract     the final answer of a response
normalize   the layout that does not matter
quantity    numbers, units, percent
exact       comparison after normalization: the verifier `exact`
math        algebra by math-verify where that does not decide: the verifier `math`
choice      letters of multiple choice: the verifier `choice`
"""
