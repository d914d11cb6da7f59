"""Programs in responses: the verifier `code`.

verifier         finds the program, runs it against the pool's tests
programs         the pool's tests, and the program that runs them
sandbox          namespaces and limits around a program on this machine
sandbox_fusion   programs on a Sandbox Fusion server instead
"""
