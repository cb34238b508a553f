"""The joblib backend: worker pool, tasks and the batcher of pending fits."""
