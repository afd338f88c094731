"""Random draws that depend on a row's key, a seed and a purpose, and on nothing else.

A draw is a hash, so a row gets the same number whatever the partitioning, the cluster, a retried task, or whether the
row arrives in a batch or in a stream.  An exact sample of n rows is a set of intervals of draws that holds n rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StructType, VariantType

from sparkimb.columns import column

Interval: TypeAlias = tuple[float, float]

# Buckets of draws get finer towards 0: [0, 1) is cut in 64, the first 8 of these are cut as one in 64 again, and so on.
# So a class of any size, up to 10^10 rows, has buckets of many rows and of one, and some of them add up to any total
# (`fill`): wide ones make up most of it, narrow ones the rest.  Buckets of one width would not do, as sums of their
# millions of rows lie near the multiples of one.  In simulations of 300 to 10^9 rows no total, and no part of a split
# in ten, was missed; with fewer buckets some were.
CUTS, CUT_FURTHER, LEVELS = 64, 8, 10
BUCKETS = LEVELS * (CUTS - CUT_FURTHER) + CUT_FURTHER


def uniform(*key: Column | str, seed: int, purpose: str) -> Column:
    """Draw a double in [0, 1) from the key, the seed and the purpose.

    The top 53 bits of a 64-bit hash.  Two draws with one seed are independent only if their purposes differ.
    """
    # One literal instead of two: the hash is computed for every row, the seed and the purpose never change.
    bits = F.shiftrightunsigned(F.xxhash64(*key, F.lit(_salt(seed, purpose))), 11)
    return bits * F.lit(2.0**-53)


def with_draw(dataset: DataFrame, draw: Column, name: str) -> DataFrame:
    """Add a draw as a column that is computed once a row, however often it is compared: lazy.

    By `explode`, as Spark writes a column that is only named into the filters above it, hash and all.  With a hash of
    32 columns in a few comparisons the method that Spark makes of all that is done with a row grew beyond the 8,000
    bytes up to which Java compiles one, and a filter took seven times as long.
    """
    return dataset.select("*", F.explode(F.array(draw)).alias(name))


def _salt(seed: int, purpose: str) -> int:
    return int.from_bytes(blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest(), "big", signed=True)


def normal(*key: Column | str, seed: int, purpose: str) -> Column:
    """Draw a standard normal double (Box and Muller, 1958)."""
    radius = F.sqrt(-2.0 * F.log(1.0 - uniform(*key, seed=seed, purpose=f"{purpose}.radius")))
    return radius * F.cos(uniform(*key, seed=seed, purpose=f"{purpose}.angle") * F.lit(6.283185307179586))


def row_key(dataset: DataFrame, names: Sequence[str]) -> list[Column]:
    """Return what identifies a row, from the columns named: their values and, where they may be null, their nullness.

    Spark's hash passes over nulls, so without the latter (null, 1) and (1, null) would share a draw.
    """
    key = []
    for field in sorted((dataset.schema[name] for name in names), key=lambda field: field.name):
        key.append(_hashable(column(field.name), field.dataType))
        if field.nullable and len(names) > 1:
            key.append(F.isnull(column(field.name)))
    return key


def _hashable(value: Column, dataType: DataType) -> Column:
    """Write maps, whose order means nothing, as sorted entries, and variants as JSON: Spark hashes neither."""
    if not _holds_unhashable(dataType):
        return value
    if isinstance(dataType, VariantType):
        return F.to_json(value)
    if isinstance(dataType, MapType):
        entries = F.map_entries(value)
        if _holds_unhashable(dataType.valueType):
            entries = F.transform(entries, lambda e: F.struct(e["key"], _hashable(e["value"], dataType.valueType)))
        return F.sort_array(entries)
    if isinstance(dataType, ArrayType):
        return F.transform(value, lambda element: _hashable(element, dataType.elementType))
    assert isinstance(dataType, StructType)
    return F.struct(*(_hashable(value.getField(field.name), field.dataType) for field in dataType))


def _holds_unhashable(dataType: DataType) -> bool:
    if isinstance(dataType, ArrayType):
        return _holds_unhashable(dataType.elementType)
    if isinstance(dataType, StructType):
        return any(_holds_unhashable(field.dataType) for field in dataType)
    return isinstance(dataType, MapType | VariantType)


def bucket(draw: Column) -> Column:
    """Return the number of a draw's bucket: an integer that `bucket_interval` understands."""
    number = F.when(F.lit(False), F.lit(0))
    for level in range(LEVELS):
        lowest = CUT_FURTHER * _width(level) if level < LEVELS - 1 else 0.0
        here = F.lit(level * CUTS) + (draw * F.lit(1.0 / _width(level))).cast("int")
        number = number.when(draw >= F.lit(lowest), here)
    return number


