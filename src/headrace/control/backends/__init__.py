"""What can carry out a plan. `base` is the role."""
