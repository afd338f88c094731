"""InstanceHardnessFolds deal rows of like hardness to all folds, and out_of_fold_predictions never saw their rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pyspark.ml.base import Estimator, Model
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F

from sparkimb.errors import NotEnoughSamplesError, SparkimbError
from sparkimb.evaluation.instance_hardness import InstanceHardnessFolds, InstanceHardnessFoldsModel
from sparkimb.evaluation.out_of_fold import out_of_fold_predictions

FOLDS = 4


def predicted(spark, n=500, classes=2, levels=None):
    """Labels, and probabilities that are mostly near 1 for the common class; with `levels`, with many ties."""
    rng = np.random.default_rng(0)
    label = rng.choice(classes, size=n, p=[0.9, *[0.1 / (classes - 1)] * (classes - 1)])
    right = rng.beta(8, 0.4, n)
    right = right if levels is None else np.round(right * levels) / levels
    p = np.repeat((1 - right[:, None]) / (classes - 1), classes, axis=1)
    p[np.arange(n), label] = right
    df = spark.createDataFrame(
        [(i, int(label[i]), p[i].tolist()) for i in range(n)], "id int, label int, probability array<double>"
    )
    return df, label, 1 - right


def folds_of(stage, df):
    out = stage.fit(df).transform(df)
    assert out.columns == [*df.columns, "fold"]
    return np.array([row["fold"] for row in out.orderBy("id").collect()])


@pytest.mark.parametrize(("classes", "levels"), [(2, None), (3, None), (2, 20)])
def test_rows_are_dealt_by_rank(spark, classes, levels):
    df, label, hardness = predicted(spark, classes=classes, levels=levels)
    fold = folds_of(InstanceHardnessFolds(numFolds=FOLDS, idCols=["id"]), df)
    start = 0
    for c in range(classes):
        of_class = label == c
        ranked = np.flatnonzero(of_class)[np.argsort(hardness[of_class], kind="stable")]
        expected = (start + np.arange(len(ranked))) % FOLDS
        if levels is None:
            assert fold[ranked].tolist() == expected.tolist()
        else:  # rows of one hardness have an order of their own: each hardness gets the folds due to it
            for level in np.unique(hardness[of_class]):
                tied = hardness[ranked] == level
                assert Counter(fold[ranked][tied]) == Counter(expected[tied])
        start += len(ranked)


def test_partitions_change_nothing_and_vectors_are_taken(spark):
    df, _, _ = predicted(spark, levels=10)
    stage = InstanceHardnessFolds(numFolds=FOLDS, idCols=["id"])
    expected = folds_of(stage, df)
    vectors = df.withColumn("probability", array_to_vector("probability")).repartition(5)
    assert folds_of(stage, vectors).tolist() == expected.tolist()
    other = folds_of(InstanceHardnessFolds(numFolds=FOLDS, idCols=["id"], seed=1), df)
    assert other.tolist() != expected.tolist(), "ties are in another order"
    assert Counter(other) == Counter(expected)


def test_stage_and_model_come_back_from_disk(spark, tmp_path):
    df, _, _ = predicted(spark, n=60)
    stage = InstanceHardnessFolds(numFolds=2, idCols=["id"])
    model = stage.fit(df)
    for _ in range(2):
        stage.write().overwrite().save(str(tmp_path / "stage"))
        model.write().overwrite().save(str(tmp_path / "model"))
    assert InstanceHardnessFolds.load(str(tmp_path / "stage")).extractParamMap() == stage.extractParamMap()
    loaded = InstanceHardnessFoldsModel.load(str(tmp_path / "model"))
    assert (loaded.starts, loaded.uid) == (model.starts, model.uid)
    assert sorted(loaded.transform(df).collect()) == sorted(model.transform(df).collect())
    unsound = spark.createDataFrame([(1, 5, [0.5, 0.5])], df.schema)
    assert loaded.transform(unsound).collect()[0]["fold"] is None


def test_what_cannot_be_dealt_is_refused(spark):
    schema = "id int, label int, probability array<double>"
    good, more = (1, 0, [0.5, 0.5]), [(i, i % 2, [0.5, 0.5]) for i in range(8)]
    for rows, message in [
        ([good, (2, 3, [0.5, 0.5]), (3, None, [0.5, 0.5])], "2 with labelCol 'label' null, or not the index"),
        ([good, (2, 0, None)], "1 with null probabilityCol"),
        ([good, (2, 0, [1.5, 0.5])], r"1 with probabilityCol 'probability' null, NaN or outside \[0, 1\] at the label"),
        ([], "The dataset has no rows"),
    ]:
        with pytest.raises(SparkimbError, match=message):
            InstanceHardnessFolds(numFolds=2).fit(spark.createDataFrame(rows, schema))
    df = spark.createDataFrame(more, schema)
    with pytest.raises(NotEnoughSamplesError, match=r"numFolds is 5, but of rows class 0 has 4, class 1 has 4 only"):
        InstanceHardnessFolds().fit(df)
    with pytest.raises(SparkimbError, match="foldCol 'id' is there already"):
        InstanceHardnessFolds(foldCol="id").fit(df)
    with pytest.raises(SparkimbError, match="probabilityCol 'id' is of type int"):
        InstanceHardnessFolds(probabilityCol="id").fit(df)


class Memory(Estimator["Remembered"]):
    """Remembers the ids that it is fitted on."""

    def _fit(self, dataset):
        model = Remembered()
        model.ids = [row["id"] for row in dataset.select("id").collect()]
        return model


class Remembered(Model):
    ids: list[int]

    def _transform(self, dataset):
        return dataset.withColumn("seen", F.col("id").isin(self.ids)).withColumn("others", F.lit(len(self.ids)))


def test_each_row_is_predicted_once_by_a_model_of_the_other_folds(spark):
    df = spark.range(20).select("id", F.when(F.col("id") < 18, F.col("id") % 3).alias("fold"))
    out = out_of_fold_predictions(df, Memory(), numFolds=3).collect()
    assert sorted(row["id"] for row in out) == list(range(18)), "rows without a fold are left out"
    assert {(row["seen"], row["others"]) for row in out} == {(False, 12)}
    with pytest.raises(SparkimbError, match="numFolds is 1"):
        out_of_fold_predictions(df, Memory(), numFolds=1)
    with pytest.raises(SparkimbError, match="foldCol 'part' not found"):
        out_of_fold_predictions(df, Memory(), numFolds=2, foldCol="part")
