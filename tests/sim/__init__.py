"""A whole service on a simulated machine."""
