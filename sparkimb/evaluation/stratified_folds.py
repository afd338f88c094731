"""StratifiedFolds: a fold column for pyspark's CrossValidator, with every class, group or time where it belongs."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark import keyword_only
from pyspark.ml.base import Estimator, Model
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    DataType,
    DateType,
    DecimalType,
    IntegerType,
    NumericType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from sparkimb.columns import check_label_type, column, require_columns, temporary_name
from sparkimb.draws import DrawSet, row_key, uniform, with_draw
from sparkimb.errors import NotEnoughSamplesError, SparkimbError
from sparkimb.evaluation.folds import Part, choose_parts, part_of, rows_by_label
from sparkimb.evaluation.inputs import bucket
from sparkimb.params import HasIdCols, HasLabelCol, HasSeed, column_name, integer, param
from sparkimb.persistence import JsonStage
from sparkimb.statistics import MAX_CLASSES, check_labels, draw_histograms
from sparkimb.strategy import Label

# Rows of one class in one group, as counts, that the driver takes in and deals: some 50 MB and a few seconds.
MAX_GROUP_COUNTS = 500_000
# Different times of rows of the smallest class that the driver takes in: 16 MB.
MAX_TIMES = 1_000_000


class FoldParams(HasLabelCol, HasIdCols, HasSeed, JsonStage):
    """The Params of what writes a fold column, and of its model."""

    numFolds = param("numFolds", "number of folds", integer("numFolds", 2))
    foldCol = param("foldCol", "integer output column: the row's fold, from 0", column_name("foldCol"))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(numFolds=5, foldCol="fold")

    def getNumFolds(self) -> int:
        """Return numFolds."""
        return int(self.getOrDefault(self.numFolds))

    def getFoldCol(self) -> str:
        """Return foldCol."""
        return str(self.getOrDefault(self.foldCol))

    def _check_fold_col(self, dataset: DataFrame) -> None:
        if self.getFoldCol() in dataset.columns:
            raise SparkimbError(
                f"foldCol '{self.getFoldCol()}' is there already. Name a column that the dataset does not have."
            )

    def _check_enough(self, counts: Mapping[Label, int], what: str) -> None:
        few = {label: n for label, n in counts.items() if n < self.getNumFolds()}
        if few:
            found = ", ".join(f"class {label!r} has {n}" for label, n in few.items())
            raise NotEnoughSamplesError(
                f"{type(self).__name__}.numFolds is {self.getNumFolds()}, but of {what} {found} only, so some folds "
                f"would lack a class. Use numFolds <= {min(few.values())}, or leave out the class."
            )


class _Params(FoldParams):
    groupCol = param("groupCol", "rows that share a value share a fold", column_name("groupCol"))
    timeCol = param("timeCol", "folds are blocks of time", column_name("timeCol"))

    def getGroupCol(self) -> str | None:
        """Return groupCol, or None."""
        value: str | None = self._optional(self.groupCol)
        return value

    def getTimeCol(self) -> str | None:
        """Return timeCol, or None."""
        value: str | None = self._optional(self.timeCol)
        return value


class StratifiedFolds(_Params, Estimator["StratifiedFoldsModel"]):
    """Number the folds of a cross-validation so that each has its share of every class, exactly.

    12 positives in 20,000 rows are 3, 3, 2, 2 and 2 of the 4,000 rows of each of five folds.  pyspark's own folds are
    random: one of them may well have no positive at all.  Give the column to CrossValidator(foldCol="fold").

    Parameters
    ----------
    numFolds : int, at least 2, default=5
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN.
    idCols : list of str, optional
        Columns that identify a row; by default all columns.  Not looked at with groupCol or timeCol.
    groupCol : str, optional
        Column of a customer, patient or machine: all rows with one of its values are in one fold.  Values are told
        apart as strings; no nulls.
    timeCol : str, optional
        Timestamp, date or number, no nulls: folds are blocks of time, from the first to the last, cut where each has
        the same number of rows of the smallest class.
    foldCol : str, default="fold"
        Integer output column, in [0, numFolds).
    seed : int, default=0

    Raises
    ------
    SparkimbError
        In `fit`, before any job: missing columns, columns of a wrong type, a foldCol that exists, both groupCol and
        timeCol.  After the count: null labels, groups or times; too many groups or times (the message says what to
        do); blocks that cannot be told apart by time.
    NotEnoughSamplesError
        In `fit`: a class with fewer rows, or in fewer groups, than there are folds.

    Notes
    -----
    Rows:   as they come.  A class of n rows has n / numFolds in each fold, up to one row, and so have all rows
            together; exactly where idCols identify rows or rows differ, with a warning where they do not.  By hash:
            the same whatever the partitioning.
    Groups: dealt one by one, those with the largest share of a class first, each to the fold whose classes it needs
            least of: as even as such a deal allows.  A fold may then lack a class; `fit` warns.
    Time:   CrossValidator trains on all folds but one, later ones too: a blocked cross-validation, which respects that
            neighbours in time are alike but does look into the future.  For an expanding window train on
            `fold < i` and test on `fold == i` yourself.
    Cost:   fit: one aggregate over label and id columns, and for classes of a few rows up to one more for each fold but
            the last; with groupCol one aggregate, of which up to 500,000 counts come to the driver; with timeCol two.
            transform: lazy, a plain expression; with groupCol a broadcast join.  Rows of unknown labels or groups get
            null.

    References
    ----------
    .. [1] Roberts et al., "Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic
           structure", Ecography 40, 2017, 913-929.

    Examples
    --------
    >>> folds = StratifiedFolds(numFolds=5, idCols=["id"]).fit(train).transform(train)  # doctest: +SKIP
    >>> CrossValidator(foldCol="fold", numFolds=5, estimator=pipeline, ...).fit(folds)  # doctest: +SKIP
    """

    @keyword_only
    def __init__(
        self,
        *,
        numFolds: int = 5,
        labelCol: str = "label",
        idCols: Sequence[str] | None = None,
        groupCol: str | None = None,
        timeCol: str | None = None,
        foldCol: str = "fold",
        seed: int = 0,
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    def _fit(self, dataset: DataFrame) -> StratifiedFoldsModel:
        group, time = self.getGroupCol(), self.getTimeCol()
        if group is not None and time is not None:
            raise SparkimbError(
                f"StratifiedFolds has both groupCol '{group}' and timeCol '{time}', and a fold cannot keep to both. "
                "Leave one out."
            )
        self._check_fold_col(dataset)
        require_columns(dataset, labelCol=self.getLabelCol(), idCols=self.getIdCols(), groupCol=group, timeCol=time)
        check_label_type(dataset, self.getLabelCol())
        model = StratifiedFoldsModel()
        if group is not None:
            model.groups = self._deal_groups(dataset, group)
        elif time is not None:
            model.cuts = self._cut_time(dataset, time)
        else:
            model.keyCols = list(self.getIdCols() or dataset.columns)
            model.parts, model.labels = self._deal_rows(dataset, model.keyCols)
        return self._copyValues(model._resetUid(self.uid))

    def _deal_rows(self, dataset: DataFrame, keyCols: Sequence[str]) -> tuple[list[Part], list[Label]]:
        draw = _draw(dataset, keyCols, self.getSeed())
        histograms = draw_histograms(dataset, labelCol=self.getLabelCol(), strataCols=(), draw=draw)
        counts = rows_by_label(histograms, self.getLabelCol())
        self._check_enough(counts, "rows")
        sizes = even_sizes(counts, self.getNumFolds())
        parts = choose_parts(dataset, histograms=histograms, sizes=sizes, labelCol=self.getLabelCol(), draw=draw)
        return parts, list(counts)

    def _deal_groups(self, dataset: DataFrame, groupCol: str) -> dict[str, int]:
        counted = (
            dataset.groupBy(column(self.getLabelCol()).alias("label"), column(groupCol).cast("string").alias("group"))
            .agg(F.count("*").alias("rows"))
            .withColumn("draw", uniform("group", seed=self.getSeed(), purpose="StratifiedFolds.group"))
            .limit(MAX_GROUP_COUNTS + 1)
            .toArrow()
            .to_pydict()
        )
        if len(counted["rows"]) > MAX_GROUP_COUNTS:
            raise SparkimbError(
                f"groupCol '{groupCol}' has more groups than the driver can deal: over {MAX_GROUP_COUNTS:,} counts of "
                f"a class in a group. Deal larger groups: pmod(xxhash64({groupCol}), 100000) keeps yours together."
            )
        rows: Counter[Label] = Counter()
        for label, n in zip(counted["label"], counted["rows"], strict=True):
            rows[label] += n
        counts = check_labels(rows, self.getLabelCol())
        nulls = sum(n for name, n in zip(counted["group"], counted["rows"], strict=True) if name is None)
        if nulls:
            raise SparkimbError(f"groupCol '{groupCol}' is null in {nulls:,} rows. Fill it, or drop these rows.")
        self._check_enough(Counter(counted["label"]), f"groups of '{groupCol}'")
        places = {name: i for i, name in enumerate(sorted(set(counted["group"])))}
        classes = {label: i for i, label in enumerate(counts)}
        shares, draws = np.zeros((len(places), len(classes))), np.zeros(len(places))
        for label, name, n, draw in zip(*(counted[c] for c in ("label", "group", "rows", "draw")), strict=True):
            shares[places[name], classes[label]] = n / counts[label]
            draws[places[name]] = draw
        folds = deal_groups(shares, draws, self.getNumFolds())
        lacking = [label for label, i in classes.items() if len(set(folds[shares[:, i] > 0])) < self.getNumFolds()]
        if lacking:
            warnings.warn(
                f"StratifiedFolds: the groups of '{groupCol}' were dealt so that some of {self.getNumFolds()} folds "
                f"have no rows of the classes {lacking}. Use fewer folds, or smaller groups.",
                stacklevel=4,
            )
        return {name: int(folds[i]) for name, i in places.items()}

    def _cut_time(self, dataset: DataFrame, timeCol: str) -> list[float]:
        time = _number_of(dataset, timeCol)
        found = (
            dataset.groupBy(column(self.getLabelCol()).alias("label"))
            .agg(F.count("*").alias("rows"), F.count_if(time.isNull() | F.isnan(time)).alias("nulls"))
            .limit(MAX_CLASSES + 1)
            .toArrow()
            .to_pydict()
        )
        if len(found["rows"]) > MAX_CLASSES:
            raise SparkimbError(
                f"labelCol '{self.getLabelCol()}' has more than {MAX_CLASSES:,} different values. "
                "Is it a continuous column or an id? Bin it, or name another column."
            )
        counts = check_labels(dict(zip(found["label"], found["rows"], strict=True)), self.getLabelCol())
        if nulls := sum(found["nulls"]):
            raise SparkimbError(f"timeCol '{timeCol}' is null or NaN in {nulls:,} rows. Fill it, or drop these rows.")
        self._check_enough(counts, "rows")
        *_, smallest = counts
        times = (
            dataset.where(column(self.getLabelCol()) == F.lit(smallest))
            .groupBy(time.alias("time"))
            .agg(F.count("*").alias("rows"))
            .limit(MAX_TIMES + 1)
            .toArrow()
            .to_pandas()
        )
        if len(times) > MAX_TIMES:
            raise SparkimbError(
                f"timeCol '{timeCol}' has more than {MAX_TIMES:,} different values in class {smallest!r}. "
                "Round it: date_trunc('hour', ...)."
            )
        times = times.sort_values("time", ignore_index=True)
        reached = times["rows"].cumsum().to_numpy()
        wanted = np.cumsum(even_sizes({smallest: counts[smallest]}, self.getNumFolds())[smallest])[:-1]
        places = [int(np.abs(reached - rows).argmin()) for rows in wanted]
        if len({*places, len(times) - 1}) < self.getNumFolds():
            raise SparkimbError(
                f"timeCol '{timeCol}' has {len(times)} different values in class {smallest!r}, unevenly filled, so its "
                f"rows cannot be cut into {self.getNumFolds()} blocks. Use a finer timeCol, or fewer folds."
            )
        return [float(times["time"][place]) for place in places]


class StratifiedFoldsModel(_Params, Model):
    """Fitted StratifiedFolds: the draws of each fold, or the fold of each group, or the last time of each fold."""

    keyCols: list[str]
    labels: list[Label]
    parts: list[Part]
    groups: dict[str, int]
    cuts: list[float]

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._check_fold_col(dataset)
        group, time = self.getGroupCol(), self.getTimeCol()
        if group is not None:
            return self._join_groups(dataset, group)
        if time is not None:
            require_columns(dataset, timeCol=time)
            number = _number_of(dataset, time)
            return dataset.withColumn(self.getFoldCol(), F.when(number.isNotNull(), bucket(number, self.cuts)))
        require_columns(dataset, labelCol=self.getLabelCol(), idCols=self.keyCols)
        name = temporary_name(dataset, "draw")
        fold = part_of(self.parts, range(len(self.parts)), labelCol=self.getLabelCol(), draw=F.col(name))
        known = column(self.getLabelCol()).isin(*self.labels)
        fold = F.when(known, F.coalesce(fold, F.lit(len(self.parts))))
        drawn = with_draw(dataset, _draw(dataset, self.keyCols, self.getSeed()), name)
        return drawn.withColumn(self.getFoldCol(), fold).drop(name)

    def _join_groups(self, dataset: DataFrame, groupCol: str) -> DataFrame:
        require_columns(dataset, groupCol=groupCol)
        name = temporary_name(dataset, "group")
        schema = StructType([StructField(name, StringType()), StructField(self.getFoldCol(), IntegerType())])
        table = dataset.sparkSession.createDataFrame(list(self.groups.items()), schema)
        return dataset.join(F.broadcast(table), column(groupCol).cast("string") == F.col(name), "left").drop(name)

    def _state(self) -> dict[str, Any]:
        if self.getGroupCol() is not None:
            return {"groups": self.groups}
        if self.getTimeCol() is not None:
            return {"cuts": self.cuts}
        parts = [[[label, draws.intervals] for label, draws in part.items()] for part in self.parts]
        return {"keyCols": self.keyCols, "labels": self.labels, "parts": parts}

    def _set_state(self, state: dict[str, Any]) -> None:
        self.groups, self.cuts = state.get("groups", {}), state.get("cuts", [])
        self.keyCols, self.labels = state.get("keyCols", []), state.get("labels", [])
        self.parts = [
            {label: DrawSet(tuple((low, high) for low, high in intervals)) for label, intervals in part}
            for part in state.get("parts", [])
        ]


def even_sizes(counts: Mapping[Label, int], folds: int) -> dict[Label, list[int]]:
    """Divide each class evenly; the rows left over go round the folds from class to class, the smallest class first."""
    sizes, start = {}, 0
    for label in sorted(counts, key=lambda label: (counts[label], str(label))):
        whole, over = divmod(counts[label], folds)
        sizes[label] = [whole + ((i - start) % folds < over) for i in range(folds)]
        start += over
    return sizes


def deal_groups(shares: npt.NDArray[np.float64], draws: npt.NDArray[np.float64], folds: int) -> npt.NDArray[np.int64]:
    """Deal groups to folds, given the share that each (row) has of each class (column); ties go by draw.

    The largest first, each to the fold where it adds least to the sum of squares of the folds' shares, of equal ones to
    the emptiest.  So no fold stays empty if there are as many groups.
    """
    loads = np.zeros((folds, shares.shape[1]))
    dealt = np.zeros(len(shares), dtype=np.int64)
    for group in np.lexsort((draws, -shares.max(axis=1))):
        added = loads @ shares[group]
        fold = np.lexsort((loads.sum(axis=1), added))[0]
        loads[fold] += shares[group]
        dealt[group] = fold
    return dealt


def _draw(dataset: DataFrame, keyCols: Sequence[str], seed: int) -> Column:
    return uniform(*row_key(dataset, keyCols), seed=seed, purpose="StratifiedFolds.fold")


def _number_of(dataset: DataFrame, timeCol: str) -> Column:
    """Return a time as a double: microseconds, days, or the number itself."""
    found: DataType = dataset.schema[timeCol].dataType
    if isinstance(found, TimestampType | TimestampNTZType):
        return F.unix_micros(column(timeCol).cast("timestamp")).cast("double")
    if isinstance(found, DateType):
        return F.unix_date(column(timeCol)).cast("double")
    if isinstance(found, NumericType) and not isinstance(found, DecimalType):
        return column(timeCol).cast("double")
    raise SparkimbError(
        f"timeCol '{timeCol}' is of type {found.simpleString()}. It must be a timestamp, a date or a number: cast it."
    )
