"""The feed: training sets that Spark writes, and loaders that hand their rows to PyTorch in balanced batches."""
