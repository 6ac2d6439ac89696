"""Hyperparameter search with Optuna: `vpt sweep`. Extra: pip install 'visual-prompt-tuning[sweep]'."""
