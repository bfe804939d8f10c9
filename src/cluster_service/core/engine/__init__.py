"""The control loop: facts and requests change the state, and each step orders the difference."""
