"""Search of settings with Optuna: `vpt sweep`. An extra: pip install 'vpt[sweep]'."""
