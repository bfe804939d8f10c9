"""The messages of both protocols, and their framing. Pure: no sockets, no clock.

``framing``          a stream of length-prefixed JSON objects (guardian and master)
``orders``           messages from the master to the guardian
``facts``            messages from the guardian to the master
``worker_protocol``  messages between a worker and the service, and their shared memory: heartbeat, counts, stacks
``validation``       limits on everything that a worker sends
``addresses``        addresses as text and as arguments of socket calls
``signals``          names of signal numbers

Workers import this package under the interpreter of the user: standard library only, Python 3.9 syntax.
"""
