"""Imbalanced learning for Apache Spark.

Samplers that change training rows only, class weights, and exact distributed metrics, as Spark ML stages.
"""

import lazy_loader

# Names are listed in __init__.pyi.  A worker that only trains imports no Spark.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
