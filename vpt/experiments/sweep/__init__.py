"""Hyperparameter search with Optuna: `vpt sweep`. Extra: pip install 'vpt[sweep]'."""
