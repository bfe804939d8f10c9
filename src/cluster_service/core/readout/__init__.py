"""JSON for users and for the state file, made from the state of the core."""
