"""ScoreGaps: exact where the cuts are the positives' scores, mergeable, right on a stream, and bounds elsewhere."""

from __future__ import annotations

import json
import math
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F
from sklearn import metrics

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import RankingMetrics
from sparkimb.evaluation.score_gaps import METRICS, ScoreGaps, at_cuts, gap_counts, score_gaps
from sparkimb.evaluation.steps import CollectedSteps

EXACT = 1e-9


def rows(seed=0, n=600, positives=30, levels=80):
    """Scores with ties between the classes, labels and whole weights, so that sums are exact in any order."""
    rng = np.random.default_rng(seed)
    label = (rng.permutation(n) < positives).astype(int)
    score = np.round((rng.normal(size=n) + label) * levels / 8) / levels
    return pd.DataFrame({"score": score, "label": label, "weight": rng.integers(0, 4, n).astype(float)})


def counted(pdf, cuts):
    """The summary of a pandas frame, without Spark."""
    below, on = np.searchsorted(cuts, pdf["score"]), np.isin(pdf["score"], cuts)
    sides = (pdf["label"] == 1, pdf["label"] == 0)
    return ScoreGaps(cuts, *(np.bincount(2 * below + on, pdf["weight"] * side, 2 * len(cuts) + 1) for side in sides))


def areas(pdf):
    """What the whole dataset has, by RankingMetrics, which scikit-learn vouches for."""
    p, n = pdf["weight"] * pdf["label"], pdf["weight"] * (1 - pdf["label"])
    grouped = pdf.assign(p=p, n=n).groupby("score", as_index=False)[["p", "n"]].sum()
    found = grouped[grouped["p"] + grouped["n"] > 0].sort_values("score", ascending=False)
    ranking = RankingMetrics.fromSteps(CollectedSteps(*(found[name].to_numpy() for name in ("score", "p", "n"))))
    return [getattr(ranking, metric) for metric in METRICS]


def of(gaps):
    return [getattr(gaps, metric) for metric in METRICS]


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("cuts", "positives", "negatives"))


samples = st.lists(st.tuples(st.integers(0, 15), st.booleans(), st.sampled_from([0.3, 1, 7])), min_size=2, max_size=40)


def frame(sample):
    pdf = pd.DataFrame(sample, columns=["score", "label", "weight"]).astype(float)
    assume(pdf["label"].nunique() == 2)
    return pdf


@given(samples)
@settings(deadline=None)
def test_areas_are_exact_where_the_positives_are_the_cuts(sample):
    pdf = frame(sample)
    gaps = counted(pdf, np.unique(pdf[pdf["label"] == 1]["score"]))
    assert gaps.exact
    assert of(gaps) == pytest.approx(areas(pdf), rel=EXACT, abs=EXACT)
    for metric, value in zip(METRICS, of(gaps), strict=True):
        assert gaps.bounds(metric) == pytest.approx((value, value), abs=EXACT)


@given(samples, st.lists(st.integers(-1, 16), max_size=6, unique=True))
@settings(deadline=None)
def test_bounds_hold_the_truth_for_any_cuts(sample, cuts):
    pdf = frame(sample)
    gaps = counted(pdf, np.array(sorted(cuts), dtype=float))
    for metric, truth in zip(METRICS, areas(pdf), strict=True):
        low, high = gaps.bounds(metric)
        assert -EXACT <= low <= truth + EXACT
        assert truth - EXACT <= high <= 1 + EXACT


def test_bounds_close_in_as_cuts_are_added():
    pdf = rows(n=2000)
    positive = np.unique(pdf[pdf["label"] == 1]["score"])
    for metric in METRICS:
        widths = [np.subtract(*counted(pdf, positive[::step]).bounds(metric)[::-1]) for step in (8, 4, 2, 1)]
        assert widths == sorted(widths, reverse=True)
        assert widths[0] > widths[-1] == pytest.approx(0, abs=EXACT)


@given(samples, st.integers(0, 40))
@settings(deadline=None)
def test_parts_add_up_to_the_whole_and_survive_json(sample, at):
    pdf = frame(sample).assign(weight=1.0)
    cuts = np.unique(pdf[pdf["label"] == 1]["score"])
    one, other, whole = (counted(part, cuts) for part in (pdf[:at], pdf[at:], pdf))
    assert same(one.merge(other), whole)
    assert same(other.merge(one), whole)
    assert same(ScoreGaps.fromJson(whole.toJson()), whole)
    json.loads(whole.toJson())


@pytest.mark.parametrize("partitions", [1, 5])
def test_summary_of_a_dataset_equals_sklearn_and_the_slow_count(spark, partitions):
    pdf = rows(seed=partitions)
    df = spark.createDataFrame(pdf).repartition(partitions)
    gaps = score_gaps(df, weightCol="weight")
    sound = pdf[pdf["weight"] > 0]
    assert same(gaps, counted(pdf, np.unique(sound[sound["label"] == 1]["score"])))
    given = pdf["label"], pdf["score"]
    assert gaps.areaUnderROC == pytest.approx(metrics.roc_auc_score(*given, sample_weight=pdf["weight"]), rel=EXACT)
    expected = metrics.average_precision_score(*given, sample_weight=pdf["weight"])
    assert gaps.averagePrecision == pytest.approx(expected, rel=EXACT)


