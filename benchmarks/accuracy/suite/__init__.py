"""A suite of small tasks that decides which settings are the defaults: see README.md in this folder."""
