"""PartitionLocalSampler: a group's rows are those that the sampler itself gives, and counts are exact over groups."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from compare import rows
from hypothesis import given
from hypothesis import strategies as st
from imblearn.combine import SMOTEENN
from imblearn.over_sampling import SMOTE, SVMSMOTE
from imblearn.over_sampling import RandomOverSampler as ImblearnOverSampler
from imblearn.under_sampling import ClusterCentroids, InstanceHardnessThreshold, NearMiss, TomekLinks
from imblearn.under_sampling import RandomUnderSampler as ImblearnUnderSampler
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.linear_model import LogisticRegression

from sparkimb import SparkimbError
from sparkimb.over_sampling.partition_local import (
    PartitionLocalSampler,
    PartitionLocalSamplerModel,
    group_state,
    targets_of_groups,
)
from sparkimb.strategy import SamplingPlan
from sparkimb.testing import example

ROWS = {"common": 120, "rare": 30}


def in_key_order(df: Any) -> Any:
    return df.withColumn("key", F.xxhash64("id")).orderBy("key").toPandas()


def test_one_group_of_an_over_sampler_is_the_sampler_s_own_answer(spark: SparkSession) -> None:
    df = example(spark, ROWS)
    sampler = PartitionLocalSampler(
        sampler=SMOTE(k_neighbors=3), inputCols=["f0", "f1"], idCols=["id"], syntheticCol="made", seed=4
    )
    model = sampler.fit(df)
    out = model.resample(df).where("made").toPandas()
    local = in_key_order(df)
    codes = (local["label"] == "rare").astype(int)
    oracle = SMOTE(k_neighbors=3, sampling_strategy={1: 120}, random_state=group_state(4, 0))
    x, _ = oracle.fit_resample(local[["f0", "f1"]].to_numpy(), codes.to_numpy())
    np.testing.assert_array_equal(np.sort(out[["f0", "f1"]].to_numpy(), axis=0), np.sort(x[len(local) :], axis=0))
    assert set(out["label"]) == {"rare"}
    assert out["id"].isna().all()
    assert len(model.targets) == 1


@pytest.mark.parametrize("oracle", [NearMiss(version=2), ImblearnUnderSampler()], ids=lambda s: type(s).__name__)
def test_one_group_of_an_under_sampler_keeps_the_rows_that_it_selects(spark: SparkSession, oracle: Any) -> None:
    df = example(spark, ROWS)
    out = PartitionLocalSampler(sampler=oracle, idCols=["id"], samplingStrategy=0.5).fitResample(df)
    local = in_key_order(df)
    oracle.set_params(sampling_strategy={0: 60})
    if "random_state" in oracle.get_params():
        oracle.set_params(random_state=group_state(0, 0))
    x = np.stack([v.toArray() for v in local["features"]])
    oracle.fit_resample(x, (local["label"] == "rare").astype(int).to_numpy())
    assert {row["id"] for row in out.collect()} == set(local["id"].to_numpy()[oracle.sample_indices_].tolist())
    assert out.schema == df.schema


@pytest.mark.parametrize("inner", [SMOTE(), ImblearnUnderSampler()], ids=lambda s: type(s).__name__)
def test_many_groups_meet_the_plan_whatever_the_partitioning(spark: SparkSession, inner: Any, tmp_path: Any) -> None:
    df = example(spark, {"common": 400, "rare": 160})
    sampler = PartitionLocalSampler(sampler=inner, rowsPerGroup=100, idCols=["id"], samplingStrategy=0.77)
    model = sampler.fit(df)
    assert len(model.targets) == 3  # so that the smallest class has 50 rows in each
    out = model.resample(df)
    expected = rows(out)
    assert Counter(row["label"] for row in out.select("label").collect()) == model.plan.targets
    assert rows(sampler.fitResample(df.repartition(11, F.col("note")))) == expected
    model.write().save(f"{tmp_path}/model")
    assert rows(PartitionLocalSamplerModel.load(f"{tmp_path}/model").resample(df)) == expected


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=30), st.floats(0, 3))
def test_targets_of_groups_add_up_and_go_one_way(by_group: list[tuple[int, int]], times: float) -> None:
    counts = {"a": sum(a for a, _ in by_group) + 1, "b": sum(b for _, b in by_group)}
    by_group[0] = (by_group[0][0] + 1, by_group[0][1])
    plan = SamplingPlan(counts, {"a": int(times * counts["a"]), "b": counts["b"]})
    targets = targets_of_groups(plan, by_group)
    assert [sum(column) for column in zip(*targets, strict=True)] == list(plan.targets.values())
    for before, after in zip(by_group, targets, strict=True):
        assert before[1] == after[1]
        assert after[0] >= before[0] if times >= 1 else after[0] <= before[0]
        assert abs(after[0] - times * before[0]) <= 1 + before[0] / counts["a"]


def test_a_sampler_is_described_in_json_and_built_again() -> None:
    inner = InstanceHardnessThreshold(estimator=LogisticRegression(C=np.float64(0.5)), cv=3)
    stage = PartitionLocalSampler(sampler=inner)
    value = stage.getOrDefault("sampler")
    again = PartitionLocalSampler(sampler=json.loads(json.dumps(value))).getSampler()
    assert type(again) is InstanceHardnessThreshold
    assert (again.cv, again.estimator.C, again.random_state) == (3, 0.5, None)
    assert stage.kind == "under"
    assert PartitionLocalSampler(sampler=SVMSMOTE()).kind == "over"


class Callback(SMOTE):
    def __init__(self, *, sampling_strategy: Any = "auto", k_neighbors: Any = len):
        super().__init__(sampling_strategy=sampling_strategy, k_neighbors=k_neighbors)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (TomekLinks(), "'clean-sampling', which promises no numbers"),
        (SMOTE(sampling_strategy=0.5), r"Set PartitionLocalSampler\.samplingStrategy"),
        (Callback(), "k_neighbors=<built-in function len>"),
        ({"class": "os.system", "params": {}}, "os.system, which is not a scikit-learn estimator"),
        ({"class": "this.that", "params": {}}, "in a module that is imported"),
        ({"class": "sklearn.linear_model.LogisticRegression", "params": {}}, "kind None"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str | dict) else None,
)
def test_samplers_that_cannot_be_used_are_refused(value: Any, message: str) -> None:
    with pytest.raises(SparkimbError, match=rf"^PartitionLocalSampler\.sampler .*{message}"):
        PartitionLocalSampler(sampler=value)
    assert "this" not in sys.modules


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r"needs sklearn\.base .* pip install imbalanced-learn"):
        PartitionLocalSampler(sampler={"class": "imblearn.over_sampling.SMOTE", "params": {}})


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (
            SMOTE(k_neighbors=40),
            r"SMOTE failed in group 0, with the rows \{'common': 120, 'rare': 30\}: ValueError: .*41",
        ),
        (SMOTEENN(), "does not return the rows it was given"),
        (ClusterCentroids(), "it has no sample_indices_"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str) else None,
)
def test_what_goes_wrong_in_a_task_is_told(spark: SparkSession, inner: Any, message: str) -> None:
    df = example(spark, ROWS)
    with pytest.raises(Exception, match=message):  # where rows are broadcast for the join, Py4J's own
        PartitionLocalSampler(sampler=inner, idCols=["id"]).fitResample(df).collect()


def test_what_is_wrong_is_said_before_any_job(spark: SparkSession) -> None:
    df = example(spark, ROWS).where(F.raise_error(F.lit("was read")).cast("boolean"))
    for sampler, message in (
        (PartitionLocalSampler(idCols=["id"]), "sampler is not set"),
        (PartitionLocalSampler(sampler=SMOTE(), idCols=["id"], lineageCol="line"), "lineageCol is 'line'"),
        (PartitionLocalSampler(sampler=SMOTE(), categoricalCols=["color"]), "categoricalCols is"),
    ):
        with pytest.raises(SparkimbError, match=message):
            sampler.fit(df)


def test_rows_made_are_null_but_for_features_and_label(spark: SparkSession) -> None:
    df = example(spark, ROWS).withColumn("f1", F.round(F.col("f1") * 10).cast("int"))
    sampler = PartitionLocalSampler(sampler=ImblearnOverSampler(), inputCols=["f1"], syntheticCol="made", idCols=["id"])
    out = sampler.fitResample(df).collect()
    values = {row["f1"] for row in out if not row["made"] and row["label"] == "rare"}
    made = [row for row in out if row["made"]]
    assert len(made) == 90
    for row in made:
        assert {name for name in df.columns if row[name] is not None} == {"f1", "label"}
        assert row["f1"] in values
