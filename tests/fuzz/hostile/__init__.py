"""What a hostile worker does. Standard library only, Python 3.9 or later: it runs under the worker's interpreter.

Each boundary is a module with ``inputs(random, count)``, which is pure, and a class ``Target`` whose ``perform(input)``
returns True when the other side took the input. A target that sees a rule broken adds a sentence to ``violations``.

    values      hostile JSON values, texts and datagrams       riders    descriptors that are sent along
    channel     the worker channel                             notify    the notify socket
    memory      the memory that the service shares             ports     the ports pair of ``--share python``
    calls       bind and listen, as seccomp shows them         worker    the program
"""
