"""`vpt serve`: the tasks of a folder over HTTP, from one backbone. An extra: pip install 'vpt[serve]'."""
