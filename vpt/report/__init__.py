"""One HTML page about a run, or about several side by side: `vpt report RUN...`.

`build.py` reads the runs and puts the sections together; every other file is one section, or what sections share:
numbers as pure functions, and a template in `templates/` that shows them.
"""
