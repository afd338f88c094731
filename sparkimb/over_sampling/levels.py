"""What samplers share that look at neighbours of every class: the level of a row, and what follows from it.

The level of a row is how many of its nearest rows in all training data, itself left out, are of other classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StructField, StructType

from sparkimb.columns import case_of
from sparkimb.errors import NotEnoughSamplesError, SparkimbError
from sparkimb.neighbors.search import Batches, Unit, Work, by_unit
from sparkimb.neighbors.spaces import Space, learn_spaces
from sparkimb.over_sampling.interpolation import GapRule, anywhere, make_between
from sparkimb.over_sampling.synthesis import (
    AUTO_NEIGHBORS,
    BATCH_ROWS,
    Layout,
    SyntheticOverSampler,
    SyntheticOverSamplerModel,
    SyntheticParams,
    feature_bytes,
)
from sparkimb.params import integer, param
from sparkimb.statistics import Group, Histogram, draw_histograms
from sparkimb.strategy import Label

M = TypeVar("M", bound="LevelOverSamplerModel")

NOT_ASKED = -1  # the level of a row that nobody needs to know


class LevelParams(SyntheticParams):
    """The Params of every sampler that looks at levels, and of its model."""

    level_param: ClassVar[str] = "kNeighbors"

    def _level_neighbors(self) -> int:
        """Return how many rows a level is counted among."""
        wanted = self.getOrDefault(self.level_param)
        return AUTO_NEIGHBORS if wanted == "auto" else int(wanted)


class HasMNeighbors(LevelParams):
    """Levels among mNeighbors rows: all of other classes is noise, half or more danger, fewer safe."""

    level_param = "mNeighbors"
    mNeighbors = param("mNeighbors", "nearest rows of every class that are looked at", integer("mNeighbors", 1))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(mNeighbors=10)

    def getMNeighbors(self) -> int:
        """Return mNeighbors."""
        return int(self.getOrDefault(self.mNeighbors))


class LevelOverSampler(LevelParams, SyntheticOverSampler[M]):
    """A sampler that makes more rows of rows of some levels than of others."""

    exemptions: ClassVar[Mapping[str, str]] = {
        "check_majority_stays_in_the_jvm": "its definition looks at neighbours of every class"
    }

    def _learn(self, model: M, rows: DataFrame, counts: Mapping[Label, int]) -> None:
        """Decide how the classes that grow are divided and measured, and how all rows together are."""
        total, m = sum(model.plan.counts.values()), self._level_neighbors()
        if total <= m:
            raise NotEnoughSamplesError(
                f"{type(self).__name__}.{self.level_param} is {self.getOrDefault(self.level_param)!r}, but there are "
                f"only {total} rows. Use {self.level_param} <= {total - 1}, or RandomOverSampler."
            )
        super()._learn(model, rows, counts)
        spaces = learn_spaces(
            rows.withColumn("group", F.lit(0)),
            {0: self._space(model)},
            {0: total},
            row_bytes=feature_bytes(rows, model.numFeatures),
            k=max(m, *model.neighbors.values()),
            search=self.getNeighborSearch(),  # type: ignore[arg-type]
            name=type(self).__name__,
        )
        model.everything = spaces[0]

    def _allot(self, model: M, rows: DataFrame, histograms: Mapping[Group, Histogram]) -> None:
        """Divide the rows to be made of each class by the levels of its rows."""
        with_levels = model._levels(rows)
        found = draw_histograms(with_levels, labelCol="label", strataCols=["stratum0"], draw=F.col("draw"))
        weights: dict[Group, float] = {}
        for label in model.plan.changed:
            levels = {int(str(group[1][0])): sum(found[group].values()) for group in found if group[0] == label}
            of_levels = {level: self._weight(level) for level in levels}
            if not any(of_levels.values()):
                raise SparkimbError(self._no_parents(label, levels))
            weights |= {(label, (str(level),)): weight for level, weight in of_levels.items()}
        self._allot_by_weight(model, with_levels, found, weights)

    @abstractmethod
    def _weight(self, level: int) -> float:
        """Return how many rows are made of a row of this level, in any unit."""

    @abstractmethod
    def _no_parents(self, label: Label, levels: Mapping[int, int]) -> str:
        """Say that no row of a class has a level to make rows of; `levels` counts its rows by level."""


class LevelOverSamplerModel(LevelParams, SyntheticOverSamplerModel):
    """A fitted sampler that also knows how all rows together are measured and divided among tasks."""

    everything: Space | None = None  # None where no class grows

    def _make(self, rows: DataFrame, layout: Layout) -> DataFrame:
        return super()._make(self._levels(rows), layout)

    def _levels(self, rows: DataFrame) -> DataFrame:
        """Return the rows of the classes that grow with their levels, as `stratum0`: one shuffle of all rows."""
        assert self.everything is not None
        grows = F.col("code") >= 0
        # Other rows are looked at and stay behind, so only their features travel.
        private = [name for name in rows.columns if name not in ("label", "key", "features")]
        sent = self._together(rows).select(
            *("group", "code", "key", "features"),
            (grows & self._asked()).alias("asked"),
            *(F.when(grows, F.col(name)).alias(name) for name in private),
        )
        schema = StructType([*sent.drop("group", "asked").schema, StructField("stratum0", IntegerType())])
        work = partial(_with_levels, m=self._level_neighbors(), names=schema.names)
        labels = case_of(F.col("code"), dict(enumerate(self.spaces)), F.lit(None))
        return by_unit(sent, {0: self.everything}, work, schema).withColumn("label", labels).drop("code")

    def _together(self, rows: DataFrame) -> DataFrame:
        """Put all rows in one group; `code` is the number of a row's class, or -1 where it does not grow."""
        return self._grouped(rows).withColumnRenamed("group", "code").withColumn("group", F.lit(0))

    def _asked(self) -> Column:
        """Say of a row of a class that grows whether its level is needed."""
        return F.lit(True)

    def _work(self, layout: Layout) -> Work:
        return partial(
            make_between,
            k=self._by_group(self.neighbors),
            seed=self.getSeed(),
            sampler=type(self).__name__.removesuffix("Model"),
            gap=self._gap_rule(),
            layout=layout,
        )

    def _gap_rule(self) -> GapRule:
        """Return the function from draws to gaps."""
        return anywhere

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "everything": None if self.everything is None else self.everything.to_json()}

    def _set_state(self, state: dict[str, Any]) -> None:
        super()._set_state(state)
        self.everything = None if state["everything"] is None else Space.from_json(state["everything"])


def _with_levels(unit: Unit, *, m: int, names: Sequence[str]) -> Batches:
    """Count of each row asked for its neighbours of other classes."""
    codes, asked = unit.column("code"), unit.column("asked")
    homes = np.flatnonzero(unit.home & (codes >= 0))
    queries = homes[asked[homes]]
    nearest = unit.nearest(queries, unit.index, m).rows
    levels = np.full(len(codes), NOT_ASKED, np.int32)
    levels[queries] = (codes[nearest] != codes[queries][:, None]).sum(axis=1)
    counted = unit.table.append_column("stratum0", pa.array(levels)).select(list(names)).take(homes)
    yield from counted.to_batches(max_chunksize=BATCH_ROWS)
