"""Inference: loading artifacts, prediction, evaluation, and serving many tasks on one backbone."""
