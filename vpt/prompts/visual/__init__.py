"""Token prompts in the sequence of a vision transformer, one file per method."""
