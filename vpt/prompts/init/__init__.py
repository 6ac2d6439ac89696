"""Data-driven initialisation of prompts: SPT, VIPAMIN and BPT's whitening; `initialize.start` selects the method."""
