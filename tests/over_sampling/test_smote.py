"""SMOTE: neighbours and distribution are imbalanced-learn's, every row made lies between two of its class."""

from __future__ import annotations

import logging
import math
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from compare import rows
from imblearn import over_sampling as imblearn
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.linalg import SparseVector, VectorUDT
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StringType, StructType
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from sparkimb import SMOTE, NotEnoughSamplesError, SparkimbError
from sparkimb.neighbors import spaces
from sparkimb.testing import example

ALARM = 1e-3  # how often the statistical tests of one function would fail for other seeds, all together
COMMON, RARE, D, K = 50, 100, 5, 3
NAMES = [f"f{i}" for i in range(D)]


def data(rare: int = RARE) -> tuple[Any, Any]:
    """Return features and labels: the rare class lies in four places, so that a wrong neighbour would show."""
    rng = np.random.default_rng(0)
    places = rng.normal(size=(4, D)) * 4
    x = np.concatenate([rng.normal(size=(COMMON, D)) * 3, places[np.arange(rare) % 4] + rng.normal(size=(rare, D))])
    return x, np.repeat(["common", "rare"], [COMMON, rare])


def frame(spark: SparkSession, x: Any, y: Any) -> DataFrame:
    local = [(i, label, *row) for i, (row, label) in enumerate(zip(x.tolist(), y.tolist(), strict=True))]
    return spark.createDataFrame(local, "id bigint, label string, " + ", ".join(f"{name} double" for name in NAMES))


def sampler(target: int, **params: Any) -> SMOTE:
    given = {"inputCols": NAMES, "idCols": ["id"], "lineageCol": "line", "kNeighbors": K, "maxGrowth": 100.0}
    return SMOTE(**{**given, "samplingStrategy": {"rare": target}, **params})


def made_by(out: DataFrame) -> tuple[Any, Any, Any, Any]:
    """Return the rows made: features, ids of parents and of neighbours, gaps."""
    made = out.where("line is not null").select(*NAMES, "line.parent.id", "line.neighbor.id", "line.gap").collect()
    table = np.array([tuple(row) for row in made], float)
    return table[:, :D], table[:, D].astype(int), table[:, D + 1].astype(int), table[:, D + 2]


@pytest.fixture(scope="module", name="made")
def _made(spark: SparkSession) -> tuple[Any, Any, Any, Any]:
    """Rows made as imbalanced-learn makes them: 29 or 30 of each row."""
    model = sampler(RARE + 2950, scale="none", neighborSearch="exact").fit(frame(spark, *data()))
    return made_by(model.resample(frame(spark, *data())))


def true_neighbors() -> Any:
    x = data()[0][COMMON:]
    found = NearestNeighbors(n_neighbors=K + 1, algorithm="brute").fit(x).kneighbors(x, return_distance=False)
    return found[:, 1:] + COMMON


def test_pairs_are_those_of_the_neighbour_table(made: Any) -> None:
    """All of them and no other: with 29 draws of 3 neighbours one would be missed in 1 of 400 seeds."""
    _, parents, neighbors, _ = made
    table = {(parent + COMMON, int(other)) for parent, others in enumerate(true_neighbors()) for other in others}
    assert set(zip(parents.tolist(), neighbors.tolist(), strict=True)) == table


def test_rows_made_lie_on_the_segments(made: Any) -> None:
    values, parents, neighbors, gaps = made
    x, _ = data()
    np.testing.assert_allclose(values, x[parents] + gaps[:, None] * (x[neighbors] - x[parents]), atol=1e-12)
    assert ((gaps >= 0) & (gaps < 1)).all()


def test_each_row_is_a_parent_equally_often(made: Any) -> None:
    times = Counter(made[1].tolist())
    assert sorted(times) == list(range(COMMON, COMMON + RARE))
    assert Counter(times.values()) == {29: 50, 30: 50}


