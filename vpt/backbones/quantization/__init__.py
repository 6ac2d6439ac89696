"""Backbone weights in fewer bits."""
