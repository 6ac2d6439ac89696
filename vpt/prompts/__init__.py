"""Prompts: prompt methods, and the computation that each needs in the backbone."""
