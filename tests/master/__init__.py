"""Tests of the master."""
