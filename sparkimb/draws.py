"""Random draws that depend on a row's key, a seed and a purpose, and on nothing else.

A draw is a hash, so a row gets the same number whatever the partitioning, the cluster, a retried task, or whether the
row arrives in a batch or in a stream.  An exact sample of n rows is a set of intervals of draws that holds n rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import blake2b
from itertools import combinations
from typing import TypeAlias

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StructType, VariantType

from sparkimb.columns import column

Interval: TypeAlias = tuple[float, float]

# The resolution of a class's histogram of draws.  With more buckets the driver collects more; with fewer, sums of a few
# buckets miss more totals (`intervals_with_total`).  256 leaves tens of thousands of pairs to choose from.
BUCKETS = 256


def uniform(*key: Column | str, seed: int, purpose: str) -> Column:
    """Draw a double in [0, 1) from the key, the seed and the purpose.

    The top 53 bits of a 64-bit hash.  Two draws with one seed are independent only if their purposes differ.
    """
    # One literal instead of two: the hash is computed for every row, the seed and the purpose never change.
    salt = int.from_bytes(blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest(), "big", signed=True)
    bits = F.shiftrightunsigned(F.xxhash64(*key, F.lit(salt)), 11)
    return bits * F.lit(2.0**-53)


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
    """Return the bucket of a draw, in 0 .. BUCKETS - 1."""
    return F.floor(draw * F.lit(float(BUCKETS))).cast("int")


def bucket_interval(b: int) -> Interval:
    """Return the draws of a bucket, as a half-open interval; its ends are exact doubles."""
    return b / BUCKETS, (b + 1) / BUCKETS


@dataclass(frozen=True)
class DrawSet:
    """A union of half-open intervals of draws, in order and apart."""

    intervals: tuple[Interval, ...]

    def contains(self, draw: Column) -> Column:
        """Say whether a draw lies in the set."""
        inside = [(draw >= F.lit(low)) & (draw < F.lit(high)) for low, high in self.intervals]
        return reduce(lambda a, b: a | b, inside, F.lit(False)) if inside else F.lit(False)

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


ALL_DRAWS = DrawSet(((0.0, 1.0),))
NO_DRAWS = DrawSet(())


def intervals_with_total(histogram: Mapping[Interval, int], total: int) -> list[Interval] | None:
    """Choose intervals that hold `total` rows exactly: the first ones in order, and at most three of the others.

    The choice looks at the counts alone, and every row is as likely to fall in one bucket as in another, so the rows
    chosen are a simple random sample without replacement.  None if no such choice is found.
    """
    order = sorted(interval for interval, rows in histogram.items() if rows > 0)
    before = [0]
    for interval in order:
        before.append(before[-1] + histogram[interval])
    last = bisect_right(before, total) - 1
    for start in range(last, max(last - 8, -1), -1):  # each step back offers other sums; one or two steps are usual
        few = _few_with_total({interval: histogram[interval] for interval in order[start:]}, total - before[start])
        if few is not None:
            return order[:start] + few
    return None


def _few_with_total(histogram: Mapping[Interval, int], total: int) -> list[Interval] | None:
    if total == 0:
        return []
    by_rows: dict[int, list[Interval]] = {}
    for interval, rows in histogram.items():
        by_rows.setdefault(rows, []).append(interval)

    def other(rows: int, *taken: Interval) -> Interval | None:
        return next((interval for interval in by_rows.get(rows, ()) if interval not in taken), None)

    if (one := other(total)) is not None:
        return [one]
    for a, rows in histogram.items():
        if (b := other(total - rows, a)) is not None:
            return [a, b]
    for (a, rows_a), (b, rows_b) in combinations(histogram.items(), 2):
        if (c := other(total - rows_a - rows_b, a, b)) is not None:
            return [a, b, c]
    return None


def interval_to_split(histogram: Mapping[Interval, int], total: int) -> tuple[list[Interval], Interval, int]:
    """Find where the `total`-th smallest draw falls: the intervals before, that interval, and the rows wanted of it."""
    seen = 0
    whole: list[Interval] = []
    for interval in sorted(histogram):
        if seen + histogram[interval] > total:
            return whole, interval, total - seen
        seen += histogram[interval]
        whole.append(interval)
    raise AssertionError(f"{total} rows wanted of {seen}")


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
