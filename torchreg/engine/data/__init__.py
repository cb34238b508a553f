"""Tables as tensors, column statistics and batches."""
