"""Readers of data sets for classification: folders, CSV files, and the layouts of benchmarks."""
