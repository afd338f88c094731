"""Comparing datasets whose rows come in any order."""

from __future__ import annotations

from collections import Counter

from pyspark.sql import DataFrame


def rows(df: DataFrame) -> Counter[str]:
    """Count the rows by what they show, since vectors and maps do not hash."""
    return Counter(map(repr, df.collect()))
