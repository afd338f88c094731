"""Class weights are scikit-learn's where they share a meaning, have mean 1 over the rows, and never lose a row."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.utils.class_weight import compute_class_weight

from sparkimb import ClassWeigher, ClassWeigherModel
from sparkimb.errors import SparkimbError
from sparkimb.testing import THREE_CLASSES, example
from sparkimb.weights import MODES, class_weights

COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10**9), min_size=2)
FORMULAS = {
    "inverse": lambda n, rows: 1 / rows,
    "sqrtInverse": lambda n, rows: rows**-0.5,
    "log": lambda n, rows: 1 + np.log(n.max() / rows),
    "maxRatio": lambda n, rows: n.max() / rows,
    "medianFrequency": lambda n, rows: np.median(n) / rows,
    "effectiveNumber": lambda n, rows: (1 - 0.999) / (1 - 0.999**rows),
}


@given(st.sampled_from(MODES), COUNTS)
def test_weights_have_mean_one_and_favour_small_classes(mode: str, counts: dict[str, int]) -> None:
    weights = class_weights(mode, counts)
    assert sum(weights[c] * n for c, n in counts.items()) / sum(counts.values()) == pytest.approx(1)
    ordered = [weights[c] for c in sorted(counts, key=lambda c: counts[c])]
    assert all(small >= large * (1 - 1e-12) for small, large in pairwise(ordered))


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 300), min_size=2))
def test_balanced_is_scikit_learn_s(counts: dict[str, int]) -> None:
    y = np.repeat(list(counts), list(counts.values()))
    labels = np.unique(y)
    expected = dict(zip(labels, compute_class_weight("balanced", classes=labels, y=y), strict=True))
    assert class_weights("balanced", counts) == pytest.approx(expected)


@given(st.sampled_from(sorted(FORMULAS)), COUNTS)
def test_weights_are_in_proportion_to_their_formula(mode: str, counts: dict[str, int]) -> None:
    weights = class_weights(mode, counts)
    n = np.array([*counts.values()], dtype=float)
    ratios = [weights[c] / FORMULAS[mode](n, rows) for c, rows in counts.items()]
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-6)


def test_beta_goes_from_equal_weights_to_inverse_ones() -> None:
    counts = {"a": 1000, "b": 10}
    assert class_weights("effectiveNumber", counts, beta=1e-9) == pytest.approx({"a": 1, "b": 1})
    assert class_weights("effectiveNumber", counts, beta=1 - 1e-12) == pytest.approx(
        class_weights("inverse", counts), rel=1e-6
    )


def test_every_row_gets_the_weight_of_its_class(spark: SparkSession) -> None:
    df = example(spark)
    model = ClassWeigher().fit(df)
    assert model.counts == THREE_CLASSES
    found = {tuple(row) for row in model.transform(df).select("label", "weight").collect()}
    assert found == set(class_weights("balanced", THREE_CLASSES).items())
    assert model.transform(df).drop("weight").collect() == df.collect()


def test_rows_without_a_known_label_weigh_one(spark: SparkSession) -> None:
    model = ClassWeigher().fit(example(spark))
    unseen = spark.createDataFrame([("new",), (None,)], "label string")
    assert [row["weight"] for row in model.transform(unseen).collect()] == [1.0, 1.0]
    assert [row["weight"] for row in model.transform(spark.range(2)).collect()] == [1.0, 1.0]


def test_weights_that_exist_are_multiplied(spark: SparkSession) -> None:
    df = example(spark).withColumn("a.weight", F.col("id") + 1)
    out = ClassWeigher(weightCol="a.weight").fit(df).transform(df)
    by_class = class_weights("balanced", THREE_CLASSES)
    assert out.columns == df.columns
    for row in out.collect():
        assert row["a.weight"] == pytest.approx(by_class[row["label"]] * (row["id"] + 1))
    with pytest.raises(SparkimbError, match="weightCol 'note' exists and is of type string"):
        ClassWeigher(weightCol="note").fit(df)


def test_given_weights_keep_their_proportions(spark: SparkSession) -> None:
    df = example(spark, {0: 30, 1: 10})
    model = ClassWeigher(weights={0: 1, 1.0: np.int64(5)}).fit(df)
    assert model.classWeights == pytest.approx({0: 40 / 80, 1: 5 * 40 / 80})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"0": 1}, r"missing are \[1\]"),
        ({"0": 1, "1": 1, "2": 1}, r"unknown are \['2'\]"),
        ({"0": 0, "1": 0}, "all 0"),
    ],
)
def test_given_weights_must_fit_the_labels(spark: SparkSession, weights: dict[str, float], message: str) -> None:
    with pytest.raises(SparkimbError, match=message):
        ClassWeigher(weights=weights).fit(example(spark, {0: 3, 1: 2}))


def test_one_class_and_null_labels_are_refused(spark: SparkSession) -> None:
    with pytest.raises(SparkimbError, match="one class only: 1 in all 3 rows"):
        ClassWeigher().fit(example(spark, {1: 3}))
    with pytest.raises(SparkimbError, match="null"):
        ClassWeigher().fit(example(spark, {1: 3}).withColumn("label", F.expr("nullif(id, 1)")))


def test_saved_weigher_and_model_are_the_same_after_loading(spark: SparkSession, tmp_path: Path) -> None:
    weigher = ClassWeigher(mode="log", weights={"common": 1, "middle": 2, "rare": 3}, weightCol="w")
    model = weigher.fit(example(spark))
    for _ in range(2):
        weigher.write().overwrite().save(str(tmp_path / "weigher"))
        model.write().overwrite().save(str(tmp_path / "model"))
    assert ClassWeigher.load(str(tmp_path / "weigher")).getWeights() == weigher.getWeights()
    loaded = ClassWeigherModel.load(str(tmp_path / "model"))
    assert (loaded.counts, loaded.classWeights, loaded.uid) == (model.counts, model.classWeights, model.uid)
