"""What every guardian must do, the simulated one and the real one: one set of tests, two implementations."""
