"""The feed: training sets that Spark writes, and loaders that hand their rows to PyTorch in balanced batches."""

import lazy_loader

# Names are listed in __init__.pyi.  A process that only reads imports no Spark, and one that writes no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
