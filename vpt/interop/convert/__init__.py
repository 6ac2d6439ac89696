"""Prompts that other projects trained, as artifacts: a file a source format."""
