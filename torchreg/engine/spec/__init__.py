"""What a fit is asked for: configuration, task, objective, observers and seeds."""
