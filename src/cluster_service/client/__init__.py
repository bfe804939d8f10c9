"""Clients of a running service, for programs and for the command line."""
