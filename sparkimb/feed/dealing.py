"""Deal the rows of each class to shards in exact numbers, and mix the classes evenly over the rows of each shard."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.neighbors.search import numbers_that_hash_apart

Integers = npt.NDArray[np.int64]

# A row's draw is an integer of this many bits, by chance: the rows of a class in the order of their draws are shuffled.
DRAW_BITS = 53
# The draws of a class are counted first by their top bits, in 1,024 buckets.
FIRST_BITS = 10
# Buckets, or draws, of all classes that come to the driver at once: 20 bytes each.
MAX_BUCKETS = 4_000_000
# Classes times shards.  Every task holds a few numbers for each: 4 MB.
MAX_CUTS = 100_000
# This many bits of a draw go with a code, which is below 10,000, into 61 bits.
KEY_BITS = 47


def quotas(counts: npt.ArrayLike, shards: int) -> Integers:
    """Return how many rows of each class (axis 0) each shard (axis 1) gets.

    The rows are numbered class after class and dealt in turn, so that shards, and classes within shards, are of equal
    size up to one row.
    """
    ends = np.cumsum(np.asarray(counts, dtype=np.int64))[:, None]
    starts = ends - np.asarray(counts, dtype=np.int64)[:, None]
    shard = np.arange(shards)
    return (ends - shard - 1) // shards - (starts - shard - 1) // shards


def strides(sizes: Integers) -> Integers:
    """Return for each size n > 0 a number prime to it, near its golden section.

    So j -> j · stride mod n moves each of the n places, and neighbours far apart, whatever the neighbourhood.
    """
    found = {0: 1}
    for n in np.unique(sizes[sizes > 0]).tolist():
        stride = max(1, round(n * 0.6180339887498949))
        while gcd(stride, n) > 1:
            stride += 1
        found[n] = stride
    return np.array([found[n] for n in sizes.ravel().tolist()], dtype=np.int64).reshape(sizes.shape)


@dataclass(frozen=True)
class Buckets:
    """Rows counted by class and top bits of their draws, in this order.

    Attributes
    ----------
    bits : int
        How many bits of the draws.
    code, bucket, rows : array
    first : array
        The rows, class after class, before those of the bucket.
    """

    bits: int
    code: Integers
    bucket: Integers
    rows: Integers
    first: Integers

    @classmethod
    def of_all(cls, code: Integers, bucket: Integers, rows: Integers) -> Buckets:
        """Return the buckets of FIRST_BITS of all rows, given in any order."""
        order = np.lexsort((bucket, code))
        code, bucket, rows = code[order], bucket[order], rows[order]
        return cls(FIRST_BITS, code, bucket, rows, np.cumsum(rows) - rows)

    @property
    def key(self) -> Integers:
        """One integer for code and bucket; of KEY_BITS bits at most."""
        return (self.code << self.bits) | self.bucket

    def split(self, chosen: Integers, drawn: DataFrame, bits: int) -> Buckets:
        """Count the rows in some of the buckets by more bits of their draws: one job, one aggregate."""
        keys = pa.table({"key": self.key[chosen]})
        key = F.shiftleft(F.col("code").cast("bigint"), self.bits).bitwiseOR(
            F.shiftright(F.col("draw"), DRAW_BITS - self.bits)
        )
        counted = (
            drawn.select("code", "draw", key.alias("key"))
            .join(F.broadcast(drawn.sparkSession.createDataFrame(keys)), "key", "left_semi")
            .groupBy("code", F.shiftright("draw", DRAW_BITS - bits).alias("bucket"))
            .agg(F.count(F.lit(1)).alias("rows"))
            .toArrow()
        )
        code, bucket, rows = (counted[name].to_numpy().astype(np.int64) for name in ("code", "bucket", "rows"))
        order = np.lexsort((bucket, code))
        code, bucket, rows = code[order], bucket[order], rows[order]
        parent = np.searchsorted(self.key[chosen], (code << self.bits) | (bucket >> (bits - self.bits)))
        if not np.array_equal(np.bincount(parent, rows, len(chosen)), self.rows[chosen]):
            raise changed()
        before = np.cumsum(rows) - rows
        first = before - before[np.searchsorted(parent, parent)] + self.first[chosen][parent]
        return Buckets(bits, code, bucket, rows, first)


def changed(what_to_do: str = "") -> SparkimbError:
    """Return the error for a dataset that is not the same each time it is read."""
    return SparkimbError(
        "The dataset changed while it was materialized: other rows came when it was read again. Write it to a table "
        f"first, and materialize that.{what_to_do}"
    )


@dataclass(frozen=True)
class Deal:
    """Which draws of each class (axis 0) go to each shard (axis 1).

    Attributes
    ----------
    quotas : array
        Rows of the class in the shard.
    last : array
        The draw of the last of them.
    before, upto : array
        Rows of the class with lower draws than that, and with this draw or a lower one.  A draw that several rows
        share may belong to several shards.
    """

    quotas: Integers
    last: Integers
    before: Integers
    upto: Integers


def find_deal(drawn: DataFrame, buckets: Buckets, wanted: Integers) -> Deal:
    """Find the draws at which the rows of each class are cut into shards: one job.

    Two or more where the buckets that are cut hold over 4 million rows, as those of a billion rows in 64 shards do.

    Parameters
    ----------
    drawn : DataFrame
        Columns `code` (int) and `draw` (bigint) of all rows.
    buckets : Buckets
        Of the same rows.
    wanted : array
        Rows of each class and shard.
    """
    last, before, upto = (np.zeros_like(wanted) for _ in range(3))
    ends = np.cumsum(wanted, axis=1)
    classes = ends[:, -1]
    starts = (np.cumsum(classes) - classes)[:, None]
    cut = ends > 0
    cut[:, -1] = False
    ranks = (ends + starts)[cut]  # of the last rows, from 1, class after class
    while ranks.size and buckets.bits < DRAW_BITS:
        chosen = np.unique(np.searchsorted(buckets.first, ranks) - 1)
        bits = buckets.bits + max(1, int(np.log2(MAX_BUCKETS / len(chosen))))
        if buckets.rows[chosen].sum() <= MAX_BUCKETS or bits > KEY_BITS:
            bits = DRAW_BITS
        buckets = buckets.split(chosen, drawn, bits)
    place = np.searchsorted(buckets.first, ranks) - 1
    last[ends == 0] = -1
    last[cut] = buckets.bucket[place]
    before[cut] = buckets.first[place]
    upto[cut] = (buckets.first + buckets.rows)[place]
    before[cut] -= np.broadcast_to(starts, cut.shape)[cut]
    upto[cut] -= np.broadcast_to(starts, cut.shape)[cut]
    last[:, -1], before[:, -1], upto[:, -1] = 2**DRAW_BITS, classes, classes
    return Deal(wanted, last, before, upto)


def dealt(rows: DataFrame, deal: Deal) -> DataFrame:
    """Return the rows with the shard s in partition s, each in an order that mixes its classes: lazy, one shuffle.

    The j-th row of a class of n rows in the shard stands at (j - 1/2) / n of the way.  So of m rows in a row, wherever
    they start, m·p ± (1 + p·(C - 2)) are of a class whose share is p, of C classes: with two classes, ± 1.

    Parameters
    ----------
    rows : DataFrame
        Columns `code`, `draw` and `content`, a hash of what the row holds; others travel along.
    """
    classes, shards = deal.quotas.shape
    depth = (shards - 1).bit_length()
    ends = np.full((classes, 2**depth), 2**DRAW_BITS)
    ends[:, :shards] = deal.last
    sent = _with_place(rows, "shard", ends)
    split = deal.upto > np.cumsum(deal.quotas, axis=1)
    starts = np.zeros_like(deal.quotas)
    starts[:, 1:] = np.where(split, deal.before, deal.upto)[:, :-1]
    skipped = np.cumsum(deal.quotas, axis=1) - deal.quotas - starts
    if split.any():
        # Rows that share a draw with the last row of a shard go to each shard that has some of them, which passes over
        # those of the others: all see them in one order.
        ends[:, :shards] -= split
        sent = _with_place(sent, "through", ends).withColumn("shard", F.explode(F.sequence("shard", "through")))
    numbers = _constants(numbers_that_hash_apart(shards))
    shard, code, i = F.col("shard"), F.col("code"), F.col("i")
    # One integer in front, as Spark compares 64 bits of a row fast, and the rest slowly.
    class_and_draw = F.shiftleft(code.cast("bigint"), KEY_BITS).bitwiseOR(F.shiftright("draw", DRAW_BITS - KEY_BITS))
    ordered = sent.repartition(shards, F.get(numbers, shard).cast("int")).sortWithinPartitions(
        class_and_draw, "draw", "content"
    )
    # The rows of a partition number on from 0 in the low 33 bits; a window's rank would need another sort.
    row = F.monotonically_increasing_id().bitwiseAND(2**33 - 1)
    received = deal.upto - starts
    offset = np.cumsum(received, axis=0) - received + skipped
    group = code * shards + shard
    ranked = ordered.withColumns(
        {"i": row - F.get(_constants(offset), group), "n": F.get(_constants(deal.quotas), group)}
    )
    if split.any():
        ranked = ranked.where((i >= 0) & (i < F.col("n")))
    stride = F.get(_constants(strides(deal.quotas)), group)
    place = (i * stride % F.col("n") + F.lit(0.5)) / F.col("n")
    return ranked.withColumn("place", place).sortWithinPartitions("place", "code")


def _with_place(rows: DataFrame, name: str, ends: Integers) -> DataFrame:
    """Add how many of the rising `ends` of a row's class lie below its draw, by bisection.

    A power of two of them for each class, of which the last is not looked at.
    """
    depth = ends.shape[1].bit_length() - 1
    rows = rows.withColumn(name, F.lit(0))
    first, found, table = F.shiftleft("code", depth), F.col(name), _constants(ends)
    for bit in (1 << d for d in reversed(range(depth))):
        # One projection a step: in one expression each step would repeat the one before it twice.
        further = F.get(table, first + found.bitwiseOR(bit - 1)) < F.col("draw")
        rows = rows.withColumn(name, F.when(further, found.bitwiseOR(bit)).otherwise(found))
    return rows


def _constants(values: Any) -> Column:
    """Return an array of integers as one literal, which Spark makes of a string: a literal for each took 0.3 ms."""
    return F.from_json(F.lit(json.dumps(np.asarray(values).ravel().tolist())), "array<bigint>")
