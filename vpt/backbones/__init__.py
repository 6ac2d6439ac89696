"""Frozen backbones: one block view for every family, and the readers that fill it."""
