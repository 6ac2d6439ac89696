"""The field's benchmarks: what they hold, whether it is on disk, runs, and our numbers beside the published."""
