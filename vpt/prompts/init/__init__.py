"""Data-driven starts of prompts: SPT, VIPAMIN, and the whitening of BPT. `start` chooses."""
