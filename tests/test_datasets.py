"""The packaged table holds what its readme says; generated rows depend on id and seed alone, and do as documented."""

from __future__ import annotations

import csv
import os
from math import sqrt
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from sparkimb import datasets
from sparkimb.errors import SparkimbError

GENERATORS = {
    "blobs": (datasets.blobs, {}),
    "blobs of three classes": (datasets.blobs, {"minority": [0.2, 0.1], "clusters": 2, "features": 3}),
    "checkerboard": (datasets.checkerboard, {"noise": 0.1}),
    "card_fraud": (datasets.card_fraud, {"fraud": 0.1}),
    "abrupt": (datasets.drifting, {"noise": 0.1}),
    "gradual": (datasets.drifting, {"drift": "gradual", "minority_after": 0.3}),
    "prior": (datasets.drifting, {"drift": "prior"}),
    "stagger": (datasets.stagger, {"width": 0.2, "noise": 0.1}),
}
every_generator = pytest.mark.parametrize("name", GENERATORS)


def generate(name: str, spark: SparkSession, rows: int, **params: object) -> DataFrame:
    generator, defaults = GENERATORS[name]
    return generator(spark, rows, **{**defaults, **params})


def collected(df: DataFrame) -> list[tuple[object, ...]]:
    """Rows in the order of their first column, the id."""
    return sorted((tuple(row) for row in df.collect()), key=lambda row: row[0])


def assert_share(hits: float, rows: int, share: float) -> None:
    """A binomial count is within five standard deviations of its mean."""
    assert abs(hits - rows * share) <= 5 * sqrt(rows * share * (1 - share)), (hits, rows, share)


def assert_moments(values: pd.Series, mean: float, deviation: float) -> None:
    """Mean and standard deviation are within five standard errors (of a normal sample: no tails heavier than that)."""
    n = len(values)
    assert n > 100
    assert abs(values.mean() - mean) <= 5 * deviation / sqrt(n), (values.mean(), mean)
    assert abs(values.std() - deviation) <= 5 * deviation / sqrt(2 * n), (values.std(), deviation)


# --- every generator ---


@every_generator
def test_rows_do_not_depend_on_partitions(name: str, spark: SparkSession) -> None:
    by_partitions = {}
    for partitions in (1, 7, 64):
        rows = collected(generate(name, spark, 300, partitions=partitions).select("*", F.spark_partition_id()))
        assert len({row[-1] for row in rows}) == partitions
        by_partitions[partitions] = [row[:-1] for row in rows]
    assert by_partitions[1] == by_partitions[7] == by_partitions[64]


