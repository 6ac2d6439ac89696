"""Prompted models that predict masks."""
