"""The pretraining of vpt_nano."""
