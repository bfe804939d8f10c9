"""Operating system facilities shared by all processes of a service: files, identities, descriptors, process titles.

Uses only the standard library, from Python 3.9 on, and nothing else of this project; every other package may import it.
"""
