"""Token prompts in the sequence of a vision transformer: a file per method."""
