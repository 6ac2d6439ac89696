"""Prompt learners for CLIP: learned text contexts, and prompts in both towers."""