def bucket_interval(number: int) -> Interval:
    """Return the draws of a bucket, as a half-open interval; its ends are exact doubles."""
    level, i = divmod(number, CUTS)
    return i * _width(level), (i + 1) * _width(level)


def bucket_numbers() -> list[int]:
    """Return the numbers of all buckets."""
    return [b for b in range(LEVELS * CUTS) if b % CUTS >= CUT_FURTHER or b >= (LEVELS - 1) * CUTS]


def _width(level: int) -> float:
    return (CUT_FURTHER / CUTS) ** level / CUTS


@dataclass(frozen=True)
class DrawSet:
    """A union of half-open intervals of draws, in order and apart."""

    intervals: tuple[Interval, ...]

    def contains(self, draw: Column) -> Column:
        """Say whether a draw lies in the set: a tree of comparisons, as each one may compute the hash anew."""
        return _contains(draw, self.intervals, 0.0, 1.0)

    @classmethod
    def union(cls, intervals: Iterable[Interval]) -> DrawSet:
        """Make the set of some disjoint intervals."""
        merged: list[Interval] = []
        for low, high in sorted(intervals):
            if merged and merged[-1][1] == low:
                merged[-1] = (merged[-1][0], high)
            elif low < high:
                merged.append((low, high))
        return cls(tuple(merged))


def _contains(draw: Column, intervals: Sequence[Interval], low: float, high: float) -> Column:
    """Say whether a draw in [low, high) lies in one of the intervals within."""
    if not intervals or tuple(intervals) == ((low, high),):
        return F.lit(bool(intervals))
    ends = {end for interval in intervals for end in interval} - {low, high}
    cut = min(ends, key=lambda end: (abs(end - (low + high) / 2), end))  # most rows are settled by a comparison or two
    below = [(a, min(b, cut)) for a, b in intervals if a < cut]
    above = [(max(a, cut), b) for a, b in intervals if b > cut]
    return F.when(draw < F.lit(cut), _contains(draw, below, low, cut)).otherwise(_contains(draw, above, cut, high))


ALL_DRAWS = DrawSet(((0.0, 1.0),))


def fill(histogram: Mapping[Interval, int], total: int) -> tuple[list[Interval], int]:
    """Choose intervals that hold `total` rows, or as few less as whole intervals allow; return them and the rest.

    Wide intervals first, each taken if it fits.  The choice looks at the counts alone, and a row is as likely to draw
    one number as another, so the rows chosen are a simple random sample without replacement.
    """
    taken = []
    for interval in sorted(histogram, key=lambda ends: (ends[0] - ends[1], ends[0])):
        if 0 < histogram[interval] <= total:
            taken.append(interval)
            total -= histogram[interval]
    return taken, total


def cut_below(draws: Mapping[float, int], rows: int, interval: Interval) -> tuple[float, int]:
    """Return the bound in the interval with `rows` rows of the draws below it, and how many there really are.

    `draws` counts the rows of each draw.  The two numbers differ only where rows that share a draw straddle the bound.
    """
    low, high = interval
    ordered = sorted(draws)
    below = [(0, low)]
    for draw, after in zip(ordered, [*ordered[1:], high], strict=True):
        below.append((below[-1][0] + draws[draw], after))
    found, bound = min(below, key=lambda pair: abs(pair[0] - rows))
    return bound, found


def uniform_numbers(keys: NDArray[np.int64], counters: NDArray[np.int64], *, seed: int, purpose: str) -> NDArray[Any]:
    """Draw float64 in [0, 1) as NumPy does it, for each key and counter: for rows made in a task of Python's.

    Two rounds of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
    """
    mixed = _mixed(keys.view(np.uint64) + np.uint64(_salt(seed, purpose) % 2**64))
    bits = _mixed(mixed + counters.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)) * 2.0**-53


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
