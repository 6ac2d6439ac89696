"""Frozen backbones: a common view of every family's transformer blocks, and adapters that create it."""
