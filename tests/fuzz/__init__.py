"""Fuzzing of every boundary of the service: a real service, an honest group, and a peer that sends what it should not.

    python -m tests.fuzz --boundary notify --minutes 30 --seed 7

Inputs are pure functions of the seed, the boundary and the number of the batch, so that a failure can be repeated.

hostile      the inputs of the boundaries of a worker, and the worker that performs them (standard library only)
rest, lines  the inputs of the HTTP endpoints and of command lines, performed by the tests themselves
boundaries   the table of all boundaries            subject   the service under test, and its hostile workers
oracles      what must hold after every batch       run       one run: batches, oracles, figures
"""
