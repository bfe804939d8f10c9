"""The guardian's own tests: real processes, of which the test is the master."""
