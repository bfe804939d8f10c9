"""The machine, as every process of a service sees it: its shortages, what may be done, what a process is called.

Standard library alone, from Python 3.9 on; it imports nothing of ours, and all the others may import it.
"""
