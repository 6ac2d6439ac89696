"""Faster implementations of single operations, each equal to the plain one."""
