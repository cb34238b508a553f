"""Optimizers on flat parameter vectors, L-BFGS and learning-rate schedules."""
