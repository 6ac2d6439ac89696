"""Segmentation heads on patch grids."""
