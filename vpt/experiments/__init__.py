"""Experiments: sweeps, benchmarks with published results, and protocols of several runs."""