def test_gaps_and_neighbours_are_drawn_evenly(made: Any) -> None:
    _, parents, neighbors, gaps = made
    assert len(np.unique(gaps)) == len(gaps)
    ranks = np.argmax(true_neighbors()[parents - COMMON] == neighbors[:, None], axis=1)
    of_rank = [gaps[ranks == rank] for rank in range(K)]
    pvalues = [stats.kstest(some, "uniform").pvalue for some in (gaps, *of_rank)]
    pvalues.append(stats.chisquare([len(some) for some in of_rank]).pvalue)
    assert min(pvalues) > ALARM / len(pvalues)


def pvalues(ours: Any, theirs: Any) -> list[float]:
    """Compare the distributions of each feature and of the distances to the nearest row of the class."""
    to_nearest = NearestNeighbors(n_neighbors=1).fit(data()[0][COMMON:])
    apart = [to_nearest.kneighbors(values)[0][:, 0] for values in (ours, theirs)]
    return [stats.ks_2samp(a, b).pvalue for a, b in [*zip(ours.T, theirs.T, strict=True), apart]]


def test_rows_made_are_distributed_as_imbalanced_learn_s(made: Any) -> None:
    def theirs(k: int) -> Any:
        oracle = imblearn.SMOTE(sampling_strategy={"rare": RARE + 2950}, k_neighbors=k, random_state=0)
        return oracle.fit_resample(*data())[0][COMMON + RARE :]

    found = pvalues(made[0], theirs(K))
    assert min(found) > ALARM / len(found)
    assert min(pvalues(made[0], theirs(20))) < 1e-6, "the comparison tells other neighbours"


def test_seeds_draw_apart(spark: SparkSession) -> None:
    df = frame(spark, *data())
    drawn = []
    for seed in (0, 1, 0):
        _, parents, neighbors, gaps = made_by(sampler(2 * RARE, seed=seed).fitResample(df))
        order = np.argsort(parents)
        assert parents[order].tolist() == list(range(COMMON, COMMON + RARE))
        drawn.append((gaps[order], neighbors[order]))
    first, other, again = drawn
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first[0], other[0])[0, 1]) < stats.norm.isf(ALARM / 4) / math.sqrt(RARE)
    # Two draws of one of three agree in a third of the rows.
    assert stats.binomtest(int((first[1] == other[1]).sum()), RARE, 1 / K).pvalue > ALARM / 2


def test_totals_are_exact_for_every_class(spark: SparkSession) -> None:
    df = example(spark, {0: 90, 1: 17, 2: 23, 3: 40})
    labels = dict(df.select("id", "label").collect())
    for strategy, expected in (
        ("auto", {0: 90, 1: 90, 2: 90, 3: 90}),
        ({1: 18, 2: 70}, {0: 90, 1: 18, 2: 70, 3: 40}),
    ):
        model = SMOTE(idCols=["id"], lineageCol="line", samplingStrategy=strategy).fit(df)
        out = model.resample(df).select("id", "label", "line").collect()
        assert Counter(row["label"] for row in out) == expected == model.plan.targets
        assert sorted(row["id"] for row in out if row["line"] is None) == list(range(170))
        for row in out:
            if row["line"] is not None:
                assert labels[row["line"]["parent"]["id"]] == labels[row["line"]["neighbor"]["id"]] == row["label"]


def rare_rows(spark: SparkSession, **columns: str) -> DataFrame:
    """Rows of SQL expressions of `id` and of `x`, a normal number with three digits."""
    df = example(spark, {"common": 60, "rare": 24}).withColumn("x", F.round(F.col("f0") * 100, 1))
    return df.select("id", "label", *(F.expr(value).alias(name) for name, value in columns.items()))


def midpoint(parent: float, neighbor: float, gap: float) -> float:
    """Return what a row made has between two numbers, each of which may be missing."""
    if not math.isfinite(parent):
        return neighbor if math.isfinite(neighbor) else math.nan
    return parent + gap * (neighbor - parent) if math.isfinite(neighbor) else parent


