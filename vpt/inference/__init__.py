"""Loading artifacts, predicting, evaluating, and serving many tasks on one backbone."""
