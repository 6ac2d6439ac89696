"""Transforms from an image to a tensor: evaluation, augmentation and several views."""
