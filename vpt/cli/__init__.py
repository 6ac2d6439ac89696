"""Command line interface: one module per command, run by `main`."""
