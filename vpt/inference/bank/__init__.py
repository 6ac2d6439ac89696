"""Many tasks on one backbone in memory: see bank.py."""
