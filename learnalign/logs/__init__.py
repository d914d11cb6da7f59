"""Rollouts that others logged: verl, TRL, or plain files.

reader      files to responses with rewards
importing   a run directory made of them, and the steps of a training that is going on
"""
