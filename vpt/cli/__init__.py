"""The command line: there is a file for each command; main.py runs them."""
