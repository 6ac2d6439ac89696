"""HTML report on one run, or a comparison of several: `vpt report RUN...`.

`build.py` reads the runs and assembles the sections; every other file is one section or code that sections share. A
section computes its numbers with pure functions and renders a template of `templates/`.
"""
