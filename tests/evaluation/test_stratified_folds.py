"""StratifiedFolds: exact shares of classes, groups that stay together, blocks of time, and what is refused."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import functions as F
from sklearn.model_selection import StratifiedGroupKFold

from sparkimb.errors import NotEnoughSamplesError, SparkimbError
from sparkimb.evaluation.folds import stratified_split
from sparkimb.evaluation.stratified_folds import StratifiedFolds, StratifiedFoldsModel, deal_groups, even_sizes
from sparkimb.testing import THREE_CLASSES, example

COUNTS = st.dictionaries(st.integers(0, 5), st.integers(1, 1_000), min_size=1)


def folded(df, **params):
    """Return (label, fold) to rows."""
    out = StratifiedFolds(**params).fit(df).transform(df)
    return {(row[0], row[1]): row[2] for row in out.groupBy("label", "fold").count().collect()}


@given(COUNTS, st.integers(2, 8))
def test_sizes_differ_by_at_most_one_row_in_a_class_and_over_all(counts, folds):
    sizes = even_sizes(counts, folds)
    assert {label: sum(rows) for label, rows in sizes.items()} == counts
    assert all(max(rows) - min(rows) <= 1 for rows in sizes.values())
    totals = np.sum(list(sizes.values()), axis=0)
    assert max(totals) - min(totals) <= 1


def test_twelve_positives_in_twenty_thousand_rows(spark):
    df = spark.range(20_000).select("id", (F.col("id") % 1_667 == 0).cast("int").alias("label"))
    found = folded(df, idCols=["id"])
    assert [found[1, fold] for fold in range(5)] == [3, 3, 2, 2, 2]
    assert [found[0, fold] + found[1, fold] for fold in range(5)] == [4_000] * 5


def test_equal_rows_share_a_part_and_a_warning_says_so(spark):
    df = spark.range(120).select((F.col("id") < 12).cast("int").alias("label"), F.greatest("id", F.lit(12)).alias("x"))
    with pytest.warns(UserWarning, match="instead of 2 rows of class 1: rows repeat another row exactly"):
        out = StratifiedFolds().fit(df).transform(df)
    assert out.where("label = 1").select("fold").distinct().count() == 1
    with pytest.warns(UserWarning, match="instead of 6 rows of class 1"):
        stratified_split(df, {"train": 0.5, "test": 0.5})


def test_the_same_rows_whatever_the_partitioning_and_others_with_another_seed(spark):
    df = example(spark).drop("fold")
    stage = StratifiedFolds(numFolds=3, idCols=["id"], seed=2)
    model = stage.fit(df)
    expected = {row["id"]: row["fold"] for row in model.transform(df).collect()}
    assert set(expected.values()) == {0, 1, 2}
    again = stage.fit(df.repartition(7)).transform(df.repartition(5))
    assert {row["id"]: row["fold"] for row in again.collect()} == expected
    other = stage.copy({stage.seed: 3}).fit(df).transform(df)
    assert {row["id"]: row["fold"] for row in other.collect()} != expected
    assert Counter((row["label"], row["fold"]) for row in other.collect()) == {
        (label, fold): rows for label, sizes in even_sizes(THREE_CLASSES, 3).items() for fold, rows in enumerate(sizes)
    }
    unseen = spark.createDataFrame([(1, "new"), (2, None)], "id bigint, label string")
    assert [row["fold"] for row in model.transform(unseen).collect()] == [None, None]


def test_a_cross_validator_takes_the_folds(spark):
    df = example(spark, {0.0: 60, 1.0: 12}).drop("fold")
    folds = StratifiedFolds(numFolds=3, idCols=["id"]).fit(df).transform(df)
    learner = LogisticRegression(maxIter=1)
    validator = CrossValidator(
        estimator=learner,
        estimatorParamMaps=ParamGridBuilder().build(),
        evaluator=BinaryClassificationEvaluator(),
        numFolds=3,
        foldCol="fold",
    )
    assert len(validator._kFold(folds)) == 3
    sizes = [(train.count(), test.where("label = 1").count()) for train, test in validator._kFold(folds)]
    assert sizes == [(48, 4)] * 3


def test_groups_stay_together_and_classes_spread(spark):
    rng = np.random.default_rng(0)
    rows = [(int(g), int(rng.random() < (0.5 if g % 7 == 0 else 0.02))) for g in rng.integers(0, 60, 1_500)]
    df = spark.createDataFrame([(i, *row) for i, row in enumerate(rows)], "id int, g int, label int")
    model = StratifiedFolds(groupCol="g").fit(df)
    out = model.transform(df)
    assert out.columns == [*df.columns, "fold"]
    by_group, by_fold = defaultdict(set), Counter()
    for _, g, label, fold in out.collect():
        by_group[g].add(fold)
        by_fold[label, fold] += 1
    assert all(len(folds) == 1 for folds in by_group.values())
    positives = [by_fold[1, fold] for fold in range(5)]
    x, groups = np.array([label for _, label in rows]), np.array([g for g, _ in rows])
    theirs = [x[test].sum() for _, test in StratifiedGroupKFold(5).split(x, x, groups)]
    assert max(positives) - min(positives) <= max(theirs) - min(theirs)
    negatives = [by_fold[0, fold] for fold in range(5)]
    assert max(negatives) - min(negatives) < 0.2 * np.mean(negatives)


@given(st.lists(st.lists(st.integers(0, 20), min_size=2, max_size=2), min_size=4, max_size=30), st.integers(2, 4))
def test_no_fold_stays_empty_if_there_are_groups_enough(counts, folds):
    counts = np.array([row for row in counts if sum(row)] + [[1, 1]] * folds, dtype=float)
    dealt = deal_groups(counts / counts.sum(axis=0), np.arange(len(counts)) / len(counts), folds)
    assert set(dealt) == set(range(folds))


def test_groups_of_equal_size_are_dealt_evenly():
    shares = np.repeat(np.eye(2), [6, 12], axis=0) / [6, 12]
    dealt = deal_groups(shares, np.random.default_rng(0).random(18), 3)
    assert Counter(dealt[:6]) == {0: 2, 1: 2, 2: 2}
    assert Counter(dealt[6:]) == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize("kind", ["timestamp", "timestamp_ntz", "date", "double"])
def test_time_is_cut_into_blocks_with_equal_shares_of_the_rare_class(spark, kind):
    times = {
        "timestamp": F.timestamp_seconds(F.col("id") * 3_600),
        "timestamp_ntz": F.timestamp_seconds(F.col("id") * 3_600).cast("timestamp_ntz"),
        "date": F.date_add(F.lit("2024-01-01").cast("date"), F.col("id").cast("int")),
        "double": F.col("id") / 7,
    }
    rare = F.sqrt("id") % 3 < F.lit(0.05)  # more often at first
    df = spark.range(400).select("id", times[kind].alias("time"), F.when(rare, "rare").otherwise("many").alias("label"))
    rows = StratifiedFolds(numFolds=4, timeCol="time").fit(df).transform(df).orderBy("id").collect()
    folds = [row["fold"] for row in rows]
    assert folds == sorted(folds)
    found = Counter(row["fold"] for row in rows if row["label"] == "rare")
    assert set(found) == {0, 1, 2, 3}
    assert max(found.values()) - min(found.values()) <= 1


def test_stages_and_models_come_back_from_disk(spark, tmp_path: Path):
    df = example(spark, {"a": 20, "b": 10}).drop("fold").withColumn("time", F.col("id") * 2.5)
    for params in ({"idCols": ["id"]}, {"groupCol": "note"}, {"timeCol": "time"}):
        stage = StratifiedFolds(numFolds=2, foldCol="k", **params)
        model = stage.fit(df)
        for _ in range(2):
            stage.write().overwrite().save(str(tmp_path / "stage"))
            model.write().overwrite().save(str(tmp_path / "model"))
        assert StratifiedFolds.load(str(tmp_path / "stage")).extractParamMap() == stage.extractParamMap()
        loaded = StratifiedFoldsModel.load(str(tmp_path / "model"))
        assert loaded.uid == model.uid
        assert sorted(loaded.transform(df).select("id", "k").collect()) == sorted(
            model.transform(df).select("id", "k").collect()
        )


def test_what_cannot_be_folded_is_refused(spark):
    df = example(spark, {0: 20, 1: 3}).drop("fold").withColumn("day", F.lit(1))
    unread = df.where(F.raise_error(F.lit("read")).cast("boolean"))
    for params, message in [
        ({"foldCol": "day"}, "foldCol 'day' is there already"),
        ({"groupCol": "color", "timeCol": "day"}, "both groupCol 'color' and timeCol 'day'"),
        ({"groupCol": "x"}, "groupCol 'x' not found"),
        ({"timeCol": "color"}, "timeCol 'color' is of type string"),
        ({"labelCol": "features"}, "labelCol 'features' is of type"),
    ]:
        with pytest.raises(SparkimbError, match=message):
            StratifiedFolds(**params).fit(unread)
    with pytest.raises(NotEnoughSamplesError, match=r"numFolds is 5, but of rows class 1 has 3 only"):
        StratifiedFolds(idCols=["id"]).fit(df)
    with pytest.raises(NotEnoughSamplesError, match=r"but of groups of 'stratum' class"):
        StratifiedFolds(groupCol="stratum", numFolds=3).fit(df)
    with pytest.raises(SparkimbError, match=r"timeCol 'day' has 1 different values in class 1"):
        StratifiedFolds(timeCol="day", numFolds=2).fit(df)
    nulls = df.withColumn("day", F.when(F.col("id") > 4, F.col("id"))).withColumn("label", F.lit(0))
    with pytest.raises(SparkimbError, match=r"timeCol 'day' is null or NaN in 5 rows"):
        StratifiedFolds(timeCol="day").fit(nulls)
    with pytest.raises(SparkimbError, match=r"groupCol 'day' is null in 5 rows"):
        StratifiedFolds(groupCol="day").fit(nulls)
    with pytest.raises(SparkimbError, match="has 1 null labels"):
        StratifiedFolds(idCols=["id"]).fit(df.withColumn("label", F.expr("nullif(id, 3)")))
    with pytest.raises(SparkimbError, match=r"StratifiedFolds\.numFolds is 1"):
        StratifiedFolds(numFolds=1)


def test_groups_that_leave_a_fold_without_a_class_are_told(spark):
    """Two groups have class b, and the even deal of both classes puts them together."""
    groups = [(7, 0), (0, 8), (6, 4)]
    rows = [(g, label) for g, (a, b) in enumerate(groups) for label in "a" * a + "b" * b]
    df = spark.createDataFrame(rows, "g int, label string")
    with pytest.warns(UserWarning, match=r"some of 2 folds have no rows of the classes \['b'\]"):
        StratifiedFolds(numFolds=2, groupCol="g").fit(df)


def test_a_split_of_one_part_and_of_three_is_exact(spark):
    df = example(spark, {"a": 50, "b": 12})
    whole = stratified_split(df, {"all": 1.0}, idCols=["id"])
    assert {row["split"] for row in whole.select("split").collect()} == {"all"}
    parts = stratified_split(df, {"x": 0.6, "y": 0.2, "z": 0.2}, idCols=["id"])
    found = {(row[0], row[1]): row[2] for row in parts.groupBy("label", "split").count().collect()}
    assert [found["b", part] for part in "xyz"] == [7, 3, 2]
    assert [found["a", part] for part in "xyz"] == [30, 10, 10]
