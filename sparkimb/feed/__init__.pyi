from .manifest import Manifest, Shard
from .parquet import materialize, verify

__all__ = ["Manifest", "Shard", "materialize", "verify"]
