"""The fault machine: a real service under constant load, and everything that can go wrong, at random and by a seed.

    python -m tests.faults --minutes 30 --seed 7

plan     what is done to it, and when: pure, from the seed          table    the faults, one function each, by weight
on_...   the faults themselves                                      world    what a fault is given
subject  the service, its releases and its processes                excuses  which failed requests a worker had held
events   what its events say of it, and what they must never say    checks   the promises, looked at when all is quiet
machine  one run: rounds of faults, then quiet, then the checks     story    what has happened, to be read and replayed
"""
