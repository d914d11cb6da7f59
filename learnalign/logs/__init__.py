"""Rollouts that others logged: verl, TRL, or plain files.

record      one row to a response with its reward
reader      files and folders to responses
correct     which responses count as correct, and whether that can be meant
matching    responses to prompts, of the log or of a pool
parts       responses to token ids, and to the parts of a run's rollouts
importing   a run directory made of them, and the steps of a training that is going on
"""
