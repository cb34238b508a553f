"""From the ``module`` parameter to scaled networks, folds and training tasks."""
