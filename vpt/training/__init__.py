"""Training: learning rate schedule, optimiser, losses, training loop, and exact resume."""
