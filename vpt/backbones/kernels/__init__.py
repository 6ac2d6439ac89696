"""Faster forms of single operations, each equal to the plain one."""
