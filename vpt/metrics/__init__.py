"""Metrics of classification and detection, and the significance of differences."""
