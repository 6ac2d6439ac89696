"""Accuracy of methods and settings."""
