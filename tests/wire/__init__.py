"""Tables for the rules of the core."""