def expected_and_found(df: DataFrame, out: DataFrame, name: str) -> list[tuple[float, Any]]:
    """Return for each row made the value that lies between its parents', NaN where missing, and what it has."""

    def number(value: Any) -> float:
        return math.nan if value is None else float(value)

    values = {row["id"]: number(row[name]) for row in df.collect()}
    return [
        (midpoint(*(values[row["line"][end]["id"]] for end in ("parent", "neighbor")), row["line"]["gap"]), row[name])
        for row in out.where("line is not null").collect()
    ]


def test_features_keep_their_types(spark: SparkSession) -> None:
    kinds = {
        "byte": "cast(x / 10 as byte)",
        "short": "cast(x as short)",
        "whole": "cast(x as int)",
        "long": "cast(x as bigint)",
        "single": "cast(x as float)",
        "double": "x",
        "money": "cast(x as decimal(12,2))",
    }
    df = rare_rows(spark, **kinds)
    out = SMOTE(inputCols=list(kinds), idCols=["id"], lineageCol="line").fitResample(df)
    assert [(f.name, f.dataType) for f in out.schema][:-1] == [(f.name, f.dataType) for f in df.schema]
    rounding = {"byte": 0.5, "short": 0.5, "whole": 0.5, "long": 0.5, "single": 1e-4, "double": 1e-9, "money": 0.005}
    local, made = df.cache(), out.cache()
    for name, most in rounding.items():
        pairs = expected_and_found(local, made, name)
        assert len(pairs) == 36
        assert all(abs(float(found) - expected) <= most + 1e-9 for expected, found in pairs)
        assert any(abs(float(found) - expected) > 0 for expected, found in pairs) or name == "double"
    assert isinstance(made.where("line is not null").first()["money"], Decimal)  # type: ignore[index]
    local.unpersist()
    made.unpersist()


