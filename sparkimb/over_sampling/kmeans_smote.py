"""KMeansSMOTE: SMOTE within the clusters where a class is at home, most where its rows lie far apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import keyword_only
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StructField, StructType

from sparkimb.columns import case_of
from sparkimb.draws import uniform_numbers
from sparkimb.errors import SparkimbError
from sparkimb.neighbors.metrics import FARTHEST, Floats, Rows
from sparkimb.neighbors.search import Batches, Work, by_unit
from sparkimb.neighbors.spaces import (
    SAMPLE_BYTES,
    SAMPLE_ROWS,
    Scaling,
    Space,
    center_and_scale,
    feature_matrix,
    learn_spaces,
    sampled,
)
from sparkimb.neighbors.table import NeighborQuality, neighbor_quality
from sparkimb.over_sampling.interpolation import anywhere, make_between
from sparkimb.over_sampling.synthesis import (
    Layout,
    SyntheticOverSampler,
    SyntheticOverSamplerModel,
    SyntheticParams,
    feature_bytes,
)
from sparkimb.params import choice, integer, number, param
from sparkimb.statistics import Group, Histogram, draw_histograms
from sparkimb.strategy import Label

# Rounds of k-means: most samples are settled after some tens.
ROUNDS = 100
# Rows of a class in a cluster whose distances are averaged: all pairs of 2,000 are 32 MB of distances, and their mean
# is within about 2 % of that of all rows.
PAIR_ROWS, FEWEST_PAIR_ROWS = 2_000, 50
BLOCK_NUMBERS = 2**20  # distances held at a time: 8 MB, which a core's cache holds


def _auto_or_number(name: str, high: float = math.inf) -> Any:
    def convert(value: Any) -> str | float:
        return choice(name, ["auto"])(value) if isinstance(value, str) else number(name, 0, high)(value)

    return convert


class _Params(SyntheticParams):
    numClusters = param("numClusters", "clusters of all rows", integer("numClusters", 1))
    clusterBalanceThreshold = param(
        "clusterBalanceThreshold",
        "smallest share of a class in its clusters, or 'auto'",
        _auto_or_number("clusterBalanceThreshold", 1),
    )
    densityExponent = param(
        "densityExponent", "how much more rows sparse clusters get, or 'auto'", _auto_or_number("densityExponent")
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(kNeighbors=2, numClusters=8, clusterBalanceThreshold="auto", densityExponent="auto")

    def getNumClusters(self) -> int:
        """Return numClusters."""
        return int(self.getOrDefault(self.numClusters))

    def getClusterBalanceThreshold(self) -> str | float:
        """Return clusterBalanceThreshold."""
        value: str | float = self.getOrDefault(self.clusterBalanceThreshold)
        return value

    def getDensityExponent(self) -> str | float:
        """Return densityExponent."""
        value: str | float = self.getOrDefault(self.densityExponent)
        return value


@dataclass(frozen=True)
class Clusters:
    """Centres of k-means, in the space of the scaled features.

    Parameters
    ----------
    center, scale : float64 array [d]
        What features are lessened by, and divided by; a missing number is at its feature's center.
    centres : float64 array [clusters, d]
    """

    center: Floats
    scale: Floats
    centres: Floats

    @classmethod
    def learn(cls, values: Floats, most: int, *, scaling: Scaling, seed: int) -> Clusters:
        """Find centres of `most` clusters, or of fewer where fewer rows differ.

        Lloyd's rounds (1982) after Arthur and Vassilvitskii's choice of the first centres (k-means++, SODA 2007).
        """
        center, scale = center_and_scale(values, scaling)
        places = cls(center, scale, np.empty((0, values.shape[1]))).places(values)
        centres = _first_centres(places, most, seed)
        for _ in range(ROUNDS):
            homes = _nearest(places, centres)
            order = np.argsort(homes, kind="stable")
            found, starts = np.unique(homes[order], return_index=True)
            moved = centres.copy()
            sizes = np.diff(np.append(starts, len(places)))
            moved[found] = np.add.reduceat(places[order], starts, axis=0) / sizes[:, None]
            if np.array_equal(moved, centres):
                break
            centres = moved
        return cls(center, scale, centres)

    def places(self, values: Floats) -> Floats:
        """Return the places of rows, [rows, d]."""
        apart = np.clip((values - self.center) / self.scale, -FARTHEST, FARTHEST)
        places: Floats = np.where(np.isfinite(values), apart, 0.0)
        return places

    def of(self, values: Floats) -> Rows:
        """Return the clusters of rows, in [0, clusters)."""
        return _nearest(self.places(values), self.centres)

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {name: value.tolist() for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Clusters:
        """Read what `to_json` wrote."""
        return cls(**{name: np.array(value) for name, value in state.items()})


@dataclass(frozen=True)
class Part:
    """The rows of a class in one cluster, of which rows are made: how many they are, and how they are searched."""

    label: Label
    cluster: int
    rows: int
    space: Space


class KMeansSMOTEModel(_Params, SyntheticOverSamplerModel):
    """A fitted KMeansSMOTE: the clusters, and how many rows are made of each row of a class in its clusters."""

    clusters: Clusters | None = None  # None where no class grows
    parts: Sequence[Part] = ()

    def neighborQuality(self, dataset: DataFrame, sample: int = 2000) -> dict[Label, NeighborQuality]:
        """Compare the neighbours found within clusters with the true ones: of each class the mean over its clusters.

        Parameters
        ----------
        dataset : DataFrame
            The rows the model was fitted on.
        sample : int in [1, ∞), default=2000
            Rows of each class in each cluster whose neighbours are compared; they are collected, at most twice as many.

        Notes
        -----
        Four jobs.  The true neighbours come from comparing every row of a class in a cluster with the sample.
        """
        integer("sample", 1)(sample)
        rows = self._rows(dataset, self._features(dataset), self.keyCols, self.numFeatures)
        quality = neighbor_quality(
            self._in_parts(rows, "label", "key", "features").where(F.col("group") >= 0),
            {i: part.space for i, part in enumerate(self.parts)},
            {i: part.rows for i, part in enumerate(self.parts)},
            {i: self.neighbors[part.label] for i, part in enumerate(self.parts)},
            sample=sample,
        )

        def mean(label: Label) -> NeighborQuality:
            mine = [i for i, part in enumerate(self.parts) if part.label == label]
            weights = [self.parts[i].rows for i in mine]
            names = ("recall", "distanceRatio", "beyondBorder")
            means = {name: float(np.average([vars(quality[i])[name] for i in mine], weights=weights)) for name in names}
            return NeighborQuality(sum(quality[i].rows for i in mine), self.neighbors[label], **means)

        return {label: mean(label) for label in self.spaces}

    def _make(self, rows: DataFrame, layout: Layout) -> DataFrame:
        spaces = {i: part.space for i, part in enumerate(self.parts)}
        sent = self._sent(self._clustered(rows.where(F.col("label").isin(*self.spaces)), rows.columns))
        made = by_unit(sent, spaces, self._work(layout), layout.schema)
        classes = {i: list(self.spaces).index(part.label) for i, part in enumerate(self.parts)}
        return made.withColumn("group", case_of(F.col("group"), classes, F.lit(-1)))

    def _in_parts(self, rows: DataFrame, *names: str) -> DataFrame:
        """Return some columns of the rows of the classes that grow, and the number of a row's part, or -1."""
        return self._grouped(self._clustered(rows.where(F.col("label").isin(*self.spaces)), names))

    def _clustered(self, rows: DataFrame, names: Sequence[str]) -> DataFrame:
        """Return some columns of the rows, and their clusters as `stratum0`: one pass through Python."""
        assert self.clusters is not None
        schema = StructType([*rows.select(*names).schema, StructField("stratum0", IntegerType())])
        sent = rows.select(*names, *({"features"} - set(names)))
        return sent.mapInArrow(partial(_with_clusters, clusters=self.clusters, names=list(names)), schema)

    def _grouped(self, rows: DataFrame) -> DataFrame:
        group = F.when(F.lit(False), F.lit(-1))
        for i, part in enumerate(self.parts):
            here = (F.col("label") == F.lit(part.label)) & (F.col("stratum0") == F.lit(part.cluster))
            group = group.when(here, F.lit(i))
        return rows.withColumn("group", group.otherwise(F.lit(-1)))

    def _work(self, layout: Layout) -> Work:
        k = [self.neighbors[part.label] for part in self.parts]
        return partial(make_between, k=k, seed=self.getSeed(), sampler="KMeansSMOTE", gap=anywhere, layout=layout)

    def _state(self) -> dict[str, Any]:
        parts = [[part.label, part.cluster, part.rows, part.space.to_json()] for part in self.parts]
        return {
            **super()._state(),
            "clusters": None if self.clusters is None else self.clusters.to_json(),
            "parts": parts,
        }

    def _set_state(self, state: dict[str, Any]) -> None:
        super()._set_state(state)
        self.clusters = None if state["clusters"] is None else Clusters.from_json(state["clusters"])
        self.parts = [
            Part(label, cluster, rows, Space.from_json(space)) for label, cluster, rows, space in state["parts"]
        ]


