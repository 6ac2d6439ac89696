"""Metrics of classification and detection, and what they can tell apart."""
