"""Record a training step, compile it to a straight-line program and replay it."""
