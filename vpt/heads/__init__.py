"""Heads: from the backbone's features to scores or boxes."""
