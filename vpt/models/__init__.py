"""Prompted models, artifacts, and prompts in a network of one's own."""
