"""Conversion of prompts trained by other projects to artifacts, one file per source format."""
