"""Plumbing of the estimators: parameters, validation, data, warnings and callbacks."""
