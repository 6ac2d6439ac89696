"""`vpt serve`: HTTP service for the tasks of a folder, on one backbone. Needs the extra `serve`."""
