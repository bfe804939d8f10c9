"""The worker's runtime in real processes; the tests play the guardian."""
