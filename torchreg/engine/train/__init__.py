"""The training loop and the backend for one network."""
