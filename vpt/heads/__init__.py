"""Heads: what reads the backbone's features."""
