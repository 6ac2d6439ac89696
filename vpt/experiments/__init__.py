"""Sweeps, published benchmarks, and protocols of several runs."""
