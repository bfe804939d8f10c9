"""Data of the core: what should run, what was observed, and the operations. It decides nothing."""
