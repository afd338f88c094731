"""InstanceHardnessFolds: folds that are equally hard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark import keyword_only
from pyspark.ml.base import Estimator, Model
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from sparkimb.columns import column, require_columns, temporary_name
from sparkimb.draws import CUTS, LEVELS, bucket, bucket_interval, row_key, uniform
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.class_scores import HasProbabilityCol, entries, require_scores
from sparkimb.evaluation.inputs import fault_code, refuse_faults, require_numeric
from sparkimb.evaluation.stratified_folds import FoldParams
from sparkimb.strategy import Label

# Rows of a class in a bucket of hardness, as counts, that the driver takes in: those of 1,700 classes.
MAX_COUNTS = 1_000_000
BUCKET_NUMBERS = LEVELS * CUTS


class _Params(HasProbabilityCol, FoldParams):
    def _columns(self, dataset: DataFrame) -> tuple[Column, Column, dict[str, Column]]:
        """Return the class of a row, its hardness in [0, 1), and the faults that a row may have."""
        name = self.getProbabilityCol()
        require_columns(dataset, labelCol=self.getLabelCol(), idCols=self.getIdCols())
        require_numeric(dataset, labelCol=self.getLabelCol())
        require_scores(dataset, name, by="probabilityCol", several=True)
        scores, label = entries(dataset, name), column(self.getLabelCol()).cast("double")
        is_class = (label >= 0) & (label < F.size(scores)) & (label == F.floor(label))
        probability = F.get(scores, label.cast("int"))
        faults = {
            f"null probabilityCol '{name}'": scores.isNull(),
            f"labelCol '{self.getLabelCol()}' null, or not the index of an entry of probabilityCol": ~F.coalesce(
                is_class, F.lit(False)
            ),
            f"probabilityCol '{name}' null, NaN or outside [0, 1] at the label": ~F.coalesce(
                probability.between(0, 1), F.lit(False)
            ),
        }
        return label.cast("int"), F.least(1 - probability, F.lit(1 - 2.0**-53)), faults


class InstanceHardnessFolds(_Params, Estimator["InstanceHardnessFoldsModel"]):
    """Number the folds of a cross-validation so that each has as many hard rows of every class.

    A row is hard if a model that did not see it gives its class a small probability.  Where a rare class has few hard
    rows, chance deals them unevenly and scores differ from fold to fold; here the folds' scores hardly do, which makes
    models easier to compare but the spread no measure of uncertainty.  Else use `StratifiedFolds`.

    Parameters
    ----------
    numFolds : int, at least 2, default=5
    labelCol : str, default="label"
        Index of the class, a number 0, 1, ...
    probabilityCol : str, default="probability"
        Vector, or array of numbers in [0, 1], one per class: of a model that was not trained on the row
        (`out_of_fold_predictions`).  Hardness is 1 - the entry of the row's class.
    idCols : list of str, optional
        Columns that identify a row, which order equally hard rows; by default all columns.
    foldCol : str, default="fold"
        Integer output column, in [0, numFolds).
    seed : int, default=0

    Raises
    ------
    SparkimbError
        In `fit`: missing columns, columns of a wrong type, a foldCol that exists; labels or probabilities out of their
        range (with the number of rows); no rows.
    NotEnoughSamplesError
        In `fit`: a class with fewer rows than there are folds.

    Notes
    -----
    Rows:   as they come.  The rows of a class, ordered by hardness, are dealt to the folds in turn, and the next class
            goes on where the last one stopped: any run of numFolds rows of like hardness is spread over all folds, and
            a class of n rows has n / numFolds in each, up to one.  The same whatever the partitioning.
    Cost:   fit: one aggregate, of 568 counts a class.  transform: lazy; a window over class and bucket of hardness,
            which shuffles and sorts the rows, one bucket of a class in one task, on disk where memory is short.  The
            buckets are finest where rows are easy; rows of one class with one probability are all in one.
    Transform the rows that it was fitted on: others shift the ranks.

    References
    ----------
    .. [1] Smith, Martinez and Giraud-Carrier, "An instance level analysis of data complexity", Machine Learning 95,
           2014, 225-256 (hardness; the folds are those of imbalanced-learn's InstanceHardnessCV).

    Examples
    --------
    >>> predicted = out_of_fold_predictions(folds, learner, numFolds=5).drop("fold")  # doctest: +SKIP
    >>> InstanceHardnessFolds(idCols=["id"]).fit(predicted).transform(predicted)  # doctest: +SKIP
    """

    @keyword_only
    def __init__(
        self,
        *,
        numFolds: int = 5,
        labelCol: str = "label",
        probabilityCol: str = "probability",
        idCols: Sequence[str] | None = None,
        foldCol: str = "fold",
        seed: int = 0,
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    def _fit(self, dataset: DataFrame) -> InstanceHardnessFoldsModel:
        self._check_fold_col(dataset)
        label, hardness, faults = self._columns(dataset)
        found = (
            dataset.select(fault_code(faults).alias("fault"), label.alias("label"), hardness.alias("hardness"))
            .select(
                "fault",
                F.when(F.col("fault") == 0, F.col("label")).alias("label"),
                F.when(F.col("fault") == 0, bucket(F.col("hardness"))).alias("bucket"),
            )
            .groupBy("fault", "label", "bucket")
            .agg(F.count("*").alias("rows"))
            .limit(MAX_COUNTS + 1)
            .toArrow()
            .to_pandas()
        )
        if len(found) > MAX_COUNTS:
            raise SparkimbError(
                f"labelCol '{self.getLabelCol()}' has too many classes: their rows fill more than {MAX_COUNTS:,} "
                "buckets of hardness. Is it the label?"
            )
        refuse_faults(faults, found.groupby("fault")["rows"].sum().to_dict())
        rows = {
            (int(c), int(b)): int(n) for c, b, n in zip(found["label"], found["bucket"], found["rows"], strict=True)
        }
        counts: Counter[Label] = Counter()
        for (c, _), n in rows.items():
            counts[c] += n
        self._check_enough(counts, "rows")
        model = InstanceHardnessFoldsModel()
        model.starts = _starts(rows, self.getNumFolds())
        model.keyCols = list(self.getIdCols() or dataset.columns)
        return self._copyValues(model._resetUid(self.uid))


class InstanceHardnessFoldsModel(_Params, Model):
    """Fitted InstanceHardnessFolds: for each class and number of a bucket of hardness the fold of its easiest row."""

    starts: list[list[int]]
    keyCols: list[str]

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._check_fold_col(dataset)
        require_columns(dataset, idCols=self.keyCols)
        label, hardness, faults = self._columns(dataset)
        names = {stem: temporary_name(dataset, stem) for stem in ("label", "hardness", "bucket", "draw")}
        draw = uniform(*row_key(dataset, self.keyCols), seed=self.getSeed(), purpose="InstanceHardnessFolds.order")
        sound = fault_code(faults) == 0
        ranked = dataset.select(
            "*",
            F.when(sound, label).alias(names["label"]),
            F.when(sound, hardness).alias(names["hardness"]),
            draw.alias(names["draw"]),
        ).withColumn(names["bucket"], bucket(F.col(names["hardness"])))
        order = Window.partitionBy(names["label"], names["bucket"]).orderBy(names["hardness"], names["draw"])
        # One literal for all classes, where F.array would hold one for each number.
        all_starts = F.split(F.lit(" ".join(str(fold) for starts in self.starts for fold in starts)), " ")
        start = F.get(all_starts.cast("array<int>"), F.col(names["label"]) * BUCKET_NUMBERS + F.col(names["bucket"]))
        fold = (start + F.row_number().over(order) - 1) % self.getNumFolds()
        return ranked.withColumn(self.getFoldCol(), fold.cast("int")).drop(*names.values())

    def _state(self) -> dict[str, Any]:
        return {"keyCols": self.keyCols, "starts": self.starts}

    def _set_state(self, state: dict[str, Any]) -> None:
        self.keyCols, self.starts = state["keyCols"], state["starts"]


def _starts(rows: Mapping[tuple[int, int], int], folds: int) -> list[list[int]]:
    """Return the fold in which each bucket of each class begins, if they follow each other by class and hardness."""
    starts = [[0] * BUCKET_NUMBERS for _ in range(max(c for c, _ in rows) + 1)]
    dealt = 0
    for c, number in sorted(rows, key=lambda group: (group[0], bucket_interval(group[1]))):
        starts[c][number] = dealt % folds
        dealt += rows[c, number]
    return starts
