"""Sharding, compilation and activation checkpointing of a backbone."""
