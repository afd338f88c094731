"""The PyTorch side: losses, augmentation and training loops for imbalanced classes.  Needs no Spark."""

import lazy_loader

# Names are listed in __init__.pyi.  Each imports what it needs: only imbalanced_trainer imports transformers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
