"""Mistakes that cost unequally: weights to train with, and the decision of least expected cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, TypeAlias

from pyspark import keyword_only
from pyspark.ml.base import Estimator, Model, Transformer
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, NumericType, StringType

from sparkimb.columns import check_label_type, column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.class_scores import (
    HasLabels,
    HasPredictionCol,
    HasProbabilityCol,
    class_score,
    class_scores,
    label_of_largest,
    require_scores,
)
from sparkimb.evaluation.inputs import bad_weight, fault_code, refuse_faults, require_numeric
from sparkimb.params import CheckedParams, HasLabelCol, column_name, label_map, number, param
from sparkimb.persistence import JsonStage
from sparkimb.statistics import require_two_classes
from sparkimb.strategy import Label, match_label

Cost: TypeAlias = float | str  # a number, or the name of a column of numbers


def _cost(value: Any) -> Cost:
    return column_name("a cost")(value) if isinstance(value, str) else number("a cost", 0)(value)


def _cost_matrix(value: Any) -> dict[str, dict[str, Cost]]:
    """Convert to the cost of each pair of labels, as strings; 0 for the right prediction where it is left out."""
    given: dict[str, dict[str, Cost]] = label_map("costs", label_map("costs of a label", _cost))(value)
    labels = {*given, *(prediction for row in given.values() for prediction in row)}
    lacking = [f"{label} taken for {p}" for label in labels for p in labels - {label} if p not in given.get(label, {})]
    if len(labels) < 2 or lacking:
        raise SparkimbError(
            f"costs names the labels {sorted(labels)}, and lacks: {', '.join(sorted(lacking)) or 'a second label'}. "
            "Give {label: {prediction: cost}} with the cost of every mistake."
        )
    return {label: {label: 0.0, **row} for label, row in given.items()}


class HasCosts(CheckedParams):
    """What it costs to take a label for another: `{label: {prediction: cost}}`, a number or a column of numbers."""

    costs = param("costs", "cost by label and prediction", _cost_matrix)

    def getCosts(self) -> dict[str, dict[str, Cost]]:
        """Return costs, with all pairs of labels, as strings."""
        if not self.isSet(self.costs):
            raise SparkimbError(f"{type(self).__name__}.costs is not set. Give {{label: {{prediction: cost}}}}.")
        value: dict[str, dict[str, Cost]] = self.getOrDefault(self.costs)
        return value

    def _cost_columns(self) -> list[str]:
        named = {cost for row in self.getCosts().values() for cost in row.values() if isinstance(cost, str)}
        return sorted(named)

    def _check_costs(self, dataset: DataFrame) -> None:
        require_columns(dataset, costs=self._cost_columns())
        for name in self._cost_columns():
            require_numeric(dataset, costs=name)


def _value(cost: Cost) -> Column:
    return column(cost).cast("double") if isinstance(cost, str) else F.lit(cost)


class _WeightParams(HasLabelCol, HasCosts, JsonStage):
    weightCol = param("weightCol", "weight column, written; multiplied where it exists", column_name("weightCol"))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(weightCol="weight")

    def getWeightCol(self) -> str:
        """Return weightCol."""
        return str(self.getOrDefault(self.weightCol))

    def _check_weight(self, dataset: DataFrame) -> None:
        if self.getWeightCol() in dataset.columns:
            require_numeric(dataset, weightCol=self.getWeightCol())

    def _labels(self, dataset: DataFrame) -> dict[Label, str]:
        """Return the labels that costs names, of the type of the label column, and how costs names them."""
        found = dataset.schema[self.getLabelCol()].dataType
        return {_typed(key, found, self.getLabelCol()): key for key in self.getCosts()}

    def stakes(self) -> dict[str, float] | None:
        """Return what a row of each class weighs, up to one factor; None where that is not set or differs by row."""
        if not self.isSet(self.costs) or self._cost_columns():
            return None
        return {
            key: math.fsum(float(cost) - float(row[key]) for cost in row.values())
            for key, row in self.getCosts().items()
        }

    def _stake(self, dataset: DataFrame) -> Column:
        """Return what it costs more to mistake a row than to predict it rightly; null where its label has no costs."""
        stake = F.when(F.lit(False), F.lit(0.0))
        for label, key in self._labels(dataset).items():
            row = self.getCosts()[key]
            more = [_value(cost) - _value(row[key]) for prediction, cost in row.items() if prediction != key]
            stake = stake.when(column(self.getLabelCol()) == F.lit(label), reduce(add, more))
        return stake


class CostSensitive(_WeightParams, Estimator["CostSensitiveModel"]):
    """Weigh rows by what it costs to mistake them, so that a learner makes dear mistakes seldom.

    For learners that take `weightCol`.  Where probabilities are well calibrated, leave the training as it is and decide
    by BayesDecision: that needs no new training when the costs change.

    Parameters
    ----------
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN in the training rows.
    costs : dict of dict, optional
        Cost by label and prediction, `{0: {1: 1.0}, 1: {0: "amount"}}`: a number in [0, inf), or the name of a column
        of such numbers, a cost for each row.  For every mistake between two of the labels; 0 for a right prediction
        that is left out.  Must be set to fit.
    weightCol : str, default="weight"
        Output column.  If the dataset has it, its weights are multiplied (it must be numeric); else it is added.

    Raises
    ------
    SparkimbError
        In `fit`: no costs; columns missing or of a wrong type; null labels, labels without costs, costs that are null,
        NaN, infinite or less than that of the right prediction (with the number of rows); no rows, a single class, all
        costs 0.

    Notes
    -----
    Rows:   as they come.  A row's weight is the sum over the other labels of what that mistake costs more than the
            right prediction: exact for two classes [1]_, also with a cost for each row [3]_; the usual approximation
            for more [2]_.  Scaled to mean 1 over the training rows.  Where label or cost is null, unknown or its column
            missing, as it may be at scoring time, 1.0.
    Cost:   fit: one aggregate.  transform: lazy, one column expression.

    References
    ----------
    .. [1] Elkan, "The foundations of cost-sensitive learning", IJCAI, 2001, 973-978.
    .. [2] Ting, "An instance-weighting method to induce cost-sensitive trees", IEEE Transactions on Knowledge and Data
           Engineering 14, 2002, 659-665.
    .. [3] Zadrozny, Langford and Abe, "Cost-sensitive learning by cost-proportionate example weighting", ICDM, 2003,
           435-442.

    Examples
    --------
    >>> CostSensitive(costs={0: {1: 1.0}, 1: {0: 100.0}}).fit(train).transform(train)   # doctest: +SKIP
    """

    @keyword_only
    def __init__(
        self,
        *,
        labelCol: str = "label",
        costs: Mapping[Any, Mapping[Any, Cost]] | None = None,
        weightCol: str = "weight",
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    def _fit(self, dataset: DataFrame) -> CostSensitiveModel:
        name = self.getLabelCol()
        require_columns(dataset, labelCol=name)
        check_label_type(dataset, name)
        self._check_costs(dataset)
        self._check_weight(dataset)
        labels = self._labels(dataset)
        stake = self._stake(dataset)
        faults = {
            f"a labelCol '{name}' that costs does not name ({', '.join(map(repr, labels))})": ~_one_of(name, labels),
            "costs null, NaN, infinite or less than that of the right prediction": bad_weight(stake),
        }
        code = fault_code(faults)
        found = dataset.agg(
            F.sum(F.when(code == 0, stake)),
            *(F.count_if(code == number) for number in range(len(faults) + 1)),
            *(F.count_if(column(name) == F.lit(label)) for label in labels),
        ).first()
        assert found is not None
        total, (rows, *bad), counts = found[0], found[1 : len(faults) + 2], found[len(faults) + 2 :]
        refuse_faults(faults, dict(enumerate([rows, *bad])))
        require_two_classes({label: n for label, n in zip(labels, counts, strict=True) if n}, name)
        if not total > 0:
            raise SparkimbError("The costs of all rows are 0, so no row would count. Give some mistake a cost above 0.")
        model = CostSensitiveModel()
        model.meanCost = total / rows
        return self._copyValues(model._resetUid(self.uid))


class CostSensitiveModel(_WeightParams, Model):
    """A fitted CostSensitive: `meanCost` is what the costs of the training rows are divided by."""

    meanCost: float

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._check_weight(dataset)
        weight = F.lit(1.0)
        if {self.getLabelCol(), *self._cost_columns()} <= set(dataset.columns):
            self._check_costs(dataset)
            weight = F.coalesce(self._stake(dataset) / F.lit(self.meanCost), weight)
        if self.getWeightCol() in dataset.columns:
            weight = weight * column(self.getWeightCol())
        return dataset.withColumn(self.getWeightCol(), weight)

    def _state(self) -> dict[str, Any]:
        return {"meanCost": self.meanCost}

    def _set_state(self, state: dict[str, Any]) -> None:
        self.meanCost = state["meanCost"]


class BayesDecision(HasProbabilityCol, HasPredictionCol, HasLabels, HasCosts, JsonStage, Transformer):
    """Decide for the class whose expected cost is least, given calibrated probabilities.

    The probabilities must be those of natural rows: correct them after resampling or weighting.

    Parameters
    ----------
    costs : dict of dict, optional
        Cost by label and prediction, `{0: {1: 1.0}, 1: {0: "amount"}}`: a number in [0, inf), or the name of a column
        of numbers, a cost for each row.  For every mistake between two of the labels; 0 for a right prediction that is
        left out.  Must be set to transform.
    probabilityCol : str, default="probability"
        Vector or array with one entry per class; or, for two classes, a number: the second label's.
    predictionCol : str, default="prediction"
        Output column; replaced if it is there.  It holds labels.
    labels : list of str, bool, int or float, default=[0.0, 1.0]
        The classes in the order of the entries of probabilityCol.  For string labels that were indexed,
        `StringIndexerModel.labels`.

    Raises
    ------
    SparkimbError
        In `transform`: no costs, or not of just these labels; columns missing or of a wrong type.

    Notes
    -----
    Rows:   as they come.  The decision is the label j with the least sum over i of p_i C_ij, of equals the first; null
            where a probability or cost is null or NaN, or there are not as many probabilities as labels.  For two
            classes, right predictions being free, it is the second label where its probability is above
            C_01 / (C_01 + C_10), in each row where costs are columns.
    Cost:   a plain expression, also on a stream.

    References
    ----------
    .. [1] Elkan, "The foundations of cost-sensitive learning", IJCAI, 2001, 973-978.

    Examples
    --------
    >>> BayesDecision(costs={0: {1: 5.0}, 1: {0: "amount"}}).transform(scored)   # doctest: +SKIP
    """

    @keyword_only
    def __init__(
        self,
        *,
        costs: Mapping[Any, Mapping[Any, Cost]] | None = None,
        probabilityCol: str = "probability",
        predictionCol: str = "prediction",
        labels: Sequence[Label] = [0.0, 1.0],  # copied by the converter
    ):
        super().__init__()
        self._setDefault(labels=[0.0, 1.0])
        self.setParams(**self._input_kwargs)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._check_costs(dataset)
        name, (labels, costs) = self.getProbabilityCol(), self._ordered()
        require_scores(dataset, name, by="probabilityCol", several=len(labels) > 2)
        if isinstance(dataset.schema[name].dataType, NumericType):
            second = class_score(dataset, name, lambda: 1)
            probabilities = [1 - second, second]
        else:
            probabilities = class_scores(dataset, name, len(labels))
        # 0 less the cost: of equals the first is the largest too.
        saved = [
            reduce(add, (-p * _value(row[j]) for p, row in zip(probabilities, costs, strict=True)))
            for j in range(len(labels))
        ]
        return dataset.withColumn(self.getPredictionCol(), label_of_largest(saved, labels))

    def _ordered(self) -> tuple[list[Label], list[list[Cost]]]:
        """Return the labels, and the costs in their order."""
        labels: list[Label] = self.getOrDefault(self.labels)
        costs = self.getCosts()
        found = {match_label(key, dict.fromkeys(labels)): key for key in costs}
        if None in found or len(found) < len(labels):
            raise SparkimbError(
                f"BayesDecision.costs names the labels {list(costs)}, but labels are {labels}. "
                "Give costs for each of the labels, and for no other."
            )
        return labels, [[costs[found[label]][found[prediction]] for prediction in labels] for label in labels]


def _one_of(name: str, labels: Mapping[Label, str]) -> Column:
    return F.coalesce(column(name).isin(*labels), F.lit(False))


def _typed(key: str, dataType: Any, labelCol: str) -> Label:
    """Turn a label that JSON holds as a string back into one of the column's type."""
    if isinstance(dataType, StringType):
        return key
    if isinstance(dataType, BooleanType) and key.lower() in ("true", "false"):
        return key.lower() == "true"
    try:
        typed = float(key)
    except ValueError:
        typed = math.nan
    if isinstance(dataType, BooleanType) or not math.isfinite(typed):
        raise SparkimbError(
            f"costs names the label '{key}', but labelCol '{labelCol}' is of type {dataType.simpleString()}. "
            "Name the labels as they stand in the column."
        )
    return typed
