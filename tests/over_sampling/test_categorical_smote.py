"""SMOTENC and SMOTEN: their distances, whom they find and what neighbours vote, against slow oracles."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import imblearn.over_sampling
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.metrics.pairwise import ValueDifferenceMetric
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkimb.draws import row_key
from sparkimb.errors import SparkimbError
from sparkimb.neighbors import spaces
from sparkimb.neighbors.categories import Category, Mixed, MixedSpace, ValueDifference, ValueDifferenceSpace, vote
from sparkimb.neighbors.cells import Cells
from sparkimb.neighbors.kernel import nearest
from sparkimb.neighbors.metrics import FARTHEST
from sparkimb.neighbors.spaces import Scaling, Space
from sparkimb.over_sampling import smoten
from sparkimb.over_sampling.smoten import SMOTEN, SMOTENModel
from sparkimb.over_sampling.smotenc import SMOTENC, SMOTENCModel
from sparkimb.testing import example

# --- without Spark ----------------------------------------------------------------------------------------------------


def as_table(numbers: np.ndarray, columns: list[list[Any]]) -> pa.Table:
    features = pa.array(list(numbers), pa.list_(pa.float64()))
    return pa.table({"features": features} | {f"c{i}": column for i, column in enumerate(columns)})


def all_pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(n), n), np.tile(np.arange(n), n)


def assert_coarse_is_below(metric: Mixed | ValueDifference, n: int, *, loose: float) -> None:
    """Coarse distances never exceed exact ones, and are no lower than rounding makes them, or `loose` allows.

    But where numbers or categories were brought nearer, since they lay beyond the farthest place.
    """
    everything = np.arange(n)
    exact = metric.exact(*all_pairs(n)).reshape(n, n)
    coarse = metric.coarse(everything, everything)
    assert coarse.dtype == np.float32
    offset = metric.offset(everything)[:, None]
    assert (coarse.astype(np.float64) + offset <= exact).all()
    in_place = (np.abs(metric.places) < FARTHEST).all(axis=1) & (getattr(metric, "mismatch", 0.0) < FARTHEST)
    pairs = in_place[:, None] & in_place
    found, exact, lengths = (part[pairs] for part in (coarse.astype(np.float64) + offset, exact, offset + offset.T))
    assert (found >= loose * exact - 1e-4 * (lengths + exact) - 1e-30).all()


@st.composite
def mixed_rows(draw: Any) -> tuple[np.ndarray, list[list[Any]]]:
    n, d, c = draw(st.integers(2, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shift, stretch = draw(st.sampled_from([0.0, 1.0, 1e6])), 10.0 ** draw(st.integers(-9, 9))
    number = st.one_of(st.floats(-10, 10), st.integers(-2, 2).map(float), st.just(float("nan")))
    numbers = np.array(draw(st.lists(number, min_size=n * d, max_size=n * d))).reshape(n, d)
    value = st.one_of(st.none(), st.sampled_from("abc"))
    return shift + stretch * numbers, [draw(st.lists(value, min_size=n, max_size=n)) for _ in range(c)]


@settings(max_examples=100, deadline=None)
@given(mixed_rows(), st.sampled_from(spaces.SCALINGS))
def test_coarse_distances_of_mixed_rows_are_below_the_exact_ones(data: Any, scaling: Scaling) -> None:
    numbers, columns = data
    metric = MixedSpace(scaling, True).metric(as_table(numbers, columns))
    assert isinstance(metric, Mixed)
    assert_coarse_is_below(metric, len(numbers), loose=1.0)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(2, 11), st.integers(1, 5))
def test_coarse_value_differences_are_below_the_exact_ones(data: Any, classes: int, c: int) -> None:
    """For two classes they differ by rounding alone; for more, and for classes put together, they are looser."""
    counts = st.lists(st.integers(0, 10**6), min_size=classes, max_size=classes).filter(any)
    values = [data.draw(st.fixed_dictionaries(dict.fromkeys("abc", counts))) for _ in range(c)]
    n = data.draw(st.integers(1, 12))
    value = st.one_of(st.none(), st.sampled_from("abcd"))
    columns = [data.draw(st.lists(value, min_size=n, max_size=n)) for _ in range(c)]
    space = ValueDifferenceSpace("none", True, values=values, rows=data.draw(counts))
    metric = space.metric(as_table(np.empty((n, 0)), columns))
    assert isinstance(metric, ValueDifference)
    assert_coarse_is_below(metric, n, loose=1.0 if classes == 2 else 0.0)


@pytest.mark.parametrize("scaling", spaces.SCALINGS)
def test_mixed_distances_are_those_of_the_definition(scaling: Scaling) -> None:
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=(40, 3)) * [1, 10, 100]
    words = [[*rng.choice(["x", "y", None], 39), "z"] for _ in range(2)]
    table = as_table(numbers, words)
    squared = slow_mixed(numbers, words, scaling)
    found = MixedSpace(scaling, True).metric(table).exact(*all_pairs(40))
    np.testing.assert_allclose(found.reshape(40, 40), squared, rtol=1e-12)


def slow_mixed(numbers: np.ndarray, columns: list[list[Any]], scaling: Scaling) -> np.ndarray:
    scale = {
        "none": np.ones(numbers.shape[1]),
        "standard": numbers.std(axis=0),
        "robust": np.quantile(numbers, 0.75, axis=0) - np.quantile(numbers, 0.25, axis=0),
    }[scaling]
    scaled = numbers / scale
    m = np.median(scaled.std(axis=0))
    n = len(numbers)
    squared = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            unlike = sum(column[i] != column[j] for column in columns)
            squared[i, j] = ((scaled[i] - scaled[j]) ** 2).sum() + m**2 * unlike
    return squared


def test_unscaled_neighbours_are_those_of_imbalanced_learn() -> None:
    """Its encoded matrix (one-hot times M / sqrt(2)) gives the same distances, so the same neighbours in order."""
    rng = np.random.default_rng(2)
    numbers, colours, sizes = rng.normal(size=(90, 2)) * [1, 3], rng.choice(list("rgb"), 90), rng.choice(4, 90)
    labels = np.repeat([0, 1], [60, 30])
    theirs = imblearn.over_sampling.SMOTENC([2, 3], k_neighbors=5, random_state=0)
    data = np.column_stack([numbers.astype(object), colours.astype(object), sizes.astype(object)])
    theirs.fit_resample(data, labels)
    rare = labels == 1
    table = as_table(numbers[rare], [colours[rare].tolist(), sizes[rare].tolist()])
    space = MixedSpace("none", True).measured(table)
    assert space.mismatch == pytest.approx(theirs.median_std_[1], rel=1e-12)
    everything = np.arange(30)
    expected = theirs.nn_k_.kneighbors(return_distance=False)[:, :5]
    assert (nearest(space.metric(table), everything, everything, 5, exact=True).rows == expected).all()


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_value_differences_are_those_of_imbalanced_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    codes, labels = rng.integers(0, 6, (300, 4)), rng.choice(classes, 300)
    expected = ValueDifferenceMetric().fit(codes, labels).pairwise(codes[:50])
    values = [
        {str(v): np.bincount(labels[codes[:, f] == v], minlength=classes).tolist() for v in range(6)} for f in range(4)
    ]
    space = ValueDifferenceSpace("none", True, values=values, rows=np.bincount(labels).tolist())
    metric = space.metric(as_table(np.empty((50, 0)), [list(map(str, column)) for column in codes[:50].T]))
    np.testing.assert_allclose(metric.exact(*all_pairs(50)).reshape(50, 50), expected, rtol=1e-10, atol=1e-15)


def test_a_value_null_or_unseen_has_the_shares_of_the_classes() -> None:
    space = ValueDifferenceSpace("none", True, values=[{"a": [8, 2]}], rows=[60, 40])
    metric = space.metric(as_table(np.empty((3, 0)), [["a", None, "new"]]))
    squared = metric.exact(np.array([0, 0, 1]), np.array([1, 2, 2]))
    np.testing.assert_allclose(squared, [0.16, 0.16, 0.0], rtol=1e-12)


def clustered(n: int, seed: int) -> pa.Table:
    """Rows around 30 places, whose categories are mostly those of the place."""
    rng = np.random.default_rng(seed)
    place = rng.integers(0, 30, n)
    numbers = (rng.normal(size=(30, 4)) * 4)[place] + rng.normal(size=(n, 4))
    typical = rng.integers(0, 6, (30, 5))
    codes = np.where(rng.random((n, 5)) < 0.8, typical[place], rng.integers(0, 6, (n, 5)))
    return as_table(numbers, [[None if code == 5 else f"value {code}" for code in column] for column in codes.T])


def value_space(table: pa.Table, classes: int) -> ValueDifferenceSpace:
    rng = np.random.default_rng(classes)
    values = [
        {text: rng.integers(1, 100, classes).tolist() for text in table.column(f"c{i}").unique().to_pylist() if text}
        for i in range(5)
    ]
    return ValueDifferenceSpace("none", False, values=values, rows=rng.integers(1, 100, classes).tolist())


@pytest.mark.parametrize("kind", ["mixed", "2 classes", "9 classes"])
def test_lists_and_cells_find_what_an_exact_search_finds(kind: str) -> None:
    table = clustered(3000, seed=3)
    space = MixedSpace("robust", False).measured(table) if kind == "mixed" else value_space(table, int(kind.split()[0]))
    everything = np.arange(len(table))
    metric = space.metric(table)
    true = nearest(metric, everything, everything, 5, exact=True)
    listed = nearest(metric, everything, everything, 5, exact=False)
    # In value differences many rows are equally near: one as near as the fifth is as good.
    farthest = true.squared[:, -1:] * (1 + 1e-9)
    assert (listed.squared <= farthest).mean() >= 0.9

    cells = Cells.learn(metric.places, k=5, rows=len(table), max_rows=1500)
    assert cells.number > 1
    sent, homes, home = cells.route(metric.places)
    hits = []
    for cell in range(cells.number):
        members = np.sort(sent[homes == cell])
        found = nearest(metric, np.sort(sent[(homes == cell) & home]), members, 5, exact=True)
        hits.append((found.squared <= farthest[np.sort(sent[(homes == cell) & home])]).ravel())
    assert np.concatenate(hits).mean() >= 0.9


def test_places_do_not_depend_on_which_rows_there_are() -> None:
    table = clustered(500, seed=4)
    for space in (MixedSpace("standard", True).measured(table), value_space(table, 3)):
        whole = space.metric(table).places
        for part in (slice(0, 7), slice(100, 400)):
            assert (space.metric(table.slice(part.start, part.stop - part.start)).places == whole[part]).all()


def test_unlike_categories_are_about_m_apart_in_places() -> None:
    table = as_table(np.zeros((200, 1)), [[f"value {i}" for i in range(200)], ["same"] * 200])
    space = MixedSpace("none", True, center=(0.0,), scale=(1.0,), mismatch=3.0)
    places = space.metric(table).places
    apart = ((places[:, None] - places) ** 2).sum(axis=2)[np.triu_indices(200, 1)]
    assert apart.mean() == pytest.approx(9.0, rel=0.02)
    assert apart.min() > 0.5


def test_rows_left_out_at_a_place_are_nobodys_neighbours() -> None:
    rng = np.random.default_rng(5)
    table = as_table(np.empty((400, 0)), [rng.choice(list("abc"), 400).tolist() for _ in range(5)])
    table = table.append_column("c5", pa.array([None] * 400, pa.string()))
    space = ValueDifferenceSpace("none", True, values=[{"a": [9, 1], "b": [5, 5]}] * 6, rows=[7, 3])
    metric = space.metric(table)
    assert isinstance(metric, ValueDifference)
    everything = np.arange(400)
    index = metric.distinct(4)
    assert len(index) < 400
    found, true = (nearest(metric, everything, some, 3, exact=True) for some in (index, everything))
    assert (found.rows == true.rows).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=5), st.floats(0, 1 - 2**-53))
def test_votes_go_to_a_mode(votes: list[list[int]], draw: float) -> None:
    winners = vote(np.array(votes, np.uint8), np.full(len(votes), draw))
    for row, winner in zip(votes, winners.tolist(), strict=True):
        assert row.count(winner) == max(Counter(row).values())


def test_tied_codes_win_equally_often() -> None:
    draws = (np.arange(600) + 0.5) / 600
    winners = vote(np.tile([7, 3, 3, 1, 7, 1, 2], (600, 1)), draws)
    assert Counter(winners.tolist()) == {1: 200, 3: 200, 7: 200}


@pytest.mark.parametrize(
    "values",
    [
        ["a", None, "", "a"],
        [True, None, False],
        [1, 2, None, 1],
        [1.5, None, 2.5],
        [Decimal("1.10"), None],
        [date(2020, 1, 2), None, date(2020, 1, 2)],
        [datetime(2020, 1, 2, 3, 4), None],
    ],
    ids=lambda values: type(values[0]).__name__,
)
def test_categories_of_every_type_survive_and_null_is_one_of_them(values: list[Any]) -> None:
    column = pa.chunked_array([values[:1], values[1:]])
    category = Category.of(column)
    assert category.take(category.codes).to_pylist() == values
    assert category.take(category.codes).type == column.type
    assert len(set(category.codes.tolist())) == len(set(values))
    assert len(set(category.texts)) == len(category.values) + 1


@pytest.mark.parametrize("space", [MixedSpace("robust", True), value_space(clustered(50, 6), 3), Space("none", False)])
def test_spaces_come_back_from_json_as_what_they_were(space: Space) -> None:
    cells = Cells.learn(np.random.default_rng(7).normal(size=(100, 2)), k=2, rows=100, max_rows=40)
    for one in (space, space.measured(clustered(50, 6)), type(space)(**{**vars(space), "cells": cells})):
        again = Space.from_json(json.loads(json.dumps(one.to_json())))
        assert type(again) is type(one)
        assert again.to_json() == one.to_json()


# --- with Spark -------------------------------------------------------------------------------------------------------

TYPED = "id bigint, label string, x double, n int, word string, flag boolean, size int, day date"
CATEGORIES = ["word", "flag", "size", "day"]


def typed(spark: SparkSession, common: int = 60, rare: int = 24) -> DataFrame:
    """Numbers and categories of four types with nulls, which tell the classes apart a little."""
    rng = np.random.default_rng(8)
    data = []
    for i in range(common + rare):
        p = 0.8 if i < common else 0.3
        data.append(
            (
                i,
                "common" if i < common else "rare",
                float(rng.normal(scale=3)),
                int(rng.integers(0, 100)),
                ["red", "green", None][int(rng.choice(3, p=[p, 0.9 - p, 0.1]))],
                [True, False, None][int(rng.choice(3, p=[0.9 - p, p, 0.1]))],
                [10, 20, 30, None][int(rng.choice(4, p=[p / 2, p / 2, 0.9 - p, 0.1]))],
                [date(2024, 1, 1), date(2024, 1, 2)][int(rng.random() < p)],
            )
        )
    return spark.createDataFrame(data, TYPED)


def of_class(df: DataFrame, label: str) -> list[Any]:
    """Collect the rows of a class in the order in which neighbours at one distance are taken."""
    return df.where(F.col("label") == label).orderBy(F.xxhash64(*row_key(df, ["id"]))).collect()


def neighbours_by(squared: np.ndarray, k: int) -> np.ndarray:
    apart = squared.copy()
    np.fill_diagonal(apart, np.inf)
    return np.argsort(apart, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("scale", ["none", "robust"])
def test_smotenc_makes_numbers_on_segments_and_categories_that_neighbours_vote_for(
    spark: SparkSession, scale: Scaling
) -> None:
    k = 4
    df = typed(spark)
    sampler = SMOTENC(
        inputCols=["x", "n"], categoricalCols=CATEGORIES, kNeighbors=k, scale=scale, idCols=["id"], lineageCol="line"
    )
    sampler.setParams(samplingStrategy={"rare": 24 * 40}, maxGrowth=20)
    out = sampler.fitResample(df)
    assert out.drop("line").schema.simpleString() == df.schema.simpleString()
    made = out.where("line is not null").collect()
    assert len(made) == 24 * 39

    rare = of_class(df, "rare")
    numbers = np.array([[row["x"], row["n"]] for row in rare], float)
    neighbours = neighbours_by(slow_mixed(numbers, [[row[c] for row in rare] for c in CATEGORIES], scale), k)
    at = {row["id"]: i for i, row in enumerate(rare)}
    met: dict[int, set[int]] = {i: set() for i in range(24)}
    for row in made:
        parent, other, gap = at[row["line"]["parent"]["id"]], at[row["line"]["neighbor"]["id"]], row["line"]["gap"]
        met[parent].add(other)
        between = numbers[parent] + gap * (numbers[other] - numbers[parent])
        assert row["x"] == pytest.approx(between[0], rel=1e-12)
        assert abs(row["n"] - between[1]) <= 0.5 + 1e-9
        for c in CATEGORIES:
            votes = Counter(rare[i][c] for i in neighbours[parent])
            assert votes[row[c]] == max(votes.values()), (c, votes, row)
    assert met == {i: set(neighbours[i].tolist()) for i in range(24)}
    assert {row["word"] for row in made} >= {"red", "green"}


def test_smoten_takes_what_a_row_and_its_neighbours_vote_for(spark: SparkSession) -> None:
    """Values that are no strings are looked up, too: neighbours are those by imbalanced-learn's metric on all rows."""
    k = 4
    df = typed(spark).where("word is not null and flag is not null and size is not null")
    sampler = SMOTEN(categoricalCols=CATEGORIES, kNeighbors=k, idCols=["id"], lineageCol="line", maxGrowth=20)
    rare, common = of_class(df, "rare"), of_class(df, "common")
    sampler.setParams(samplingStrategy={"rare": len(rare) * 10})
    out = sampler.fitResample(df)
    assert out.drop("line").schema.simpleString() == df.schema.simpleString()
    made = out.where("line is not null").collect()

    texts = np.array([[str(row[c]) for c in CATEGORIES] for row in [*rare, *common]])
    codes = np.column_stack([np.unique(column, return_inverse=True)[1] for column in texts.T])
    theirs = ValueDifferenceMetric().fit(codes, np.repeat([1, 0], [len(rare), len(common)]))
    neighbours = neighbours_by(theirs.pairwise(codes[: len(rare)]), k)
    at = {row["id"]: i for i, row in enumerate(rare)}
    assert Counter(at[row["line"]["parent"]["id"]] for row in made) == dict.fromkeys(range(len(rare)), 9)
    for row in made:
        assert (row["line"]["neighbor"], row["line"]["gap"]) == (None, 0.0)
        assert (row["x"], row["n"]) == (None, None)
        parent = at[row["line"]["parent"]["id"]]
        for c in CATEGORIES:
            votes = Counter(rare[i][c] for i in [parent, *neighbours[parent]])
            assert votes[row[c]] == max(votes.values()), (c, votes, row)


