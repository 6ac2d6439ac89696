"""Many tasks on one shared backbone: see bank.py."""
