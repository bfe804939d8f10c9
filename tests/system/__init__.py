"""Whole services, as their users start them."""
