"""Adapters for timm and open_clip, which describe their networks as a `Tower`."""
