"""`vpt serve`: HTTP service for the tasks of a folder, on one backbone. Extra: pip install 'vpt[serve]'."""
