"""Backbones of timm and open_clip: read into a common description of a vision transformer."""
