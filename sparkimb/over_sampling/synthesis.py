"""What the SMOTE family shares: which rows get how many synthetic ones, and the way to the tasks that make them."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from pyspark.ml.functions import array_to_vector
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    DataType,
    DoubleType,
    FloatType,
    IntegerType,
    StructField,
    StructType,
)

from sparkimb.base import OverSamplerParams, Sampler, SamplerModel
from sparkimb.columns import (
    Features,
    case_of,
    cast_like,
    column,
    feature_array,
    number_type,
    require_columns,
)
from sparkimb.draws import DrawSet, row_key
from sparkimb.errors import NotEnoughSamplesError, SparkimbError
from sparkimb.exact import choose_draws, largest_remainder
from sparkimb.neighbors.metrics import Floats, Rows
from sparkimb.neighbors.search import Unit, Work, by_unit
from sparkimb.neighbors.spaces import SCALINGS, SEARCHES, Space, check_features, learn_spaces
from sparkimb.neighbors.table import NeighborQuality, neighbor_quality
from sparkimb.params import choice, integer, param
from sparkimb.statistics import Group, Histogram, number_of_features
from sparkimb.strategy import Label, SamplingPlan, resolve

M = TypeVar("M", bound="SyntheticOverSamplerModel")
Copies: TypeAlias = dict[Group, tuple[int, DrawSet]]  # rows made of each row of a group, and the draws of one more

logger = logging.getLogger(__name__)

AUTO_NEIGHBORS = 5
BATCH_ROWS = 32_768  # rows made at a time: 8 MB of 30 doubles


def _neighbors(value: Any) -> int | str:
    return choice("kNeighbors", ["auto"])(value) if isinstance(value, str) else integer("kNeighbors", 1)(value)


class SyntheticParams(OverSamplerParams):
    """The Params of every sampler that makes rows between neighbours, and of its model."""

    kNeighbors = param("kNeighbors", "neighbours of a row, or 'auto'", _neighbors)
    neighborSearch = param("neighborSearch", "how neighbours are found", choice("neighborSearch", SEARCHES))
    scale = param("scale", "how features are scaled for distances", choice("scale", SCALINGS))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(kNeighbors=AUTO_NEIGHBORS, neighborSearch="auto", scale="robust")

    def getKNeighbors(self) -> int | str:
        """Return kNeighbors."""
        value: int | str = self.getOrDefault(self.kNeighbors)
        return value

    def getNeighborSearch(self) -> str:
        """Return neighborSearch."""
        return str(self.getOrDefault(self.neighborSearch))

    def getScale(self) -> str:
        """Return scale."""
        return str(self.getOrDefault(self.scale))

    def _rows(self, dataset: DataFrame, features: Features, keyCols: Sequence[str], d: int) -> DataFrame:
        """Return of each training row its key, its draw and its features: what searching and making rows need."""
        selected = {
            "label": column(self.getLabelCol()),
            "key": F.xxhash64(*row_key(dataset, keyCols)),
            "draw": self._key_draw(dataset, keyCols, "copy"),
            "features": feature_array(dataset, features, d),
            **{f"c{i}": column(name) for i, name in enumerate(features.categorical)},
        }
        if self.getLineageCol() is not None:
            selected["ids"] = F.struct(*(column(name) for name in keyCols))
        return dataset.where(self._is_training()).select(*(value.alias(name) for name, value in selected.items()))


class SyntheticOverSampler(SyntheticParams, Sampler[M]):
    """A sampler that makes rows from a row and its neighbours."""

    kind = "over"
    model: ClassVar[type[Any]]

    def _fit(self, dataset: DataFrame) -> M:
        self._check_schema(dataset, **self._feature_columns())
        self._check_outputs(dataset)
        features = self._features(dataset)
        self._check_features(features)
        keyCols = self.getIdCols() or dataset.columns
        training = dataset.where(self._is_training())
        histograms, counts = self._histograms(training, self._key_draw(training, keyCols, "copy"))
        plan = resolve(self.getSamplingStrategy(), counts, "over")
        self._check_growth(plan)
        neighbors = {label: self._enough_neighbors(label, counts[label]) for label in plan.changed}
        model: M = self.model()
        self._copyValues(model._resetUid(self.uid))
        model.plan, model.keyCols, model.neighbors = plan, list(keyCols), neighbors
        model.numFeatures = number_of_features(dataset, features) if plan.changed else 0
        check_features(model.numFeatures, type(self).__name__)
        model.spaces, model.copies = {}, {}
        if plan.changed:
            rows = model._rows(dataset, features, keyCols, model.numFeatures)
            self._learn(model, rows, {label: counts[label] for label in plan.changed})
            self._allot(model, rows, {group: histograms[group] for group in histograms if group[0] in plan.changed})
            self._warn_of_duplicates(training, keyCols, {label: counts[label] for label in plan.changed})
        return model

    def _check_features(self, features: Features) -> None:
        if features.categorical:
            raise SparkimbError(
                f"{type(self).__name__} takes numbers only, but categoricalCols is {list(features.categorical)}. "
                "Use SMOTENC, or SMOTEN where all features are categories."
            )

    def _enough_neighbors(self, label: Label, rows: int) -> int:
        """Return the neighbours to look for in a class, or say that it has too few rows."""
        wanted = self.getKNeighbors()
        name = type(self).__name__
        if wanted == "auto" and rows > 1:
            if rows <= AUTO_NEIGHBORS:
                logger.warning("%s.kNeighbors is %d for class %r, which has %d rows.", name, rows - 1, label, rows)
            return min(AUTO_NEIGHBORS, rows - 1)
        if wanted == "auto" or rows <= int(wanted):
            way_out = f"Use kNeighbors <= {rows - 1} or 'auto', or" if rows > 1 else "Use"
            raise NotEnoughSamplesError(
                f"{name}.kNeighbors is {wanted!r}, but class {label!r} has only {rows} rows "
                f"(labelCol '{self.getLabelCol()}'). {way_out} RandomOverSampler for this class."
            )
        return int(wanted)

    def _learn(self, model: M, rows: DataFrame, counts: Mapping[Label, int]) -> None:
        """Decide how the classes that grow are divided and measured."""
        numbers = {label: i for i, label in enumerate(counts)}
        spaces = learn_spaces(
            rows.withColumn("group", case_of(F.col("label"), numbers, F.lit(-1))),
            {numbers[label]: self._space(model) for label in counts},
            {numbers[label]: n for label, n in counts.items()},
            row_bytes=feature_bytes(rows, model.numFeatures),
            k=max(model.neighbors.values()),
            search=self.getNeighborSearch(),  # type: ignore[arg-type]
            name=type(self).__name__,
        )
        model.spaces = {label: spaces[numbers[label]] for label in counts}

    def _space(self, model: M) -> Space:
        """Return how the rows of a class are measured."""
        return Space(scaling=self.getScale(), exact=True)  # type: ignore[arg-type]

    def _allot(self, model: M, rows: DataFrame, histograms: Mapping[Group, Histogram]) -> None:
        """Give each row of a class equally many rows to make, and one more to a random sample of them."""
        self._allot_by_weight(model, rows, histograms, dict.fromkeys(histograms, 1.0))

    def _allot_by_weight(
        self, model: M, rows: DataFrame, histograms: Mapping[Group, Histogram], weights: Mapping[Group, float]
    ) -> None:
        """Divide the rows to be made of each class by its strata's rows times their weights, exactly."""
        plan = model.plan
        sizes = {group: sum(histogram.values()) for group, histogram in histograms.items()}
        totals: dict[Group, int] = {}
        for label in plan.changed:
            mine = [group for group in sizes if group[0] == label and weights[group] > 0]
            parts = [sizes[group] * weights[group] for group in mine]
            new_rows = largest_remainder(
                plan.targets[label] - plan.counts[label], [part / sum(parts) for part in parts]
            )
            totals |= dict(zip(mine, new_rows, strict=True))
        once_more, unchosen = choose_draws(
            rows,
            histograms={group: histograms[group] for group in totals},
            sizes={group: total % sizes[group] for group, total in totals.items()},
            labelCol="label",
            strataCols=[f"stratum{i}" for i in range(len(next(iter(sizes))[1]))],
            draw=F.col("draw"),
        )
        model.copies = {group: (total // sizes[group], once_more[group]) for group, total in totals.items()}
        made = dict.fromkeys(plan.changed, 0)
        for group, total in totals.items():
            made[group[0]] += (total // sizes[group] + 1) * sizes[group] - sum(unchosen[group].values())
        targets = {label: n + made.get(label, 0) for label, n in plan.counts.items()}
        model.plan = SamplingPlan(plan.counts, targets)


class SyntheticOverSamplerModel(SyntheticParams, SamplerModel):
    """A fitted sampler of the family: rows to make of each row, and how rows are measured and divided among tasks."""

    neighbors: dict[Label, int]
    numFeatures: int
    spaces: dict[Label, Space]
    copies: Copies

    def resample(self, dataset: DataFrame) -> DataFrame:
        """Add synthetic rows: one shuffle of the rows of the classes that grow; the others stay where they are."""
        return self._resampled(dataset, parents=dataset)

    def _resampled(self, dataset: DataFrame, *, parents: DataFrame) -> DataFrame:
        """Add rows made of parents: the dataset, or at least its rows of the classes that grow."""
        require_columns(dataset, labelCol=self.getLabelCol(), idCols=self.keyCols, **self._feature_columns())
        self._check_outputs(dataset)
        features = self._features(dataset)
        synthetic, lineage = self.getSyntheticCol(), self.getLineageCol()
        originals = {name: column(name) for name in dataset.columns}
        if synthetic is not None:
            originals[synthetic] = F.lit(False)
        if lineage is not None:
            originals[lineage] = F.lit(None)
        kept = dataset.select(*(value.alias(name) for name, value in originals.items()))
        if not self.copies:
            return kept if lineage is None else kept.withColumn(lineage, F.lit(None).cast(self._lineage_type(dataset)))
        layout = Layout.of(dataset, features, self.keyCols if lineage is not None else ())
        made = self._make(self._rows(parents, features, self.keyCols, self.numFeatures), layout)
        return kept.unionByName(self._finished(dataset, features, layout, made))

    def neighborQuality(self, dataset: DataFrame, sample: int = 2000) -> dict[Label, NeighborQuality]:
        """Compare the neighbours found in each class that grows with the true ones, on a sample of its rows.

        Parameters
        ----------
        dataset : DataFrame
            The rows the model was fitted on.
        sample : int in [1, ∞), default=2000
            Rows of each class whose neighbours are compared; they are collected, at most twice as many.

        Returns
        -------
        dict of label to NeighborQuality
            `recall`, `distanceRatio` and `beyondBorder`, in the space in which the sampler searches.

        Notes
        -----
        Four jobs.  The true neighbours come from comparing every row of the classes with the sample.
        """
        integer("sample", 1)(sample)
        features = self._features(dataset)
        rows = self._grouped(self._rows(dataset, features, self.keyCols, self.numFeatures))
        quality = neighbor_quality(
            rows.where(F.col("group") >= 0),
            dict(enumerate(self.spaces.values())),
            dict(enumerate(self._by_group(self.plan.counts))),
            dict(enumerate(self._by_group(self.neighbors))),
            sample=sample,
        )
        return {label: quality[group] for group, label in enumerate(self.spaces)}

    def _grouped(self, rows: DataFrame) -> DataFrame:
        """Number the classes that grow; other rows get -1."""
        numbers = {label: i for i, label in enumerate(self.spaces)}
        return rows.withColumn("group", case_of(F.col("label"), numbers, F.lit(-1)))

    def _lineage_type(self, dataset: DataFrame) -> StructType:
        ids = StructType([dataset.schema[name] for name in self.keyCols])
        return StructType([StructField("parent", ids), StructField("neighbor", ids), StructField("gap", DoubleType())])

    def _make(self, rows: DataFrame, layout: Layout) -> DataFrame:
        """Search and make rows."""
        return by_unit(self._sent(rows), dict(enumerate(self.spaces.values())), self._work(layout), layout.schema)

    def _sent(self, rows: DataFrame) -> DataFrame:
        """Return what the tasks need of the rows."""
        wanted = ["group", "key", "copies", *(name for name in rows.columns if name not in ("label", "key", "draw"))]
        return self._grouped(self._with_copies(rows)).select(*wanted)

    def _with_copies(self, rows: DataFrame) -> DataFrame:
        """Add how many rows are made of each row."""
        draw = F.col("draw")
        copies = F.when(F.lit(False), F.lit(0))
        for (label, stratum), (whole, draws) in self.copies.items():
            here = F.col("label") == F.lit(label)
            for i, value in enumerate(stratum):
                here = here & F.col(f"stratum{i}").cast("string").eqNullSafe(F.lit(value))
            copies = copies.when(here, F.lit(whole) + F.when(draws.contains(draw), 1).otherwise(0))
        return rows.withColumn("copies", copies.otherwise(0))

    @abstractmethod
    def _work(self, layout: Layout) -> Work:
        """Return the function that makes the rows of a unit."""

    def _by_group(self, values: Mapping[Label, Any]) -> list[Any]:
        """Return the values of the classes in the order of the groups."""
        return [values[label] for label in self.spaces]

    def _finished(self, dataset: DataFrame, features: Features, layout: Layout, made: DataFrame) -> DataFrame:
        """Give rows made the columns of the dataset: null but for features, label and the validation flag."""
        labels = dict(enumerate(self.spaces))
        outputs: dict[str, Column] = {}
        for field in dataset.schema:
            if field.name in features.numeric:
                value = _from_numbers(features, field)
            elif field.name in features.categorical:
                value = F.col(f"c{features.categorical.index(field.name)}")
            elif field.name == self.getLabelCol():
                value = case_of(F.col("group"), labels, F.lit(None)).cast(field.dataType)
            elif field.name == self.getValidationIndicatorCol():
                value = F.lit(False)
            else:
                value = F.lit(None).cast(field.dataType)
            outputs[field.name] = value
        if (synthetic := self.getSyntheticCol()) is not None:
            outputs[synthetic] = F.lit(True)
        if (lineage := self.getLineageCol()) is not None:
            outputs[lineage] = F.struct("parent", "neighbor", "gap")
        return made.select(*(value.alias(name) for name, value in outputs.items()))

    def _state(self) -> dict[str, Any]:
        return {
            **super()._state(),
            "numFeatures": self.numFeatures,
            "classes": [[label, self.neighbors[label], self.spaces[label].to_json()] for label in self.spaces],
            "copies": [[*group, whole, draws.intervals] for group, (whole, draws) in self.copies.items()],
        }

    def _set_state(self, state: dict[str, Any]) -> None:
        super()._set_state(state)
        self.numFeatures = state["numFeatures"]
        self.neighbors = {label: k for label, k, _ in state["classes"]}
        self.spaces = {label: Space.from_json(space) for label, _, space in state["classes"]}
        self.copies = {
            (label, tuple(stratum)): (whole, DrawSet(tuple((low, high) for low, high in intervals)))
            for label, stratum, whole, intervals in state["copies"]
        }


@dataclass(frozen=True)
class Layout:
    """The columns in which rows made leave Python.

    Parameters
    ----------
    numbers : tuple of pyspark DataType
        Float or double for each numeric feature column; one array of them for a vector or array column.
    categories : tuple of pyspark DataType
    ids : StructType, optional
        What tells of the parents; without it the lineage is left out.
    """

    numbers: tuple[DataType, ...]
    categories: tuple[DataType, ...] = ()
    ids: StructType | None = None

    @classmethod
    def of(cls, dataset: DataFrame, features: Features, keyCols: Sequence[str]) -> Layout:
        """Return the layout for the features of a dataset."""
        found = [dataset.schema[name].dataType for name in features.numeric]
        if features.form == "columns":
            numbers: tuple[DataType, ...] = tuple(
                FloatType() if isinstance(t, FloatType) else DoubleType() for t in found
            )
        else:
            numbers = (ArrayType(number_type(found)),)
        ids = StructType([dataset.schema[name] for name in keyCols]) if keyCols else None
        return cls(numbers, tuple(dataset.schema[name].dataType for name in features.categorical), ids)

    @property
    def schema(self) -> StructType:
        """The schema of a batch."""
        fields = [StructField("group", IntegerType())]
        fields += [StructField(f"v{i}", number) for i, number in enumerate(self.numbers)]
        fields += [StructField(f"c{i}", category) for i, category in enumerate(self.categories)]
        if self.ids is not None:
            fields += [StructField("parent", self.ids), StructField("neighbor", self.ids)]
            fields += [StructField("gap", DoubleType())]
        return StructType(fields)

    def batch(
        self,
        unit: Unit,
        values: Floats,
        parents: Rows,
        neighbors: Rows,
        gaps: Floats,
        categories: Sequence[pa.Array] = (),
    ) -> pa.RecordBatch:
        """Put rows made in a batch.

        Parameters
        ----------
        values : float array [n, d]
            NaN where a number is missing.
        parents, neighbors : int64 array [n]
            Positions in the unit.
        gaps : float64 array [n]
        """
        columns: list[pa.Array] = [pa.array(np.full(len(values), unit.group, np.int32))]
        columns += self._numbers(values)
        columns += categories
        if self.ids is not None:
            ids = unit.table.column("ids")
            columns += [ids.take(parents).combine_chunks(), ids.take(neighbors).combine_chunks(), pa.array(gaps)]
        return pa.RecordBatch.from_arrays(columns, names=self.schema.names)

    def _numbers(self, values: Floats) -> list[pa.Array]:
        if self.numbers and isinstance(self.numbers[0], ArrayType):
            offsets = np.arange(0, values.size + 1, max(values.shape[1], 1), dtype=np.int32)
            kind = np.float32 if isinstance(self.numbers[0].elementType, FloatType) else np.float64
            return [pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel().astype(kind, copy=False)))]
        by_feature = np.ascontiguousarray(values.T)
        missing = np.isnan(by_feature).any()
        return [
            pa.array(
                by_feature[i], pa.float32() if isinstance(number, FloatType) else pa.float64(), from_pandas=missing
            )
            for i, number in enumerate(self.numbers)
        ]


def made_rows(unit: Unit, queries: Rows) -> Iterator[tuple[Rows, Rows, Rows]]:
    """Say in parts which rows are to be made: of which query, and the key and the counter of each one's draws.

    Parameters
    ----------
    queries : int64 array
        Positions in the unit, in order.
    """
    copies = unit.column("copies")[queries].astype(np.int64)
    keys = unit.column("key")[queries]
    # Rows that repeat a key are equal; counting them lets each make rows of its own.
    repeats = np.arange(len(keys)) - np.searchsorted(keys, keys)
    ends = np.cumsum(copies)
    start = 0
    while start < len(queries):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + BATCH_ROWS, side="right")))
        at = np.repeat(np.arange(start, stop), copies[start:stop])
        counters = np.arange(len(at)) - np.repeat(ends[start:stop] - copies[start:stop] - done, copies[start:stop])
        if len(at):
            yield at, keys[at], counters + (repeats[at] << 32)
        start = stop


def feature_bytes(rows: DataFrame, d: int) -> int:
    """Return the bytes of a row's features as they are counted for units: 4 for a number, 8 for a category."""
    categories = [name for name in rows.columns if name[0] == "c" and name[1:].isdigit()]
    return 4 * d + 8 * len(categories)


def _from_numbers(features: Features, field: StructField) -> Column:
    if features.form == "columns":
        return cast_like(F.col(f"v{features.numeric.index(field.name)}"), field.dataType)
    return array_to_vector(F.col("v0")) if features.form == "vector" else F.col("v0").cast(field.dataType)
