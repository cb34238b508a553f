"""Estimators to files and back, checkpoints and the export methods."""
