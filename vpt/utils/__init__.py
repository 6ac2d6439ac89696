"""Utilities for all packages: files, errors, devices, processes."""
