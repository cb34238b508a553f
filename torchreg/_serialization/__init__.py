"""The file container: tensors and JSON, allow-list, atomic writes and locks."""