def test_smoten_counts_the_values_of_all_classes_and_leaves_out_nulls(spark: SparkSession) -> None:
    df = typed(spark)
    model = SMOTEN(categoricalCols=["size", "flag"], idCols=["id"]).fit(df)
    for name, counted in zip(["size", "flag"], model.values, strict=True):
        found = Counter((str(row[name]).lower(), row["label"]) for row in df.collect() if row[name] is not None)
        assert {(v, c): n for v, ns in counted.items() for c, n in zip(model.plan.counts, ns, strict=True)} == found


@pytest.mark.parametrize("kind", ["SMOTENC", "SMOTEN"])
def test_classes_cut_into_cells_and_saved_models(
    spark: SparkSession, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neighbours in cells vote as those in one unit do; models come back as they were."""
    df = typed(spark, common=900, rare=500)
    shared: dict[str, Any] = {"categoricalCols": CATEGORIES, "idCols": ["id"], "lineageCol": "line", "scale": "none"}
    sampler = SMOTENC(inputCols=["x", "n"], **shared) if kind == "SMOTENC" else SMOTEN(**shared)
    whole = {row["line"]["parent"]["id"]: row for row in sampler.fitResample(df).where("line is not null").collect()}
    monkeypatch.setattr(spaces, "MAX_UNIT_BYTES", 250 * 8 * 4)
    model = sampler.fit(df)
    assert model.spaces["rare"].units > 1
    made = model.resample(df).where("line is not null").collect()
    assert len(made) == len(whole) == 400
    agree = np.mean([row[c] == whole[row["line"]["parent"]["id"]][c] for row in made for c in CATEGORIES])
    assert agree >= 0.9

    path = str(tmp_path / kind)
    model.write().save(path)
    loaded = {"SMOTENC": SMOTENCModel, "SMOTEN": SMOTENModel}[kind].load(path)
    assert json.loads(json.dumps(loaded._state())) == json.loads(json.dumps(model._state()))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (SMOTENC(inputCols=["f0"]), "SMOTENC.categoricalCols is not set .*use SMOTE where"),
        (SMOTENC(categoricalCols=["color"]), "SMOTENC.inputCols is not set .*use SMOTEN where"),
        (SMOTENC(), "SMOTENC.categoricalCols is not set"),
        (SMOTENC(inputCols=["f0", "fold"], categoricalCols=["fold"]), r"\['fold'\] are in inputCols and in"),
        (SMOTENC(inputCols=["f0"], categoricalCols=["list"]), r"'list' \(array<bigint>\).*cast them"),
        (SMOTENC(inputCols=["f9"], categoricalCols=["colour"]), "'f9'.*'colour'.*not found"),
        (SMOTEN(), "SMOTEN.categoricalCols is not set.*use SMOTE"),
        (SMOTEN(inputCols=["f0"], categoricalCols=["color"]), r"inputCols is \['f0'\].*Use SMOTENC"),
        (SMOTEN(categoricalCols=["list", "color"]), r"'list' \(array<bigint>\)"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_job(spark: SparkSession, sampler: Any, message: str) -> None:
    df = example(spark).withColumn("list", F.array("id")).where(F.raise_error(F.lit("it was read")).cast("boolean"))
    with pytest.raises(SparkimbError, match=message):
        sampler.fit(df)


def test_too_many_values_are_refused_by_the_name_of_the_column(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoten, "MAX_COUNTS", 200)
    with pytest.raises(SparkimbError, match=r"at most 200 counts.* 3 classes, and 'note' alone has about 1\d\d values"):
        SMOTEN(categoricalCols=["color", "note"], idCols=["id"]).fit(example(spark))
    SMOTEN(categoricalCols=["color", "stratum"], idCols=["id"]).fit(example(spark))
