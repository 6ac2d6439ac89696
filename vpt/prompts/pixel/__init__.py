"""Prompts in pixels: frames and patches that are added to an image."""
