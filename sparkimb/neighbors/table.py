"""The neighbours of a DataFrame's rows as a DataFrame, and how good they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    DoubleType,
    IntegerType,
    LongType,
    StringType,
    StructField,
    StructType,
)
from threadpoolctl import threadpool_limits

from sparkimb.columns import case_of, column, feature_array, require_columns, resolve_features
from sparkimb.draws import row_key
from sparkimb.errors import SparkimbError
from sparkimb.neighbors.kernel import nearest
from sparkimb.neighbors.search import Batches, Unit, by_unit
from sparkimb.neighbors.spaces import (
    SCALINGS,
    SEARCHES,
    Scaling,
    Search,
    Space,
    check_features,
    in_sample,
    learn_spaces,
    sampled,
)
from sparkimb.params import choice, integer
from sparkimb.statistics import class_counts, number_of_features
from sparkimb.strategy import Label, match_label

OUTPUT_ROWS = 65_536  # of a batch that leaves a task
BLOCK_BYTES = 2**25  # of the rows that are compared with all queries at a time, when truth is looked for


def nearest_neighbors(
    dataset: DataFrame,
    *,
    idCols: Sequence[str],
    featuresCol: str = "features",
    inputCols: Sequence[str] | None = None,
    labelCol: str = "label",
    among: Literal["class", "all"] = "class",
    queryLabels: Sequence[Label] | None = None,
    k: int = 5,
    search: Search = "auto",
    scale: Scaling = "robust",
) -> DataFrame:
    """Find the k nearest neighbours of rows, within their class or among all rows.

    Parameters
    ----------
    dataset : DataFrame
    idCols : list of str
        Columns that identify a row.
    featuresCol : str, default="features"
        Vector, or array of doubles or floats, of one length up to 4,096.  Not looked at if inputCols is set.
    inputCols : list of str, optional
        Numeric scalar columns.
    labelCol : str, default="label"
    among : {"class", "all"}, default="class"
        Whose rows are neighbours: those of the row's class, or all.
    queryLabels : list, optional
        Classes whose rows are asked for; by default all.
    k : int in [1, ∞), default=5
        Neighbours of a row, itself left out; fewer where a class has no more.
    search : {"auto", "exact", "cells", "partition"}, default="auto"
        "exact" compares all rows of a group in one task, which takes 16 million numbers.  "cells" compares rows with
        those of so many inverted lists that 98 % of a sample's true neighbours are found; groups of more than 16
        million numbers are cut into cells along a tree learned at once, where rows near a cut also visit the cell
        beyond.  "partition" compares rows with those of a random part of the group of at most 10,000: the cheapest and,
        but for density, of little worth.  "auto" is exact for groups of up to 20,000 rows, else cells.
    scale : {"robust", "standard", "none"}, default="robust"
        What features are divided by: their interquartile range in the group, their standard deviation, or nothing.

    Returns
    -------
    DataFrame
        `row` and `neighbor` (structs of idCols), `label` and `neighborLabel`, `rank` (int, 1 for the nearest) and
        `squaredDistance` (double, in the units of `scale`).  Rows at one distance are ranked by their ids' hashes.

    Raises
    ------
    SparkimbError
        Before the result's own job: missing columns, columns of the wrong type, null labels, unknown labels, vectors
        longer than 4,096, and with search "exact" a group too large for one task.

    Notes
    -----
    Cost: one job that counts the classes; for vectors and arrays without metadata a look at one row; for groups of more
    than 16 million numbers (with "partition": of more than one part) a sample of 20,000 rows, collected.  The result is
    lazy: one shuffle of the rows of the groups, which pass through Python as Arrow batches.
    """
    choice("search", SEARCHES)(search)
    choice("scale", SCALINGS)(scale)
    choice("among", ("class", "all"))(among)
    integer("k", 1)(k)
    require_columns(dataset, idCols=idCols, labelCol=labelCol)
    features = resolve_features(dataset, featuresCol=featuresCol, inputCols=inputCols, categoricalCols=None)
    counts = class_counts(dataset, labelCol=labelCol)
    queried = list(counts) if queryLabels is None else [_known(label, counts) for label in queryLabels]
    d = number_of_features(dataset, features)
    check_features(d, "nearest_neighbors")
    numbers = {label: i for i, label in enumerate(queried if among == "class" else counts)}
    group = case_of(column(labelCol), numbers, F.lit(-1)) if among == "class" else F.lit(0)
    rows = dataset.select(
        group.alias("group"),
        F.xxhash64(*row_key(dataset, idCols)).alias("key"),
        feature_array(dataset, features, d).alias("features"),
        F.struct(*(column(name) for name in idCols)).alias("ids"),
        column(labelCol).alias("label"),
        column(labelCol).isin(*queried).alias("queried"),
    )
    sizes = {numbers[label]: counts[label] for label in numbers} if among == "class" else {0: sum(counts.values())}
    spaces = learn_spaces(
        rows,
        {number: Space(scaling=scale, exact=True) for number in sizes},
        sizes,
        row_bytes=4 * d,
        k=k,
        search=search,
        name="nearest_neighbors",
    )
    ids, label = rows.schema["ids"].dataType, rows.schema["label"].dataType
    schema = StructType(
        [
            StructField("row", ids),
            StructField("neighbor", ids),
            StructField("label", label),
            StructField("neighborLabel", label),
            StructField("rank", IntegerType()),
            StructField("squaredDistance", DoubleType()),
        ]
    )
    return by_unit(rows, spaces, partial(_table, k=k), schema)


def _known(label: Label, counts: Mapping[Label, int]) -> Label:
    found = match_label(label, counts)
    if found is None:
        raise SparkimbError(f"queryLabels names {label!r}. Labels are: {', '.join(repr(known) for known in counts)}.")
    return found


def _table(unit: Unit, *, k: int) -> Batches:
    queries = np.flatnonzero(unit.home & unit.column("queried"))
    found = unit.nearest(queries, unit.index, k)
    ids, labels = unit.table.column("ids"), unit.table.column("label")
    k = found.rows.shape[1]
    step = OUTPUT_ROWS // max(k, 1) + 1
    for start in range(0, len(queries) if k else 0, step):
        stop = min(len(queries), start + step)
        rows, neighbors = np.repeat(queries[start:stop], k), found.rows[start:stop].ravel()
        ranks = np.tile(np.arange(1, k + 1, dtype=np.int32), stop - start)
        columns = [ids.take(rows), ids.take(neighbors), labels.take(rows), labels.take(neighbors)]
        yield pa.RecordBatch.from_arrays(
            [*(c.combine_chunks() for c in columns), pa.array(ranks), pa.array(found.squared[start:stop].ravel())],
            names=["row", "neighbor", "label", "neighborLabel", "rank", "squaredDistance"],
        )


@dataclass(frozen=True)
class NeighborQuality:
    """How the neighbours found compare with the true ones.

    Parameters
    ----------
    rows : int
        Rows looked at.
    k : int
        Neighbours of each.
    recall : float in [0, 1]
        Share of the true neighbours that are found; one as near as the k-th true neighbour counts as true.
    distanceRatio : float in [1, ∞)
        Mean distance of the neighbours found over that of the true ones.
    beyondBorder : float in [0, 1]
        Share of rows whose k-th neighbour lies further away than the nearest border of their cell.
    """

    rows: int
    k: int
    recall: float
    distanceRatio: float
    beyondBorder: float


def neighbor_quality(
    rows: DataFrame, spaces: Mapping[int, Space], counts: Mapping[int, int], k: Mapping[int, int], *, sample: int
) -> dict[int, NeighborQuality]:
    """Compare the neighbours of a sample of each group's rows with the true ones.

    Four jobs: the sample (at most twice `sample` rows of a group are collected), the scales where tasks find them, the
    neighbours found, and the true ones, for which every row of the groups is compared with the sample.
    """
    measured = _measured(rows, spaces)
    compared = rows.drop("label", "draw", "ids")
    queries = sampled(compared, counts, sample)
    flagged = rows.withColumn("queried", in_sample(counts, sample))
    schema = StructType(
        [StructField("group", IntegerType()), StructField("key", LongType()), StructField("squared", DoubleType())]
    )
    found = by_unit(flagged, measured, partial(_distances, k=dict(k)), schema)
    true = compared.mapInArrow(partial(_true_distances, queries=queries, spaces=measured, k=dict(k)), schema)
    quality = {}
    mine, nearest_ones = (_nearest_of_each(distances, max(k.values())) for distances in (found, true))
    for group, table in queries.items():
        keys = table.column("key").to_pylist()
        pairs = [(mine.get((group, key), []), nearest_ones.get((group, key), [])[: k[group]]) for key in keys]
        # A neighbour as near as the k-th true one is one of the k nearest, ties and the last digit aside.
        hits = sum(sum(x <= t[-1] * (1 + 1e-9) for x in m) for m, t in pairs if t)
        wanted = sum(len(t) for _, t in pairs)
        lengths = [np.sqrt(np.concatenate(side)).sum() for side in zip(*pairs, strict=True)]
        cells = measured[group].cells
        beyond = 0.0
        if cells is not None:
            borders = cells.border_distances(measured[group].metric(table).places)
            beyond = float(np.mean([m[-1] > border**2 for (m, _), border in zip(pairs, borders, strict=True) if m]))
        ratio = float(lengths[0] / lengths[1]) if lengths[1] else 1.0
        quality[group] = NeighborQuality(len(keys), k[group], hits / max(wanted, 1), ratio, beyond)
    return quality


def _measured(rows: DataFrame, spaces: Mapping[int, Space]) -> dict[int, Space]:
    """Give every space the center and scale that its one task would find: one job if any lacks them."""
    unmeasured = {group: space for group, space in spaces.items() if space.center is None}
    if not unmeasured:
        return dict(spaces)
    schema = StructType([StructField("group", IntegerType()), StructField("space", StringType())])
    found = by_unit(rows, unmeasured, partial(_scales, spaces=unmeasured), schema).limit(len(unmeasured)).collect()
    return {**spaces, **{row["group"]: Space.from_json(json.loads(row["space"])) for row in found}}


def _scales(unit: Unit, *, spaces: Mapping[int, Space]) -> Batches:
    measured = json.dumps(spaces[unit.group].measured(unit.table).to_json())
    yield pa.RecordBatch.from_arrays(
        [pa.array([unit.group], pa.int32()), pa.array([measured])], names=["group", "space"]
    )


def _distances(unit: Unit, *, k: Mapping[int, int]) -> Batches:
    queries = np.flatnonzero(unit.home & unit.column("queried"))
    found = unit.nearest(queries, unit.index, k[unit.group])
    yield _of_queries(unit.group, unit.column("key")[queries], found.squared)


def _true_distances(
    batches: Iterable[pa.RecordBatch],
    queries: Mapping[int, pa.Table],
    spaces: Mapping[int, Space],
    k: Mapping[int, int],
) -> Batches:
    """Compare the rows of a partition with the queries, block by block."""
    held: list[pa.RecordBatch] = []

    def compare() -> Batches:
        table = pa.Table.from_batches(held)
        groups = table.column("group").to_numpy()
        for group, asked in queries.items():
            members = table.take(np.flatnonzero(groups == group))
            if not len(members) or not len(asked):
                continue
            keys = asked.column("key").to_numpy()
            at = {key: len(asked) + i for i, key in enumerate(members.column("key").to_pylist())}
            own = np.array([at.get(key, -1) for key in keys.tolist()])
            both = pa.concat_tables([asked, members])
            found = nearest(
                spaces[group].metric(both),
                np.arange(len(asked)),
                np.arange(len(asked), len(both)),
                k[group],
                own=own,
                exact=True,
            )
            yield _of_queries(group, keys, found.squared)

    with threadpool_limits(limits=1):
        size = 0
        for batch in batches:
            held.append(batch)
            size += batch.nbytes
            if size > BLOCK_BYTES:
                yield from compare()
                held, size = [], 0
        if held:
            yield from compare()


def _of_queries(group: int, keys: np.ndarray, squared: np.ndarray) -> pa.RecordBatch:
    keys = np.repeat(keys, squared.shape[1])
    groups = pa.array(np.full(len(keys), group, np.int32))
    return pa.RecordBatch.from_arrays(
        [groups, pa.array(keys), pa.array(squared.ravel())], names=["group", "key", "squared"]
    )


def _nearest_of_each(distances: DataFrame, k: int) -> dict[tuple[int, int], list[float]]:
    """Collect the k smallest distances of each query, smallest first."""
    smallest = F.slice(F.sort_array(F.collect_list("squared")), 1, k)
    rows = distances.where(~F.isnan("squared")).groupBy("group", "key").agg(smallest.alias("squared")).collect()
    return {(row["group"], row["key"]): row["squared"] for row in rows}