@given(st.lists(st.floats(-10, 10), max_size=20, unique=True), st.lists(st.floats(-11, 11), min_size=1, max_size=9))
@settings(deadline=None, max_examples=4)
def test_places_are_those_of_bisection(spark, cuts, scores):
    cuts, values = np.unique(cuts), [*scores, *cuts[:3]]
    df = spark.createDataFrame([(i, float(score)) for i, score in enumerate(values)], "i int, score double")
    found = [row["place"] for row in at_cuts(df, cuts).orderBy("i").collect()]
    assert found == [2 * int(np.searchsorted(cuts, score)) + bool(np.isin(score, cuts)) for score in values]


def test_a_streaming_aggregation_counts_what_a_batch_counts(spark, tmp_path):
    """Files one by one, in batches of their own, against cuts from the reference positives."""
    pdf = rows(n=900)
    source, df = str(tmp_path / "rows"), spark.createDataFrame(pdf)
    df.repartition(3).write.parquet(source)
    reference = score_gaps(df)
    stream = spark.readStream.schema(df.schema).option("maxFilesPerTrigger", 1).parquet(source)
    query = (
        gap_counts(stream, cuts=reference.cuts)
        .writeStream.outputMode("complete")
        .format("memory")
        .queryName("gaps")
        .option("checkpointLocation", str(tmp_path / "checkpoint"))
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination(120)
    try:
        found = ScoreGaps.fromCounts(spark.table("gaps").toPandas(), reference.cuts)
    finally:
        spark.catalog.dropTempView("gaps")
    assert same(found, reference)
    assert of(found) == pytest.approx(areas(pdf.assign(weight=1.0)), rel=EXACT)


def test_batches_of_a_stream_merge_to_the_whole(spark, tmp_path):
    if "connect" in type(spark).__module__:
        pytest.skip("on Connect foreachBatch runs on the server, where this test's list is not seen")
    pdf = rows(n=900, positives=60)
    source, df = str(tmp_path / "rows"), spark.createDataFrame(pdf)
    df.repartition(3).write.parquet(source)
    known = df.where("label = 0 OR score < 0.1")  # later positives score higher than any before
    reference, batches = score_gaps(known), []

    def count(batch, _):
        batches.append(score_gaps(batch, cuts=reference.cuts))

    stream = spark.readStream.schema(df.schema).option("maxFilesPerTrigger", 1).parquet(source)
    query = (
        stream.writeStream.foreachBatch(count)
        .option("checkpointLocation", str(tmp_path / "checkpoint"))
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination(120)
    assert query.exception() is None
    assert len(batches) == 3
    found = batches[0].merge(batches[1]).merge(batches[2])
    assert same(found, score_gaps(df, cuts=reference.cuts))
    assert not found.exact
    for metric, truth in zip(METRICS, areas(pdf.assign(weight=1.0)), strict=True):
        low, high = found.bounds(metric)
        assert low < truth < high
    with pytest.raises(SparkimbError, match=r"lie between the cuts, so areaUnderPR is only known to be in \[0\."):
        _ = found.areaUnderPR


def test_faulty_rows_are_counted(spark):
    faulty = [(None, 1.0), (math.nan, 1.0), (math.inf, 0.0), (0.3, None), (0.3, math.nan)]
    df = spark.createDataFrame([(0.1, 1.0), (0.2, 0.0), *faulty], "score double, label double")
    for cuts in (None, [0.1]):
        with pytest.raises(SparkimbError) as error:
            score_gaps(df, cuts=cuts)
        for part in (
            "Of 7 rows",
            "1 with null scoreCol",
            "1 with NaN",
            "1 with infinite",
            "2 with null or NaN labelCol",
        ):
            assert part in str(error.value)
    with pytest.raises(SparkimbError, match="no rows"):
        score_gaps(df.where("score < -9"), cuts=[0.1])


def test_requests_that_make_no_sense_are_refused(spark, monkeypatch):
    df = spark.createDataFrame(rows(n=40, positives=20)).withColumn("text", F.lit("a"))
    with pytest.raises(SparkimbError, match="3 cuts do not all rise"):
        score_gaps(df, cuts=[1.0, 1.0, 2.0])
    with pytest.raises(SparkimbError, match="not finite"):
        score_gaps(df, cuts=[1.0, math.inf])
    with pytest.raises(SparkimbError, match="scoreCol 'text' is of type string"):
        gap_counts(df, cuts=[1.0], scoreCol="text")
    # By its full name: in the package the function hides the module.
    monkeypatch.setattr(import_module("sparkimb.evaluation.score_gaps"), "MAX_CUTS", 2)
    with pytest.raises(SparkimbError, match="more than 2 distinct scores in scoreCol 'score'"):
        score_gaps(df)
    with pytest.raises(SparkimbError, match=r"cuts is of shape \(3,\)"):
        score_gaps(df, cuts=[1.0, 2.0, 3.0])


def test_summaries_that_do_not_fit_are_refused():
    pdf = rows()
    one, other = counted(pdf, np.array([0.0, 0.5])), counted(pdf, np.array([0.0]))
    with pytest.raises(SparkimbError, match=r"different cuts \(2 and 1 scores\)"):
        one.merge(other)
    with pytest.raises(SparkimbError, match="2 cuts make 5 places, but positives has 3 and negatives 5"):
        ScoreGaps(one.cuts, other.positives, one.negatives)
    with pytest.raises(SparkimbError, match="metric is 'ks'"):
        one.bounds("ks")
    with pytest.raises(SparkimbError, match="two classes, but the positives sum to 0"):
        _ = counted(pdf.assign(label=0), np.array([0.0])).averagePrecision
