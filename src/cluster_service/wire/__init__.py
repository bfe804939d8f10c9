"""The messages of both protocols, and their frames. Pure: no socket, no clock.

``frames``   a stream of length-prefixed JSON objects (guardian and master).
``orders``   what the master says to the guardian.
``facts``    what the guardian says to the master.
``channel``  what a worker and the guardian say to each other, one JSON object a datagram.
``signals``  the names of the numbers that they tell.
``board``    memory that a worker shares with the master: that its loop turns, its answers, its stacks.

This package is imported by workers under the user's interpreter: standard library only, Python 3.9 syntax.
"""
