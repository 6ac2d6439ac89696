"""Pixel prompts: frames, patches and whole images added to the input."""
