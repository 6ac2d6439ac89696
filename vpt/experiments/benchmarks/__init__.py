"""Benchmarks: suites of tasks, checks of their data, runs, and comparison with published results."""
