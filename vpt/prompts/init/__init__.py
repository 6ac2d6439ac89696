"""Data-driven initialisation of prompts, see `initialize.start`: SPT, VIPAMIN, BPT's whitening, PAE's frequencies."""
