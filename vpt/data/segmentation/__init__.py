"""Images with masks: readers of their layouts, validation, transforms and batches."""
