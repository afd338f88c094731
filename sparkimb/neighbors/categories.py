"""Distances between rows with categories, beside numbers or alone, and the vote of rows on a category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from itertools import count, takewhile
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql.types import BooleanType, DateType, NumericType, StringType, TimestampNTZType, TimestampType

from sparkimb.errors import SparkimbError
from sparkimb.neighbors.metrics import EXACT_NUMBERS, FARTHEST, ROUNDING, Euclidean, Floats, Metric, Rows
from sparkimb.neighbors.spaces import SAMPLE_ROWS, Space, feature_matrix

# Dimensions in which categories have places beside numbers: in 16 two random directions are nearly at right angles.
EMBEDDING = 16
# Classes that places and coarse distances by value differences tell apart: 8 numbers of 4 bytes for each category.
MAX_GROUPS = 8
# Values of a column whose distances from each other are all kept, 2 MB.
MAX_SQUARE = 512


def check_categories(dataset: DataFrame, names: Sequence[str]) -> None:
    """Check that columns are of types whose values can be told apart by their text."""
    taken = StringType | BooleanType | NumericType | DateType | TimestampType | TimestampNTZType
    wrong = [
        f"'{name}' ({dataset.schema[name].dataType.simpleString()})"
        for name in names
        if not isinstance(dataset.schema[name].dataType, taken)
    ]
    if wrong:
        raise SparkimbError(
            f"categoricalCols {', '.join(wrong)} are of types that are not taken. "
            "Categories are strings, booleans, numbers, dates or timestamps: cast them, or leave them out."
        )


@dataclass(frozen=True)
class Category:
    """A column of categories as integers.

    Parameters
    ----------
    codes : unsigned integer array [n]
        Positions in `values`; its length stands for null, which is a category like others.
    values : pyarrow.Array
        Of the column's own type, in the order in which they first occur, without null.
    """

    codes: NDArray[Any]
    values: pa.Array

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Category:
        """Encode a column."""
        encoded = column.combine_chunks().dictionary_encode()
        codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy()
        return cls(codes.astype(np.min_scalar_type(len(encoded.dictionary))), encoded.dictionary)

    @property
    def texts(self) -> list[str | None]:
        """The text of each code."""
        return [*map(str, self.values.to_numpy(zero_copy_only=False)), None]

    def take(self, codes: NDArray[Any]) -> pa.Array:
        """Return the values of some codes."""
        return self.values.take(pa.array(codes.astype(np.int32), mask=codes == len(self.values)))


def categories(table: pa.Table) -> list[Category]:
    """Return the columns c0, c1, ... of a table."""
    names = takewhile(table.column_names.__contains__, (f"c{i}" for i in count()))
    return [Category.of(table.column(name)) for name in names]


def vote(votes: NDArray[Any], draws: Floats) -> NDArray[Any]:
    """Return the code with most votes in each row.

    Parameters
    ----------
    votes : integer array [n, voters]
    draws : float64 array [n]
        In [0, 1): which of the tied codes it is.
    """
    ordered = np.sort(votes, axis=1)
    places = np.arange(votes.shape[1])
    starts = np.zeros(votes.shape, np.int64)  # of the run of equal codes that a vote is in
    starts[:, 1:] = np.where(ordered[:, 1:] != ordered[:, :-1], places[1:], 0)
    lengths = places - np.maximum.accumulate(starts, axis=1)
    ends = lengths == lengths.max(axis=1, keepdims=True)  # of the longest runs
    chosen = (draws * ends.sum(axis=1)).astype(np.int64)
    at = np.argmax(np.cumsum(ends, axis=1) > chosen[:, None], axis=1)
    winners: NDArray[Any] = np.take_along_axis(ordered, at[:, None], axis=1)[:, 0]
    return winners


class Mixed:
    """Squared distances of numbers, plus the square of one number for each category that differs.

    Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique", JAIR 16, 2002, section 6.1.

    Parameters
    ----------
    numbers : Euclidean
    categories : list of Category
    mismatch : float in [0, inf)
        What a category that differs adds, before it is squared.
    """

    def __init__(self, numbers: Euclidean, categories: Sequence[Category], mismatch: float) -> None:
        self.numbers, self.categories, self.mismatch = numbers, categories, mismatch
        # Lowered by more than it is rounded when multiplied; for the sum's rounding the numbers' slack has room.
        self._added = min(mismatch, FARTHEST) ** 2 * (1.0 - 8.0 * ROUNDING)

    @cached_property
    def places(self) -> Floats:
        """Scaled numbers, and the sum of a random vector for each category: so near at hand is what has few unlike.

        Two random vectors of length M / sqrt(2) are about M apart.  They come from the categories' texts, so they are
        the same in every task.
        """
        length = min(self.mismatch, FARTHEST) / np.sqrt(2.0)
        embedded = np.zeros((len(self.numbers.places), EMBEDDING), np.float32)
        for i, category in enumerate(self.categories):
            embedded += (length * _directions(i, category.texts)).astype(np.float32)[category.codes]
        return np.column_stack([self.numbers.places, embedded])

    def coarse(self, left: Rows, right: Rows) -> Floats:
        """Return the coarse distances of the numbers, and what the categories that differ add."""
        differing = np.zeros((len(left), len(right)), np.min_scalar_type(len(self.categories)))
        for category in self.categories:
            differing += category.codes[left][:, None] != category.codes[right]
        found: Floats = self.numbers.coarse(left, right)
        found += np.multiply(differing, np.float32(self._added), dtype=np.float32)
        return found

    def offset(self, left: Rows) -> Floats:
        """Return the offset of the numbers."""
        return self.numbers.offset(left)

    def exact(self, left: Rows, right: Rows) -> Floats:
        """Return the squared distances in float64."""
        differing = np.zeros(len(left), np.int64)
        for category in self.categories:
            differing += category.codes[left] != category.codes[right]
        squared: Floats = self.numbers.exact(left, right) + self.mismatch**2 * differing
        return squared


def _directions(column: int, texts: Sequence[str | None]) -> Floats:
    """Return a random vector of length 1 for each value of a column: float64 [texts, EMBEDDING]."""
    keys = (f"{column}" if text is None else f"{column}:{text}" for text in texts)
    digests = b"".join(blake2b(key.encode(), digest_size=4 * EMBEDDING).digest() for key in keys)
    vectors = np.frombuffer(digests, "<i4").reshape(len(texts), EMBEDDING) + 0.5
    directions: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return directions


class ValueDifference:
    """The value difference metric: categories are as far apart as the classes of the rows that have them differ.

    The squared distance is sum_f (sum_c |p(c | x_f) - p(c | y_f)|)^2, over the columns f and the classes c: Stanfill
    and Waltz, "Toward memory-based reasoning", CACM 29, 1986, without their weights.

    Parameters
    ----------
    codes : list of integer arrays [n]
        For each column the row of its table that a row is at.
    tables : list of float64 arrays [values, classes]
        For each column p(class | value), the rows apart.
    priors : float64 array [classes]
    """

    def __init__(self, codes: Sequence[NDArray[Any]], tables: Sequence[Floats], priors: Floats) -> None:
        self.codes, self.tables = codes, tables
        # Differences of probabilities sum to 0, so sum |.| is at least sqrt(2) times their length (for two classes it
        # is that), also where classes are put together.  Beside the priors all are short, and rounded by little.
        centre = _grouped(priors[None, :])
        self._places = [(np.sqrt(2.0) * (_grouped(table) - centre)).astype(np.float32) for table in tables]
        self.norms = np.zeros(len(codes[0]))
        for code, place in zip(codes, self._places, strict=True):
            self.norms += np.einsum("ij,ij->i", place, place, dtype=np.float64)[code]
        self._squares = [
            np.array([_apart(row, table) for row in table]) if len(table) <= MAX_SQUARE else None for table in tables
        ]
        # As in Euclidean.
        self.slack = 2.0 * (len(tables) * centre.shape[1] + 8) * ROUNDING

    @cached_property
    def places(self) -> Floats:
        """The probabilities of each row's values, of at most 8 classes: the largest ones, and all others together."""
        return self._at(np.arange(len(self.norms)))

    def _at(self, rows: Rows) -> Floats:
        return np.concatenate([place[code[rows]] for code, place in zip(self.codes, self._places, strict=True)], axis=1)

    def coarse(self, left: Rows, right: Rows) -> Floats:
        """Return |y|^2 - 2 x y of the places x and y, one matrix product."""
        found: Floats = self._at(left) @ (-2.0 * self._at(right)).T
        found += ((1.0 - self.slack) * self.norms[right]).astype(np.float32)
        return found

    def offset(self, left: Rows) -> Floats:
        """Return |x|^2."""
        lowered: Floats = (1.0 - self.slack) * self.norms[left]
        return lowered

    def exact(self, left: Rows, right: Rows) -> Floats:
        """Return the squared distances in float64."""
        squared = np.zeros(len(left))
        step = max(1, EXACT_NUMBERS // self.tables[0].shape[1])
        for i in range(0, len(left), step):
            some = slice(i, i + step)
            for code, table, square in zip(self.codes, self.tables, self._squares, strict=True):
                x, y = code[left[some]], code[right[some]]
                squared[some] += _apart(table[x], table[y]) if square is None else square[x, y]
        return squared

    def distinct(self, most: int) -> Rows:
        """Return the positions of the first `most` rows at each place: without the others the same are nearest.

        The k nearest of any row are among the first k + 1 at their places, as ties go to the first; and rows of
        categories have far fewer places than there are rows.
        """
        place = np.zeros(len(self.norms), np.int64)
        for code in self.codes:
            place = np.unique(place * (int(code.max()) + 1) + code, return_inverse=True)[1]
        order = np.argsort(place, kind="stable")
        ranks = np.empty_like(order)
        ranks[order] = np.arange(len(order)) - np.searchsorted(place[order], place[order])
        return np.flatnonzero(ranks < most)


def _apart(left: Floats, right: Floats) -> Floats:
    """Return the squares of the sums of the differences of probabilities."""
    squared: Floats = np.abs(left - right).sum(axis=-1) ** 2
    return squared


def _grouped(table: Floats) -> Floats:
    """Put the classes after the first ones together where there are more than MAX_GROUPS."""
    if table.shape[1] <= MAX_GROUPS:
        return table
    rest = table[:, MAX_GROUPS - 1 :].sum(axis=1)
    return np.column_stack([table[:, : MAX_GROUPS - 1], rest])


@dataclass(frozen=True)
class MixedSpace(Space):
    """Numbers in the column `features` and categories in c0, c1, ...: see `Mixed`.

    What a category that differs adds is the square of the median of the numbers' standard deviations (of the rows, with
    divisor n), in the units of distances: after they were divided by `scale`.
    """

    mismatch: float | None = None  # None: a task finds it, as it does center and scale

    def measured(self, table: pa.Table) -> MixedSpace:
        """Return a space with center, scale and mismatch."""
        space = super().measured(table)
        assert isinstance(space, MixedSpace)
        if space.mismatch is not None:
            return space
        values = feature_matrix(table)[:SAMPLE_ROWS].astype(np.float64)
        known = np.where(np.isfinite(values), values, np.nan)
        known[:, np.isnan(known).all(axis=0)] = 0.0
        return replace(space, mismatch=float(np.median(np.nanstd(known, axis=0) / np.array(space.scale))))

    def metric(self, table: pa.Table) -> Metric:
        """Return the distances between rows."""
        space = self.measured(table)
        assert space.mismatch is not None
        numbers = Euclidean(feature_matrix(table), np.array(space.center), np.array(space.scale))
        return Mixed(numbers, categories(table), space.mismatch)


@dataclass(frozen=True)
class ValueDifferenceSpace(Space):
    """Categories in c0, c1, ..., or their texts in text0, text1, ... where they are no strings: see `ValueDifference`.

    Parameters
    ----------
    values : list of dict
        For each column: from the text of a value to its rows of each class.
    rows : list of int
        Rows of each class: how those of a value are distributed that is null or was not seen.
    """

    center: tuple[float, ...] | None = ()
    scale: tuple[float, ...] | None = ()
    values: Sequence[Mapping[str, Sequence[int]]] = ()
    rows: Sequence[int] = ()

    def metric(self, table: pa.Table) -> Metric:
        """Return the distances between rows."""
        codes, tables = [], []
        for i, known in enumerate(self.values):
            name = f"text{i}" if f"text{i}" in table.column_names else f"c{i}"
            category = Category.of(table.column(name))
            rows = np.array(
                [self.rows if text is None else known.get(text, self.rows) for text in category.texts], np.float64
            )
            probabilities, places = np.unique(rows / rows.sum(axis=1, keepdims=True), axis=0, return_inverse=True)
            codes.append(places.reshape(-1).astype(np.int32)[category.codes])
            tables.append(probabilities)
        return ValueDifference(codes, tables, np.array(self.rows) / sum(self.rows))
