"""vpt: visual prompt tuning for frozen vision transformers."""
