"""Training: schedule, optimiser, loss, the loop, and exact resume."""
