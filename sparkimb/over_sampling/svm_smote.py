"""SVM-SMOTE: synthetic rows of the rows that support a class's border with the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import keyword_only
from pyspark.ml.classification import LinearSVC
from pyspark.ml.functions import array_to_vector
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sparkimb.neighbors.metrics import Floats, Rows
from sparkimb.neighbors.search import Unit
from sparkimb.neighbors.spaces import SAMPLE_BYTES, center_and_scale, feature_matrix, sampled
from sparkimb.over_sampling.interpolation import GapRule
from sparkimb.over_sampling.levels import NOT_ASKED, HasMNeighbors, LevelOverSampler, LevelOverSamplerModel
from sparkimb.over_sampling.synthesis import feature_bytes
from sparkimb.params import number, param
from sparkimb.strategy import Label

# Rows of a class, and of the classes that do not grow, that a border is learned from; of long rows SAMPLE_BYTES in all.
SVM_ROWS = 50_000
# Where LinearSVC stops, as scikit-learn's SVC does; to this it finds margins to a hundredth.
TOLERANCE, WITHIN_MARGIN = 1e-3, 1.01


@dataclass(frozen=True)
class Hyperplane:
    """Where a class ends: weights * features + intercept is positive for the class and 1 on its margin."""

    weights: tuple[float, ...]
    intercept: float

    def decision(self, features: Column, centers: Sequence[float]) -> Column:
        """Return the signed distance from the border in margins; what is missing is taken to be at its centre."""
        weights, fill = F.array(*map(F.lit, self.weights)), F.array(*map(F.lit, centers))

        def term(x: Column, i: Column) -> Column:
            found = F.isnotnull(x) & ~F.isnan(x) & (F.abs(x) < F.lit(float("inf")))
            return F.when(found, x.cast("double")).otherwise(F.get(fill, i)) * F.get(weights, i)

        return F.aggregate(F.transform(features, term), F.lit(self.intercept), lambda total, x: total + x)


class _Params(HasMNeighbors):
    outStep = param("outStep", "how far beyond a safe row, in distances of a neighbour", number("outStep", 0, 1))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(outStep=0.5)

    def getOutStep(self) -> float:
        """Return outStep."""
        return float(self.getOrDefault(self.outStep))


class SVMSMOTEModel(_Params, LevelOverSamplerModel):
    """A fitted SVMSMOTE: the borders of the classes, how many rows are made of each row that supports one."""

    hyperplanes: Mapping[Label, Hyperplane]
    centers: Sequence[float]  # of features that are missing

    def __init__(self) -> None:
        super().__init__()
        self.hyperplanes, self.centers = {}, []

    def _asked(self) -> Column:
        """Say of a row whether it is on its class's margin or within."""
        supports = F.lit(False)
        for label, hyperplane in self.hyperplanes.items():
            decision = hyperplane.decision(F.col("features"), self.centers)
            supports = F.when(F.col("label") == F.lit(label), decision <= WITHIN_MARGIN).otherwise(supports)
        return supports

    def _gap_rule(self) -> GapRule:
        return partial(_towards_or_away, m=self.getMNeighbors(), out_step=self.getOutStep())

    def _state(self) -> dict[str, Any]:
        planes = [[label, plane.weights, plane.intercept] for label, plane in self.hyperplanes.items()]
        return {**super()._state(), "hyperplanes": planes, "centers": self.centers}

    def _set_state(self, state: dict[str, Any]) -> None:
        super()._set_state(state)
        self.hyperplanes = {label: Hyperplane(tuple(weights), b) for label, weights, b in state["hyperplanes"]}
        self.centers = state["centers"]


