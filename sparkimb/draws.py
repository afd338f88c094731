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

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import MapType, VariantType

from sparkimb.columns import column

# The resolution of a class's histogram of draws.  With more buckets the driver collects more; with fewer, sums of a few
# buckets miss more totals (`buckets_with_total`).  256 leaves tens of thousands of pairs to choose from.
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
        value = column(field.name)
        if isinstance(field.dataType, MapType):  # Spark refuses to hash maps, whose order means nothing
            value = F.sort_array(F.map_entries(value))
        elif isinstance(field.dataType, VariantType):
            value = F.to_json(value)
        key.append(value)
        if field.nullable and len(names) > 1:
            key.append(F.isnull(column(field.name)))
    return key


def bucket(draw: Column) -> Column:
    """Return the bucket of a draw, in 0 .. BUCKETS - 1."""
    return F.floor(draw * F.lit(float(BUCKETS))).cast("int")


@dataclass(frozen=True)
class DrawSet:
    """A union of half-open intervals of draws, in order and apart."""

    intervals: tuple[tuple[float, float], ...]

    def contains(self, draw: Column) -> Column:
        """Say whether a draw lies in the set."""
        inside = [(draw >= F.lit(low)) & (draw < F.lit(high)) for low, high in self.intervals]
        return reduce(lambda a, b: a | b, inside, F.lit(False)) if inside else F.lit(False)

    @classmethod
    def of_buckets(cls, buckets: Iterable[int], part: tuple[int, float] | None = None) -> DrawSet:
        """Make the set of whole buckets, and of the draws of one more bucket that are less than a bound."""
        pieces = [(b / BUCKETS, (b + 1) / BUCKETS) for b in buckets]
        if part is not None:
            pieces.append((part[0] / BUCKETS, part[1]))
        merged: list[tuple[float, float]] = []
        for low, high in sorted(pieces):
            if merged and merged[-1][1] == low:
                merged[-1] = (merged[-1][0], high)
            elif low < high:
                merged.append((low, high))
        return cls(tuple(merged))


ALL_DRAWS = DrawSet(((0.0, 1.0),))
NO_DRAWS = DrawSet(())


def buckets_with_total(histogram: Mapping[int, int], total: int) -> list[int] | None:
    """Choose buckets that hold `total` rows exactly: the first ones in order, and at most three of the others.

    The choice looks at the counts alone and every row is as likely to fall in one bucket as in another, so the rows of
    the chosen buckets are a simple random sample without replacement.  None if no such choice is found.
    """
    order = sorted(b for b, rows in histogram.items() if rows > 0)
    before = [0]
    for b in order:
        before.append(before[-1] + histogram[b])
    last = bisect_right(before, total) - 1
    for start in range(last, max(last - 8, -1), -1):  # each step back offers other sums; one or two steps are usual
        few = _few_with_total({b: histogram[b] for b in order[start:]}, total - before[start])
        if few is not None:
            return order[:start] + few
    return None


def _few_with_total(histogram: Mapping[int, int], total: int) -> list[int] | None:
    if total == 0:
        return []
    by_rows: dict[int, list[int]] = {}
    for b, rows in histogram.items():
        by_rows.setdefault(rows, []).append(b)

    def other(rows: int, taken: tuple[int, ...]) -> int | None:
        return next((b for b in by_rows.get(rows, ()) if b not in taken), None)

    if (one := other(total, ())) is not None:
        return [one]
    for a, rows in histogram.items():
        if (partner := other(total - rows, (a,))) is not None:
            return [a, partner]
    for a, rows_a in histogram.items():
        for b, rows_b in histogram.items():
            if a < b and (c := other(total - rows_a - rows_b, (a, b))) is not None:
                return [a, b, c]
    return None


def split_bucket(histogram: Mapping[int, int], total: int) -> tuple[list[int], int, int]:
    """Find the bucket in which the `total`-th smallest draw falls: (whole buckets before it, it, rows wanted of it)."""
    seen = 0
    whole: list[int] = []
    for b in sorted(histogram):
        if seen + histogram[b] > total:
            return whole, b, total - seen
        seen += histogram[b]
        whole.append(b)
    raise AssertionError(f"{total} rows wanted of {seen}")


def cut_below(draws: Mapping[float, int], rows: int, upper: float) -> tuple[float, int]:
    """Return a bound, at most `upper`, with `rows` rows of the draws below it, and how many there really are.

    `draws` counts the rows of each draw.  The two numbers differ only where rows that share a draw straddle the bound.
    """
    below = [(0, min(draws))]
    for draw, after in zip(sorted(draws), [*sorted(draws)[1:], upper], strict=True):
        below.append((below[-1][0] + draws[draw], after))
    found, bound = min(below, key=lambda pair: abs(pair[0] - rows))
    return bound, found