def test_single_numbers_stay_single(spark: SparkSession) -> None:
    df = rare_rows(spark, features="array(cast(x as float), cast(id as float))", x="x")
    out = SMOTE(idCols=["id"], lineageCol="line").fitResample(df)
    assert out.schema["features"].dataType == df.schema["features"].dataType
    firsts = (df.withColumn("first", F.col("features")[0]), out.withColumn("first", F.col("features")[0]))
    pairs = expected_and_found(*firsts, "first")
    np.testing.assert_allclose([found for _, found in pairs], [expected for expected, _ in pairs], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("form", ["columns", "array", "vector"])
def test_what_is_missing_comes_from_the_other_parent(spark: SparkSession, form: str) -> None:
    """Null (which a vector cannot hold), NaN and infinities alike."""
    kinds = ["'NaN'" if form == "vector" else "null", "'NaN'", "'Infinity'", "'-Infinity'"]
    missing = ", ".join(f"cast({kind} as double)" for kind in kinds)
    x = f"if(id % 3 > 0, element_at(array({missing}), cast(id % 4 + 1 as int)), x)"
    df = rare_rows(spark, x=x, other="cast(id as double)")
    features = F.array("x", "other")
    df = df.withColumn("features", array_to_vector(features) if form == "vector" else features)
    given: dict[str, Any] = {"inputCols": ["x", "other"]} if form == "columns" else {}
    out = SMOTE(idCols=["id"], lineageCol="line", **given).fitResample(df)
    if form != "columns":
        out = out.withColumn("x", vector_to_array("features")[0] if form == "vector" else F.col("features")[0])
    pairs = expected_and_found(df, out, "x")
    known = [expected for expected, _ in pairs if not math.isnan(expected)]
    assert 0 < len(known) < len(pairs), "some have a number from either parent, some from neither"
    for expected, found in pairs:
        if not math.isnan(expected):
            assert found == pytest.approx(expected, abs=1e-9)
        else:
            assert found is None if form == "columns" else math.isnan(found)


def test_sparse_vectors_are_as_dense_ones(spark: SparkSession) -> None:
    df = rare_rows(spark, x="x", zero="0.0D", other="if(id % 4 = 0, cast(id as double), 0.0D)")
    dense = df.select("id", "label", array_to_vector(F.array("x", "zero", "other")).alias("features"))
    local = [
        (row["id"], row["label"], SparseVector(3, {i: v for i, v in enumerate(row["features"].toArray()) if v}))
        for row in dense.collect()
    ]
    schema = StructType().add("id", LongType()).add("label", StringType()).add("features", VectorUDT())
    sparse = spark.createDataFrame(local, schema)
    outs = [
        SMOTE(idCols=["id"], lineageCol="line").fitResample(some).withColumn("features", vector_to_array("features"))
        for some in (dense, sparse)
    ]
    assert rows(outs[0]) == rows(outs[1])


def test_vectors_too_long_are_refused(spark: SparkSession) -> None:
    schema = StructType().add("label", StringType()).add("features", VectorUDT())
    local = [("rare" if i % 3 == 0 else "common", SparseVector(4097, {i: 1.0})) for i in range(24)]
    with pytest.raises(SparkimbError, match=r"SMOTE: .* length 4,097, .* at most 4,096\. Reduce them first"):
        SMOTE().fit(spark.createDataFrame(local, schema))


def test_too_few_rows_for_the_neighbours(spark: SparkSession) -> None:
    df = example(spark, {"common": 30, "rare": 5})
    with pytest.raises(
        NotEnoughSamplesError,
        match=r"SMOTE\.kNeighbors is 5, but class 'rare' has only 5 rows \(labelCol 'label'\)\. "
        r"Use kNeighbors <= 4 or 'auto', or RandomOverSampler for this class\.",
    ):
        SMOTE(idCols=["id"]).fit(df)
    with pytest.raises(NotEnoughSamplesError, match=r"class 'rare' has only 1 rows .* Use RandomOverSampler"):
        SMOTE(idCols=["id"], kNeighbors="auto").fit(example(spark, {"common": 30, "rare": 1}))


def test_auto_takes_the_neighbours_there_are_and_says_so(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    df = example(spark, {"common": 30, "rare": 3, "few": 8})
    with caplog.at_level(logging.WARNING, logger="sparkimb"):
        out = SMOTE(idCols=["id"], kNeighbors="auto", lineageCol="line", maxGrowth=20).fitResample(df)
    assert [record.message for record in caplog.records] == [
        "SMOTE.kNeighbors is 2 for class 'rare', which has 3 rows."
    ]
    made = out.where("label = 'rare' and line is not null").select("line.parent.id", "line.neighbor.id").collect()
    assert len(made) == 27
    assert {(a, b) for a, b in made} == {(a, b) for a in (30, 31, 32) for b in (30, 31, 32) if a != b}


def test_exact_search_of_a_large_class_is_refused(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "MAX_UNIT_BYTES", 99 * D * 4)
    with pytest.raises(SparkimbError, match=r"SMOTE\.neighborSearch is 'exact', but a group of 100 rows .* takes 99"):
        sampler(200, neighborSearch="exact").fit(frame(spark, *data()))


@pytest.fixture(name="small_units")
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a task take 60 rows."""
    monkeypatch.setattr(spaces, "MAX_UNIT_BYTES", 60 * D * 4)


@pytest.mark.parametrize("search", ["partition", "cells"])
@pytest.mark.usefixtures("small_units")
def test_divided_classes_do_not_depend_on_partitions(spark: SparkSession, search: str) -> None:
    x, y = data(rare=300)
    df = frame(spark, x, y)
    models = [sampler(1010, neighborSearch=search).fit(df.repartition(partitions)) for partitions in (1, 16)]
    assert models[0]._state() == models[1]._state()
    assert models[0].spaces["rare"].units >= 5
    seen = [
        rows(model.resample(df.repartition(partitions)).where("line is not null").select(*NAMES, "line"))
        for model, partitions in zip([*models, models[0]], (1, 16, 7), strict=True)
    ]
    assert seen[0] == seen[1] == seen[2]
    assert sum(seen[0].values()) == 710


@pytest.mark.usefixtures("small_units")
def test_cells_find_the_true_neighbours_nearly_always(spark: SparkSession) -> None:
    x, y = data(rare=300)
    df = frame(spark, x, y)
    model = sampler(2000, neighborSearch="cells", scale="none").fit(df)
    values, parents, neighbors, gaps = made_by(model.resample(df))
    np.testing.assert_allclose(values, x[parents] + gaps[:, None] * (x[neighbors] - x[parents]), atol=1e-12)
    assert Counter(Counter(parents.tolist()).values()) == {5: 100, 6: 200}
    rare = x[COMMON:]
    truth = NearestNeighbors(n_neighbors=K + 1, algorithm="brute").fit(rare).kneighbors(rare, return_distance=False)
    known = (truth[parents - COMMON, 1:] + COMMON == neighbors[:, None]).any(axis=1)
    assert known.mean() >= 0.9


@pytest.mark.parametrize("search", ["partition", "cells"])
@pytest.mark.usefixtures("small_units")
def test_few_rows_of_other_data_do(spark: SparkSession, search: str) -> None:
    """Units that hold fewer rows than kNeighbors, one row or none; each row makes as many as it did."""
    df = frame(spark, *data(rare=300))
    model = sampler(1010, neighborSearch=search).fit(df)
    times = Counter(made_by(model.resample(df))[1].tolist())
    few = df.where("id % 37 = 0 or label = 'common'")
    values, parents, neighbors, gaps = made_by(model.resample(few))
    wanted = {i: n for i, n in times.items() if i % 37 == 0}
    assert Counter(parents.tolist()) == wanted
    x, _ = data(rare=300)
    np.testing.assert_allclose(values, x[parents] + gaps[:, None] * (x[neighbors] - x[parents]), atol=1e-12)
    assert model.resample(df.where("label = 'common'")).count() == COMMON


@pytest.mark.usefixtures("small_units")
def test_a_large_class_may_grow_by_a_row(spark: SparkSession) -> None:
    """Most cells then have no row to make."""
    df = frame(spark, *data(rare=300))
    _, parents, neighbors, _ = made_by(sampler(301, neighborSearch="cells").fitResample(df))
    assert len(parents) == 1
    assert parents != neighbors


def test_a_class_searched_by_lists_may_grow_by_a_row(spark: SparkSession) -> None:
    df = frame(spark, *data(rare=1500))
    parts = sampler(1501, neighborSearch="cells").fit(df)
    assert parts.resample(df).where("line is not null").count() == 1
    assert parts.resample(df.where("id % 7 > 0")).where("line is not null").count() <= 1


def test_rows_alike_make_different_rows(spark: SparkSession) -> None:
    distinct = example(spark, {"common": 120, "rare": 10}).select("label", "f0", "f1")
    rare = distinct.where("label = 'rare'")
    df = distinct.unionByName(rare).unionByName(rare)
    with pytest.warns(UserWarning, match="Set idCols"):
        model = SMOTE(inputCols=["f0", "f1"], kNeighbors=8, syntheticCol="made").fit(df)
    made = [tuple(row) for row in model.resample(df).where("made").select("f0", "f1").collect()]
    originals = {tuple(row) for row in rare.select("f0", "f1").collect()}
    assert len(made) == 90
    between = [row for row in made if row not in originals]
    assert len(between) >= 50, "three in four neighbours are not the row's copies"
    assert all(a != b for a, b in pairwise(sorted(between)))