class SVMSMOTE(_Params, LevelOverSampler[SVMSMOTEModel]):
    """Add synthetic rows along a class's border, which a support vector machine finds, and push it outwards.

    Rows are made of the support rows of the class only: those on the wrong side of the border or within its margin.
    Where most rows around one are of other classes, the rows made of it lie between it and neighbours of its class;
    where they are not, beyond it, so that the class grows into empty ground.

    Parameters
    ----------
    featuresCol : str, default="features"
        Vector, or array of doubles or floats, of one length up to 4,096.  Not looked at if inputCols is set.
    inputCols : list of str, optional
        Numeric scalar feature columns.  Values of integer columns are rounded in rows made.
    categoricalCols : list of str, optional
        Not taken: use SMOTENC.
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN.
    samplingStrategy : str, float or dict, default="auto"
        Rows per class: see `sparkimb.strategy.resolve`.
    kNeighbors : int in [1, rows of the class) or "auto", default=5
        Neighbours that a row's synthetic rows are drawn towards.  "auto" takes 5, or in a class of 5 rows or fewer all
        the others, and logs so.
    mNeighbors : int in [1, rows), default=10
        Nearest rows of every class that tell noise (all are of other classes), danger (half or more) and safe ground.
    outStep : float in [0, 1], default=0.5
        How far beyond a safe row its rows are made, at most, in distances to the neighbour they are drawn away from.
    neighborSearch : {"auto", "exact", "cells", "partition"}, default="auto"
        How neighbours are found, in the class and in all rows: see `sparkimb.neighbors.nearest_neighbors`.
    scale : {"robust", "standard", "none"}, default="robust"
        What a feature is divided by for distances: its interquartile range, its standard deviation, or nothing (as in
        imbalanced-learn).  Learned from 20,000 rows at most, of the class or of all rows, as the search is.
    idCols : list of str, optional
        Columns that identify a row.  Without them all columns do, and `fit` needs one more job.
    validationIndicatorCol : str, optional
        Boolean column; rows where it is true are kept as they are, not counted and not looked at.  False in rows made.
    syntheticCol : str, optional
        Output column: true in rows made.
    lineageCol : str, optional
        Output column, null in original rows: struct of `parent` and `neighbor` (structs of idCols) and `gap`, how far
        the row made lies on the way from the one to the other: in [0, 1), or in (-outStep, 0] for one beyond a row.
    maxGrowth : float in [1, inf), default=10.0
        Largest output allowed, as a multiple of the rows counted.
    seed : int, default=0

    Raises
    ------
    NotEnoughSamplesError
        In `fit`, after the count, if a class to grow has kNeighbors rows or fewer, or there are mNeighbors rows or
        fewer.
    SparkimbError
        In `fit`, before any job: missing columns, columns of the wrong type, output columns that exist.  After the
        count: null labels, a single class, targets below a class's rows, growth beyond maxGrowth, vectors longer than
        4,096, and with neighborSearch "exact" more than 16 million numbers in all rows.  After the search: a class to
        grow whose support rows all are noise.

    Notes
    -----
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ.  Original rows are kept;
            rows made have nulls in every column but features and label.
            All support rows but noise have equally many rows made of them; imbalanced-learn divides them between rows
            in danger and safe rows by a draw.
    Nulls:  a feature that is null, NaN or infinite lies at the feature's centre for distances.  A row made takes it
            from the other parent; where neither has it, it is null (NaN in vectors and arrays).
    Border: a linear one of the class against the rest, by pyspark.ml's LinearSVC on features that it standardises, with
            the weight of scikit-learn's C=1 (imbalanced-learn: SVC with a Gaussian kernel, one class against another).
            It is learned from about 50,000 rows of each class to grow and of all others together, weighted as all of
            them, or from fewer where 64 MB hold no more.
    Cost:   fit: one aggregate over label and id columns; a search, which shuffles every row and passes its features
            through Python; without idCols a sampled job to warn of duplicates; for vectors and arrays without metadata
            a look at one row; where rows are more than 16 million numbers a sample of 20,000, collected.  Where few
            rows share a level the search may run twice.  resample: lazy; the same search again, then one more shuffle
            of the rows of the classes that grow.
            Besides, in fit: the sample for the borders, collected, and LinearSVC in one task for each class to grow,
            which runs some tens of jobs on it.
    Same input and seed give the same rows, whatever the partitioning.

    References
    ----------
    .. [1] Nguyen, Cooper and Kamei, "Borderline over-sampling for imbalanced data classification", International
       Journal of Knowledge Engineering and Soft Data Paradigms 3(1), 2011, 4-21.

    Examples
    --------
    >>> SVMSMOTE(inputCols=["amount", "age"], idCols=["id"]).fitResample(train)  # doctest: +SKIP
    """

    model = SVMSMOTEModel

    @keyword_only
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        inputCols: Sequence[str] | None = None,
        categoricalCols: Sequence[str] | None = None,
        labelCol: str = "label",
        samplingStrategy: str | float | Mapping[Any, int] = "auto",
        kNeighbors: int | str = 5,
        mNeighbors: int = 10,
        outStep: float = 0.5,
        neighborSearch: str = "auto",
        scale: str = "robust",
        idCols: Sequence[str] | None = None,
        validationIndicatorCol: str | None = None,
        syntheticCol: str | None = None,
        lineageCol: str | None = None,
        maxGrowth: float = 10.0,
        seed: int = 0,
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    def _learn(self, model: SVMSMOTEModel, rows: DataFrame, counts: Mapping[Label, int]) -> None:
        super()._learn(model, rows, counts)
        codes = {label: code for code, label in enumerate(counts)}
        rows_of = {codes[label]: n for label, n in counts.items()}
        total = sum(model.plan.counts.values())
        if others := total - sum(counts.values()):
            rows_of[-1] = others
        wanted = max(1, min(SVM_ROWS, SAMPLE_BYTES // feature_bytes(rows, model.numFeatures) // len(rows_of)))
        sample = sampled(model._grouped(rows).select("group", "key", "features"), rows_of, wanted)
        values = np.concatenate([feature_matrix(table) for table in sample.values()]).astype(np.float64)
        center, _ = center_and_scale(values, "robust")
        model.centers = center.tolist()
        filled = np.where(np.isfinite(values), values, center)
        # In one partition and in the order of the keys, so that LinearSVC adds up the same numbers every time.
        training = rows.sparkSession.createDataFrame(
            pa.table(
                {
                    "group": np.concatenate([np.full(len(table), group) for group, table in sample.items()]),
                    "weight": np.concatenate(
                        [np.full(len(table), rows_of[group] / len(table)) for group, table in sample.items()]
                    ),
                    "features": pa.FixedSizeListArray.from_arrays(pa.array(filled.ravel()), filled.shape[1]).cast(
                        pa.list_(pa.float64())
                    ),
                }
            )
        ).coalesce(1)
        model.hyperplanes = {label: _border(training, code, total) for label, code in codes.items()}

    def _weight(self, level: int) -> float:
        return float(level not in (NOT_ASKED, self.getMNeighbors()))

    def _no_parents(self, label: Label, levels: Mapping[int, int]) -> str:
        m = self.getMNeighbors()
        return (
            f"SVMSMOTE.mNeighbors is {m}, but class {label!r} has no support row that is not noise: of its "
            f"{sum(levels.values()):,} rows {levels.get(m, 0):,} are on the margin or within, each with rows of other "
            f"classes only among its {m} nearest. Raise mNeighbors, or use SMOTE for this class."
        )


def _border(training: DataFrame, code: int, total: int) -> Hyperplane:
    """Learn the border of one class with the rest."""
    learner = LinearSVC(featuresCol="vector", labelCol="target", weightCol="weight", regParam=1 / total, tol=TOLERANCE)
    target = F.when(F.col("group") == code, 1.0).otherwise(0.0)
    learned = learner.fit(
        training.select("weight", target.alias("target"), array_to_vector(F.col("features")).alias("vector"))
    )
    return Hyperplane(tuple(learned.coefficients.toArray().tolist()), float(learned.intercept))


def _towards_or_away(unit: Unit, parents: Rows, others: Rows, draws: Floats, *, m: int, out_step: float) -> Floats:
    """Return gaps in [0, 1) for parents in danger, in (-out_step, 0] for safe ones."""
    in_danger = 2 * unit.column("stratum0")[parents] >= m
    gaps: Floats = np.where(in_danger, draws, -out_step * draws)
    return gaps
