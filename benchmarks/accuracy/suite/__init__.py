"""A suite of small tasks that decides which settings are the defaults: see docs/defaults.md."""
