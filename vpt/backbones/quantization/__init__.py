"""Backbone weights that are held in fewer bits."""