class KMeansSMOTE(_Params, SyntheticOverSampler[KMeansSMOTEModel]):
    """Add synthetic rows within the clusters of all rows where a class has a large share.

    Clusters where the class is rare are left alone, as rows made there would lie among those of other classes; of the
    others those get most where the class's rows lie far apart.  Take it where a class has several places of its own;
    SMOTE is simpler, and the same with one cluster.

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
    kNeighbors : int in [1, rows of the class) or "auto", default=2
        Neighbours in its cluster that a row's synthetic rows are drawn towards.  "auto" takes 5, or in a class of 5
        rows or fewer all the others, and logs so.
    numClusters : int in [1, 20000], default=8
        Clusters of all training rows (imbalanced-learn's `kmeans_estimator`).  Their centres are learned by k-means
        from 20,000 rows at most, and at most 64 MB of features; there are fewer where fewer of these rows differ.
    clusterBalanceThreshold : float in [0, 1] or "auto", default="auto"
        Smallest share of a class in a cluster's rows where rows are made of it.  "auto" is half of the class's share of
        all rows to be made, so 0.5 where one class grows.  With one cluster nothing is asked.
    densityExponent : float in [0, inf) or "auto", default="auto"
        A cluster's share of the rows to be made of a class is in proportion to its sparsity: the mean distance of any
        two of the class's rows in it to this power, over their number n.  "auto" is 0.16 log(n, 1.6)^1.8 for each
        cluster.
    neighborSearch : {"auto", "exact", "cells", "partition"}, default="auto"
        How neighbours are found in a cluster: see `sparkimb.neighbors.nearest_neighbors`.
    scale : {"robust", "standard", "none"}, default="robust"
        What a feature is divided by for clusters and all distances: its interquartile range over all rows, its standard
        deviation, or nothing (as in imbalanced-learn).  Learned from the rows that the centres are.
    idCols : list of str, optional
        Columns that identify a row.  Without them all columns do, and `fit` needs one more job.
    validationIndicatorCol : str, optional
        Boolean column; rows where it is true are kept as they are, not counted and not looked at.  False in rows made.
    syntheticCol : str, optional
        Output column: true in rows made.
    lineageCol : str, optional
        Output column, null in original rows: struct of `parent` and `neighbor` (structs of idCols) and `gap`, how far
        the row made lies on the way from the one to the other, in [0, 1).
    maxGrowth : float in [1, inf), default=10.0
        Largest output allowed, as a multiple of the rows counted.
    seed : int, default=0

    Raises
    ------
    NotEnoughSamplesError
        In `fit`, after the count, if a class to grow has kNeighbors rows or fewer.
    SparkimbError
        In `fit`, before any job: missing columns, columns of the wrong type, output columns that exist.  After the
        count: null labels, a single class, targets below a class's rows, growth beyond maxGrowth, vectors longer than
        4,096, more clusters than rows to learn them from.  After the count by cluster: a class to grow that no cluster
        qualifies for, or whose rows are alike in every one that does, and with neighborSearch "exact" more than 16
        million numbers of a class in a cluster.

    Notes
    -----
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ.  Original rows are kept;
            rows made have nulls in every column but features and label.  Clusters with kNeighbors rows of the class or
            fewer are left out.  In a cluster each row has equally many rows made of it, those still missing are a
            random sample; imbalanced-learn draws rows anew, and may make a few more than asked.
    Nulls:  a feature that is null, NaN or infinite lies at the feature's centre for clusters and distances.  A row made
            takes it from the other parent; where neither has it, it is null (NaN in vectors and arrays).
    Cost:   fit: one aggregate over label and id columns; a sample of all rows, collected, for the centres, which are
            found on the driver; one aggregate for which the features of all rows pass through Python, as Arrow batches;
            a sample of at most 2,000 rows of each class that grows in each of its clusters, collected, for the mean
            distances; without idCols a sampled job to warn of duplicates; for vectors and arrays without metadata a
            look at one row; for clusters with more than 16 million numbers of a class a sample of 20,000 rows.  Where
            buckets of draws do not add up: one more.  resample: lazy; the rows of the classes that grow pass through
            Python to find their clusters, then one shuffle of them; up to about 850 MB in a task.
    Same input and seed give the same rows, whatever the partitioning: the rows that the centres are learned from are
    chosen by their hashes, which pyspark.ml's KMeans does not do.

    References
    ----------
    .. [1] Last, Douzas and Bacao, "Oversampling for imbalanced learning based on k-means and SMOTE", 2017, arXiv
       1711.00837; Information Sciences 465, 2018, 1-20.

    Examples
    --------
    >>> KMeansSMOTE(inputCols=["amount", "age"], numClusters=20, idCols=["id"]).fitResample(train)  # doctest: +SKIP
    """

    model = KMeansSMOTEModel

    @keyword_only
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        inputCols: Sequence[str] | None = None,
        categoricalCols: Sequence[str] | None = None,
        labelCol: str = "label",
        samplingStrategy: str | float | Mapping[Any, int] = "auto",
        kNeighbors: int | str = 2,
        numClusters: int = 8,
        clusterBalanceThreshold: str | float = "auto",
        densityExponent: str | float = "auto",
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

    def _learn(self, model: KMeansSMOTEModel, rows: DataFrame, counts: Mapping[Label, int]) -> None:
        """Find the clusters of all rows."""
        total = sum(model.plan.counts.values())
        wanted = min(SAMPLE_ROWS, SAMPLE_BYTES // (8 * max(1, model.numFeatures)))
        if self.getNumClusters() > min(total, wanted):
            raise SparkimbError(
                f"KMeansSMOTE.numClusters is {self.getNumClusters():,}, but they are to be learned from "
                f"{min(total, wanted):,} rows. Use fewer clusters: about one for each hundred rows or more."
            )
        sample = sampled(rows.select(F.lit(0).alias("group"), "key", "features"), {0: total}, wanted)[0]
        scaling: Scaling = self.getScale()  # type: ignore[assignment]
        model.clusters = Clusters.learn(
            feature_matrix(sample), self.getNumClusters(), scaling=scaling, seed=self.getSeed()
        )
        center, scale = model.clusters.center.tolist(), model.clusters.scale.tolist()
        model.spaces = {label: Space(scaling, exact=True, center=tuple(center), scale=tuple(scale)) for label in counts}

    def _allot(self, model: KMeansSMOTEModel, rows: DataFrame, histograms: Mapping[Group, Histogram]) -> None:
        """Divide the rows to be made of each class by its clusters' sparsities."""
        clustered = model._clustered(rows, ["label", "draw"])
        found = draw_histograms(clustered, labelCol="label", strataCols=["stratum0"], draw=F.col("draw"))
        model.parts = self._parts(model, {group: sum(histogram.values()) for group, histogram in found.items()})
        grown = model._in_parts(rows, "label", "key", "features")
        weights = dict.fromkeys((group for group in found if group[0] in model.plan.changed), 0.0)
        weights |= self._weights(model, grown)
        self._allot_by_weight(model, clustered, {group: found[group] for group in weights}, weights)
        spaces = learn_spaces(
            grown,
            {i: part.space for i, part in enumerate(model.parts)},
            {i: part.rows for i, part in enumerate(model.parts)},
            row_bytes=feature_bytes(rows, model.numFeatures),
            k=max(model.neighbors.values()),
            search=self.getNeighborSearch(),  # type: ignore[arg-type]
            name=type(self).__name__,
        )
        model.parts = [replace(part, space=spaces[i]) for i, part in enumerate(model.parts)]

    def _parts(self, model: KMeansSMOTEModel, sizes: Mapping[Group, int]) -> list[Part]:
        """Return the clusters that qualify for each class, in their order."""
        assert model.clusters is not None
        in_cluster: dict[int, int] = {}
        for (_, (cluster,)), rows in sizes.items():
            in_cluster[int(str(cluster))] = in_cluster.get(int(str(cluster)), 0) + rows
        new_rows = {label: model.plan.targets[label] - model.plan.counts[label] for label in model.plan.changed}
        parts: list[Part] = []
        for label, k in model.neighbors.items():
            threshold = self.getClusterBalanceThreshold()
            if len(model.clusters.centres) == 1:
                threshold = 0.0
            elif threshold == "auto":
                threshold = new_rows[label] / sum(new_rows.values()) / 2
            mine = {int(str(cluster)): n for (of, (cluster,)), n in sizes.items() if of == label and n > k}
            shares = {cluster: n / in_cluster[cluster] for cluster, n in mine.items()}
            chosen = [cluster for cluster in sorted(mine) if shares[cluster] >= float(threshold)]
            if not chosen:
                largest = f"the largest share is {max(shares.values()):.3g}" if shares else "there is none such"
                raise SparkimbError(
                    f"KMeansSMOTE.clusterBalanceThreshold is {threshold:.3g} for class {label!r}, but no cluster with "
                    f"more than {k} rows of it (kNeighbors) has so large a share of it: {largest}. "
                    "Lower clusterBalanceThreshold or kNeighbors, change numClusters, or use SMOTE."
                )
            parts += [Part(label, cluster, mine[cluster], model.spaces[label]) for cluster in chosen]
        return parts

    def _weights(self, model: KMeansSMOTEModel, grown: DataFrame) -> dict[Group, float]:
        """Return how many rows are made of a row of each part, as multiples of what any unit: one job."""
        assert model.clusters is not None
        fit_in = SAMPLE_BYTES // (8 * max(1, model.numFeatures) * len(model.parts))
        samples = sampled(
            grown.select("group", "key", "features"),
            {i: part.rows for i, part in enumerate(model.parts)},
            min(PAIR_ROWS, max(FEWEST_PAIR_ROWS, fit_in)),
        )
        places = [model.clusters.places(feature_matrix(samples[i])) for i in range(len(model.parts))]
        logs = [
            log_sparsity(mean_distance(of_part), part.rows, self._exponent(part))
            for of_part, part in zip(places, model.parts, strict=True)
        ]
        weights: dict[Group, float] = {}
        for label in model.neighbors:
            mine = [i for i, part in enumerate(model.parts) if part.label == label]
            most = max(logs[i] for i in mine)
            if math.isinf(most):
                raise SparkimbError(
                    f"KMeansSMOTE: the rows of class {label!r} are alike in each of its {len(mine)} clusters, so their "
                    "distances do not tell how many rows to make where. Use densityExponent=0, or RandomOverSampler."
                )
            for i in mine:
                part = model.parts[i]
                weights[label, (str(part.cluster),)] = math.exp(logs[i] - most) / part.rows
        return weights

    def _exponent(self, part: Part) -> float:
        exponent = self.getDensityExponent()
        return 0.16 * math.log(part.rows, 1.6) ** 1.8 if exponent == "auto" else float(exponent)


def mean_distance(places: Floats) -> float:
    """Return the mean distance of any two of the rows, in [0, inf)."""
    apart = places - places[0]  # so that equal rows are 0 apart, to the last digit
    norms = np.einsum("ij,ij->i", apart, apart)
    distances = np.sqrt(np.maximum(norms[:, None] + norms - 2.0 * (apart @ apart.T), 0.0))
    np.fill_diagonal(distances, 0.0)
    return float(distances.sum() / (len(places) * (len(places) - 1)))


def log_sparsity(distance: float, rows: int, exponent: float) -> float:
    """Return the logarithm of distance^exponent / rows, which itself may be too large for a double."""
    if distance == 0.0:
        return -math.inf if exponent > 0 else -math.log(rows)
    return exponent * math.log(distance) - math.log(rows)


def _first_centres(places: Floats, most: int, seed: int) -> Floats:
    """Choose rows as centres, each with a chance in proportion to its squared distance from those chosen before."""
    counters = np.arange(most)
    draws = uniform_numbers(np.zeros_like(counters), counters, seed=seed, purpose="KMeansSMOTE.centre")
    chosen = [int(draws[0] * len(places))]
    nearest = ((places - places[chosen[0]]) ** 2).sum(axis=1)
    for draw in draws[1:]:
        sums = np.cumsum(nearest)
        if sums[-1] == 0.0:  # the rows chosen are all that differ
            break
        chosen.append(int(np.searchsorted(sums, draw * sums[-1], side="right")))
        nearest = np.minimum(nearest, ((places - places[chosen[-1]]) ** 2).sum(axis=1))
    return places[chosen]


def _nearest(places: Floats, centres: Floats) -> Rows:
    """Return the nearest centre of each place, of several the first."""
    homes = np.empty(len(places), np.int64)
    step = max(1, BLOCK_NUMBERS // len(centres))
    for start in range(0, len(places), step):
        some = np.ascontiguousarray(places[start : start + step].T)
        # Not a product of matrices: its rounding depends on what other rows there are, and a row could change cluster.
        squared = np.zeros((len(centres), some.shape[1]))
        for along, of_centres in zip(some, centres.T, strict=True):
            squared += (along - of_centres[:, None]) ** 2
        homes[start : start + step] = np.argmin(squared, axis=0)
    return homes


def _with_clusters(batches: Iterable[pa.RecordBatch], clusters: Clusters, names: Sequence[str]) -> Batches:
    for batch in batches:
        if len(batch):
            table = pa.Table.from_batches([batch])
            homes = pa.array(clusters.of(feature_matrix(table)).astype(np.int32))
            yield from table.select(list(names)).append_column("stratum0", homes).to_batches()
