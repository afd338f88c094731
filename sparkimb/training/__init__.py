"""The PyTorch side: losses, augmentation and training loops for imbalanced classes.  Needs no Spark."""
