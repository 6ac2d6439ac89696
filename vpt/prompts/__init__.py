"""Prompts: what is inserted, where, and which of it anybody reads."""
