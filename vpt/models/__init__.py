"""Prompted models, artifacts, and prompts in the user's own network."""
