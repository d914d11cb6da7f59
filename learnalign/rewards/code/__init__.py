"""Programs in responses: the verifier `code`.

verifier         finds the program, runs it against the pool's tests
blocks           the program in a response
shapes           the pool's tests, as data sets write them
unit_tests       tests in Python: what they need, what they call, what cannot be kept apart
programs         what is run: the program and the tests
apart            unit tests and the program in two processes
sandbox          namespaces and limits around a program on this machine
system_calls     the system calls that it is refused
sandbox_fusion   programs on a Sandbox Fusion server instead
"""