@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "stagger"])
def test_another_seed_gives_other_rows(name: str, spark: SparkSession) -> None:
    first, other = (collected(generate(name, spark, 200, seed=seed)) for seed in (1, 2))
    assert not any(a == b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", ["blobs", "checkerboard", "card_fraud", "gradual"])
@pytest.mark.parametrize("rows", [1, 100_000])
def test_row_count_and_ids(name: str, rows: int, spark: SparkSession) -> None:
    df = generate(name, spark, rows)
    key = df.columns[0]
    count, distinct, first, last = df.agg(F.count("*"), F.count_distinct(key), F.min(key), F.max(key)).first()
    assert (count, distinct, first, last) == (rows, rows, 0, rows - 1)


@pytest.mark.parametrize("name", ["blobs of three classes", "checkerboard", "card_fraud"])
def test_a_longer_table_begins_with_the_same_rows(name: str, spark: SparkSession) -> None:
    assert collected(generate(name, spark, 50)) == collected(generate(name, spark, 200))[:50]


@every_generator
def test_plan_has_no_python(name: str, spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    df = generate(name, spark, 10)
    df.explain(True)
    assert "Range" in (plan := capsys.readouterr().out)
    assert "Python" not in plan
    df.select(F.udf(lambda i: i, "long")(df.columns[0])).explain(True)
    assert "Python" in capsys.readouterr().out  # the word to look for, wherever there is a Python UDF


@pytest.mark.parametrize("name", ["blobs of three classes", "checkerboard", "abrupt"])
def test_layouts_hold_the_same_numbers(name: str, spark: SparkSession) -> None:
    scalars, array, vector = (
        generate(name, spark, 50, layout=kind, partitions=1) for kind in ("scalars", "array", "vector")
    )
    features = [c for c in scalars.columns if c.startswith("f")]
    assert {dict(scalars.dtypes)[c] for c in features} == {"double"}
    assert dict(array.dtypes)["features"] == "array<double>"
    assert dict(vector.dtypes)["features"] == "vector"
    expected = [row[-len(features) :] for row in collected(scalars)]
    assert [tuple(row[-1]) for row in collected(array)] == expected
    assert [tuple(row[-1].toArray()) for row in collected(vector)] == expected


# --- blobs ---


def test_blobs_shares_centres_and_spread(spark: SparkSession) -> None:
    shares = {0: 0.6, 1: 0.3, 2: 0.1}
    df = datasets.blobs(spark, 30_000, minority=[0.3, 0.1], features=3, separation=1.5, seed=3)
    assert df.dtypes == [("id", "bigint"), ("label", "int"), ("f0", "double"), ("f1", "double"), ("f2", "double")]
    table = df.toPandas()
    for label, share in shares.items():
        blob = table[table.label == label]
        assert_share(len(blob), len(table), share)
        for feature, centre in {"f0": 1.5 * label, "f1": 0.0, "f2": 0.0}.items():
            assert_moments(blob[feature], centre, 1.0)
        correlations = blob[["f0", "f1", "f2"]].corr().to_numpy()[np.triu_indices(3, 1)]
        assert np.abs(correlations).max() <= 5 / sqrt(len(blob))


def test_blobs_clusters_interleave(spark: SparkSession) -> None:
    table = datasets.blobs(spark, 20_000, minority=[0.2, 0.2], clusters=4, separation=100.0).toPandas()
    columns, lines = (table[feature].div(100.0).round().astype(int) for feature in ("f0", "f1"))
    assert set(zip(columns, lines, strict=True)) == {(column, line) for column in range(3) for line in range(4)}
    assert ((columns - lines) % 3 == table.label).all()
    for line in range(4):
        assert_share((lines == line).sum(), len(table), 0.25)


def test_blobs_are_as_separable_as_stated(spark: SparkSession) -> None:
    table = datasets.blobs(spark, 20_000, separation=2.0).toPandas()
    x, y = table[["f0", "f1"]].to_numpy(), table.label.to_numpy()
    area = roc_auc_score(y, LogisticRegression().fit(x, y).predict_proba(x)[:, 1])
    assert area == pytest.approx(NormalDist().cdf(sqrt(2.0)), abs=0.03)


# --- checkerboard ---


@pytest.mark.parametrize("noise", [0.0, 0.2, 1.0])
def test_checkerboard_colours(noise: float, spark: SparkSession) -> None:
    table = datasets.checkerboard(spark, 20_000, minority=0.3, squares=6, noise=noise).toPandas()
    dark = (np.floor(table.f0) + np.floor(table.f1)) % 2
    assert_share((table.label == 1).sum(), len(table), 0.3)
    for label in (0, 1):
        assert_share(((dark != label) & (table.label == label)).sum(), (table.label == label).sum(), noise)


def test_checkerboard_fills_its_squares_evenly(spark: SparkSession) -> None:
    table = datasets.checkerboard(spark, 20_000, minority=0.4, squares=4).toPandas()
    assert ((table[["f0", "f1"]] >= 0) & (table[["f0", "f1"]] < 4)).all(axis=None)
    for _, rows in table.groupby("label"):
        squares = rows.groupby([np.floor(rows.f0), np.floor(rows.f1)]).size()
        assert len(squares) == 8
        for n in squares:
            assert_share(n, len(rows), 1 / 8)
        for feature in ("f0", "f1"):
            assert_moments(rows[feature] % 1.0, 0.5, 1 / sqrt(12))


def test_checkerboard_needs_more_than_a_line(spark: SparkSession) -> None:
    table = datasets.checkerboard(spark, 20_000, minority=0.3).toPandas()
    x, y = table[["f0", "f1"]].to_numpy(), table.label.to_numpy()
    train, test = np.arange(len(y)) < 15_000, np.arange(len(y)) >= 15_000

    def area(model: LogisticRegression | DecisionTreeClassifier) -> float:
        return float(roc_auc_score(y[test], model.fit(x[train], y[train]).predict_proba(x[test])[:, 1]))

    assert area(LogisticRegression()) < 0.6
    assert area(DecisionTreeClassifier(min_samples_leaf=20, random_state=0)) > 0.9


# --- card_fraud ---


@pytest.fixture(scope="module")
def transactions(spark: SparkSession) -> pd.DataFrame:
    df = datasets.card_fraud(spark, 30_000, fraud=0.05, cards=100, days=30)
    return df.withColumn("second", F.unix_timestamp("timestamp") - 1_704_067_200).toPandas()


def test_card_fraud_columns(spark: SparkSession) -> None:
    assert dict(datasets.card_fraud(spark, 10).dtypes) == {
        "transaction_id": "bigint",
        "card_id": "bigint",
        "timestamp": "timestamp",
        "amount": "double",
        "category": "string",
        "country": "string",
        "channel": "string",
        "device_age": "double",
        "is_fraud": "boolean",
    }


def test_card_fraud_default_share(spark: SparkSession) -> None:
    assert_share(datasets.card_fraud(spark, 200_000).where("is_fraud").count(), 200_000, 0.002)


def test_card_fraud_values(transactions: pd.DataFrame) -> None:
    table = transactions
    assert_share(table.is_fraud.sum(), len(table), 0.05)
    assert set(table.card_id) == set(range(100))
    assert table.second.between(0, 30 * 86_400 - 1).all()
    assert set(table.second // 86_400) == set(range(30))
    assert set(table.channel) == {"chip", "contactless", "online", "phone"}
    assert table.columns[table.isna().any()].to_list() == ["device_age"]
    for fraud in (False, True):  # nulls say nothing about the class
        assert_share(table.device_age[table.is_fraud == fraud].isna().sum(), (table.is_fraud == fraud).sum(), 0.08)
    assert (table.device_age.dropna() >= 0).all()
    assert (table.amount.round(2) == table.amount).all()
    assert_moments(np.log(table.amount[~table.is_fraud & (table.amount > 0)]), 3.3, 0.9)


def test_card_fraud_is_oftener_at_night(transactions: pd.DataFrame) -> None:
    night = transactions.second % 86_400 < 6 * 3_600
    assert night[transactions.is_fraud].mean() > 2 * night[~transactions.is_fraud].mean()


def test_card_fraud_can_be_learned_but_not_perfectly(transactions: pd.DataFrame) -> None:
    x = pd.get_dummies(transactions[["category", "country", "channel"]], dtype=float)
    x["log_amount"] = np.log1p(transactions.amount)
    x["night"] = (transactions.second % 86_400 < 6 * 3_600).astype(float)
    x["device_age"] = transactions.device_age.fillna(0.0) / 400.0
    train = transactions.transaction_id < 20_000
    model = LogisticRegression(max_iter=500).fit(x[train], transactions.is_fraud[train])
    area = roc_auc_score(transactions.is_fraud[~train], model.predict_proba(x[~train])[:, 1])
    assert 0.7 < area < 0.97


# --- drifting ---


def drifting(spark: SparkSession, **params: object) -> pd.DataFrame:
    df = datasets.drifting(spark, 20_000, **params)
    table = df.withColumn("second", F.unix_timestamp("event_time") - 1_704_067_200).toPandas()
    return table.assign(sum=table.f0 + table.f1)


def assert_concept(table: pd.DataFrame, theta: float, minority: float) -> None:
    assert ((table["sum"] <= theta) == (table.label == 1)).all()
    assert_share(table.label.sum(), len(table), minority)


def test_drifting_abrupt(spark: SparkSession) -> None:
    table = drifting(spark, at=0.3, minority=0.2)
    assert (table.second == table.id).all()
    assert dict(datasets.drifting(spark, 1).dtypes)["event_time"] == "timestamp"
    assert_concept(table[table.id < 6_000], 7.0, 0.2)
    assert_concept(table[table.id >= 6_000], 9.5, 0.2)


def test_drifting_abrupt_with_another_share(spark: SparkSession) -> None:
    table = drifting(spark, minority=0.1, minority_after=0.3)
    assert_concept(table[table.id < 10_000], 7.0, 0.1)
    assert_concept(table[table.id >= 10_000], 9.5, 0.3)


def test_drifting_prior(spark: SparkSession) -> None:
    table = drifting(spark, drift="prior", minority=0.1)
    assert_concept(table[table.id < 10_000], 7.0, 0.1)
    assert_concept(table[table.id >= 10_000], 7.0, 0.9)


def test_drifting_gradual(spark: SparkSession) -> None:
    table = drifting(spark, drift="gradual", at=0.5, width=0.4, minority=0.5)
    assert_concept(table[table.id < 6_000], 7.0, 0.5)
    assert_concept(table[table.id >= 14_000], 9.5, 0.5)
    # Of the new concept's label 1 the part above the old theta is known, so it tells how many rows have drifted.
    above_old_theta = 1 - (7.0 / 9.5) ** 2
    for start in range(6_000, 14_000, 2_000):
        rows = table[table.id.between(start, start + 1_999) & (table.label == 1)]
        drifted = (start + 1_000 - 6_000) / 8_000
        assert_share((rows["sum"] > 7.0).sum(), len(rows), drifted * above_old_theta)


def test_drifting_points_are_uniform_on_the_part_of_their_class(spark: SparkSession) -> None:
    table = drifting(spark, drift="prior", minority=0.5, minority_after=0.5)
    assert table[["f0", "f1", "f2"]].min().min() >= 0
    assert table[["f0", "f1", "f2"]].max().max() <= 10
    points = np.random.default_rng(0).uniform(0, 10, (400_000, 2))  # the slow way: draw points, then keep the class's
    below = points.sum(axis=1) <= 7.0
    for label, part in {1: points[below], 0: points[~below]}.items():
        rows = table[table.label == label]
        assert_moments(rows.f2, 5.0, 10 / sqrt(12))
        for i, feature in enumerate(["f0", "f1"]):
            assert_moments(rows[feature], part[:, i].mean(), part[:, i].std())
        correlation = np.corrcoef(part.T)[0, 1]
        assert rows.f0.corr(rows.f1) == pytest.approx(correlation, abs=5 / sqrt(len(rows)))


def test_drifting_noise_leaves_the_share(spark: SparkSession) -> None:
    table = drifting(spark, drift="prior", minority=0.2, minority_after=0.2, noise=0.1)
    assert_share(table.label.sum(), len(table), 0.2)
    for label in (0, 1):
        rows = table[table.label == label]
        assert_share(((rows["sum"] <= 7.0) != (label == 1)).sum(), len(rows), 0.1)


# --- stagger ---

STAGGER = {  # label 1 in the paper's words
    1: lambda t: (t["size"] == "small") & (t.colour == "red"),
    2: lambda t: (t.colour == "green") | (t["shape"] == "circular"),
    3: lambda t: (t["size"] == "medium") | (t["size"] == "large"),
}


def stagger(spark: SparkSession, **params: object) -> pd.DataFrame:
    df = datasets.stagger(spark, 20_000, **params)
    return df.withColumn("second", F.unix_timestamp("event_time") - 1_704_067_200).toPandas()


def test_stagger_concepts_and_shares(spark: SparkSession) -> None:
    table = stagger(spark, changes=(0.25, 0.5), minority=[0.1, 0.5, 0.2])
    assert (table.second == table.id).all()
    for concept, first, last, share in [(1, 0, 4_999, 0.1), (2, 5_000, 9_999, 0.5), (3, 10_000, 19_999, 0.2)]:
        rows = table[table.id.between(first, last)]
        assert (STAGGER[concept](rows) == (rows.label == 1)).all()
        assert_share(rows.label.sum(), len(rows), share)
        for label, figures in rows.groupby("label"):
            # All figures of the class occur, each as often as any other.
            among = figures.value_counts(["size", "colour", "shape"])
            assert len(among) == {1: 3, 2: 15, 3: 18}[concept] if label else 27 - {1: 3, 2: 15, 3: 18}[concept]
            for n in among:
                assert_share(n, len(figures), 1 / len(among))


def test_another_seed_gives_other_figures(spark: SparkSession) -> None:
    first, other = (collected(datasets.stagger(spark, 400, concepts=[2], changes=[], seed=seed)) for seed in (1, 2))
    same = sum(a == b for a, b in zip(first, other, strict=True))
    # By chance: both of label 1 and one of 15 figures, or both of label 0 and one of 12.
    assert_share(same, 400, 0.1**2 / 15 + 0.9**2 / 12)


def test_stagger_changes_gradually(spark: SparkSession) -> None:
    table = stagger(spark, concepts=[3, 1], changes=[0.5], width=0.4, minority=0.5)
    assert (STAGGER[3](table) == (table.label == 1))[table.id < 6_000].all()
    assert (STAGGER[1](table) == (table.label == 1))[table.id >= 14_000].all()
    for start in range(6_000, 14_000, 2_000):
        rows = table[table.id.between(start, start + 1_999) & (table.label == 1)]
        assert_share(STAGGER[1](rows).sum(), len(rows), (start + 1_000 - 6_000) / 8_000)


def test_stagger_noise_leaves_the_share(spark: SparkSession) -> None:
    table = stagger(spark, concepts=[2], changes=[], noise=0.1, minority=0.3)
    assert_share(table.label.sum(), len(table), 0.3)
    for _, rows in table.groupby("label"):
        assert_share((STAGGER[2](rows) != (rows.label == 1)).sum(), len(rows), 0.1)


# --- parameters ---


@pytest.mark.parametrize(
    ("generator", "params", "message"),
    [
        (datasets.blobs, {"rows": 0}, r"blobs\.rows is 0\. Use a whole number in \[1, ∞\)"),
        (datasets.blobs, {"minority": 0.0}, r"blobs\.minority is 0\.0\. Use a number in \(0, 1\)"),
        (datasets.blobs, {"minority": float("nan")}, r"blobs\.minority is nan"),
        (datasets.blobs, {"minority": [0.5, 0.5]}, r"blobs\.minority is \[0\.5, 0\.5\], which sums to 1\."),
        (datasets.blobs, {"minority": []}, r"blobs\.minority is \[\], which sums to 0\."),
        (datasets.blobs, {"features": 1}, r"blobs\.features is 1"),
        (datasets.blobs, {"clusters": 0}, r"blobs\.clusters is 0"),
        (datasets.blobs, {"separation": -1.0}, r"blobs\.separation is -1\.0\. Use a number in \[0, ∞\)"),
        (datasets.blobs, {"layout": "sparse"}, r"blobs\.layout is 'sparse'\. Use 'scalars'"),
        (datasets.blobs, {"partitions": 0}, r"blobs\.partitions is 0"),
        (datasets.checkerboard, {"squares": 3}, r"checkerboard\.squares is 3.*such as 4"),
        (datasets.checkerboard, {"squares": 0}, r"checkerboard\.squares is 0"),
        (datasets.checkerboard, {"noise": 1.1}, r"checkerboard\.noise is 1\.1\. Use a number in \[0, 1\]"),
        (datasets.card_fraud, {"fraud": 1.0}, r"card_fraud\.fraud is 1\.0"),
        (datasets.card_fraud, {"cards": 0}, r"card_fraud\.cards is 0"),
        (datasets.card_fraud, {"days": -1}, r"card_fraud\.days is -1"),
        (datasets.drifting, {"drift": "sudden"}, r"drifting\.drift is 'sudden'\. Use 'abrupt'"),
        (datasets.drifting, {"at": 1.0}, r"drifting\.at is 1\.0"),
        (datasets.drifting, {"width": 0.0}, r"drifting\.width is 0\.0"),
        (datasets.drifting, {"minority_after": 2}, r"drifting\.minority_after is 2"),
        (datasets.stagger, {"concepts": [4], "changes": []}, r"stagger\.concepts is \[4\]\. Use numbers of concepts"),
        (datasets.stagger, {"concepts": [], "changes": []}, r"stagger\.concepts is \[\]"),
        (datasets.stagger, {"changes": (0.5,)}, r"stagger\.changes is \[0\.5\], with concepts \[1, 2, 3\]\. Use one"),
        (datasets.stagger, {"changes": (0.7, 0.5)}, r"stagger\.changes is \[0\.7, 0\.5\]"),
        (datasets.stagger, {"width": 1.0}, r"stagger\.width is 1\.0\. Use a number in \[0, 1\)"),
        (datasets.stagger, {"minority": [0.1, 0.2]}, r"stagger\.minority has 2 shares for 3 concepts"),
    ],
)
def test_values_out_of_range(generator, params, message: str, spark: SparkSession) -> None:
    with pytest.raises(SparkimbError, match=message):
        generator(spark, **{"rows": 10, **params})


@pytest.mark.parametrize(
    ("generator", "params", "message"),
    [
        (datasets.blobs, {"rows": 10.0}, r"blobs\.rows is 10\.0, a float\. Use an int"),
        (datasets.blobs, {"seed": None}, r"blobs\.seed is None, a NoneType"),
        (datasets.blobs, {"minority": "0.1"}, r"blobs\.minority is '0', a str\. Use a number"),
        (datasets.checkerboard, {"squares": True}, r"checkerboard\.squares is True, a bool"),
        (datasets.drifting, {"noise": "much"}, r"drifting\.noise is 'much', a str"),
    ],
)
def test_values_of_a_wrong_type(generator, params, message: str, spark: SparkSession) -> None:
    with pytest.raises(TypeError, match=message):
        generator(spark, **{"rows": 10, **params})


def test_numpy_numbers_are_numbers(spark: SparkSession) -> None:
    ours = datasets.blobs(spark, np.int64(20), minority=np.float32(0.25), clusters=np.int32(2), seed=np.int64(4))
    assert collected(ours) == collected(datasets.blobs(spark, 20, minority=0.25, clusters=2, seed=4))


# --- hypothyroid ---


def test_hypothyroid_file() -> None:
    assert os.path.getsize(datasets.path("hypothyroid")) < 300_000
    with open(datasets.path("hypothyroid"), newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    assert len(records) == 3_163
    assert [int(r["patient_id"]) for r in records] == list(range(1, 3_164))
    assert sum(r["diagnosis"] == "hypothyroid" for r in records) == 151


def test_hypothyroid_is_the_file_with_types(spark: SparkSession) -> None:
    df = datasets.hypothyroid(spark)
    numbers = {"age", "TSH", "T3", "TT4", "T4U", "FTI", "TBG"}
    assert {name for name, kind in df.dtypes if kind == "double"} == numbers
    assert {name for name, kind in df.dtypes if kind == "int"} == {"patient_id"}
    assert sum(kind == "string" for _, kind in df.dtypes) == 19
    oracle = pd.read_csv(datasets.path("hypothyroid"), keep_default_na=False, na_values=[""])
    ours = df.orderBy("patient_id").toPandas()
    pd.testing.assert_frame_equal(ours.convert_dtypes(), oracle.convert_dtypes(), check_dtype=False)


def test_hypothyroid_nulls_on_spark(spark: SparkSession) -> None:
    df = datasets.hypothyroid(spark)
    values = ["TSH", "T3", "TT4", "T4U", "FTI", "TBG"]
    unlike_flag = [F.count_if((F.col(f"{v}_measured") == "n") != F.isnull(v)).alias(f"{v} unlike flag") for v in values]
    found = df.agg(*[F.count_if(F.isnull(c)).alias(c) for c in df.columns], *unlike_flag).first().asDict()
    assert {name: rows for name, rows in found.items() if rows} == {
        "age": 446, "sex": 73, "TSH": 468, "T3": 695, "TT4": 249, "T4U": 248, "FTI": 247, "TBG": 2_903,
    }  # fmt: skip
    assert df.drop("patient_id").distinct().count() == 3_163 - 77


def test_unknown_packaged_name() -> None:
    with pytest.raises(SparkimbError, match=r"No packaged data set is named 'iris'\. Names are: hypothyroid\."):
        datasets.path("iris")
