"""Export to other runtimes, and conversion of other projects' checkpoints."""
