"""The command line ``cservice`` and its console."""
