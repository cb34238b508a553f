"""Training engine: it knows tensors, modules and hyperparameters, but no estimator.

Packages, from the lowest to the highest: ``data`` (tables, batches, column statistics), ``spec``
(configuration, tasks, results and the objective), ``capture`` (record a training step and replay
it as a straight-line program), ``train`` (the training loop and the backend of one network),
``stack`` (many networks of one architecture trained as one), ``inspect`` (summaries for the
diagnosis), ``build`` (networks and tasks from a configuration, and the selected model from their
results). ``run.fit_networks`` combines them into fits; ``predict`` evaluates fitted modules.
"""
