"""RankingMetrics against scikit-learn: ties, weights, partitions, both paths, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F
from sklearn import metrics

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import RankingMetrics, ranking

EXACT = 1e-9


def rows(seed=0, n=400, positives=40, levels=60):
    """Scores with many ties, labels, and weights of which some are 0."""
    rng = np.random.default_rng(seed)
    label = (rng.permutation(n) < positives).astype(int)
    score = np.round((rng.normal(size=n) + label) * levels / 8) / levels
    return pd.DataFrame({"score": score, "label": label, "weight": rng.integers(0, 5, n) / 7})


def collected(pdf):
    """RankingMetrics of a pandas frame, without Spark."""
    p, n = pdf["weight"] * pdf["label"], pdf["weight"] * (1 - pdf["label"])
    grouped = pdf.assign(p=p, n=n).groupby("score", as_index=False)[["p", "n"]].sum()
    metric = object.__new__(RankingMetrics)
    metric.steps = ranking._CollectedSteps(grouped[grouped["p"] + grouped["n"] > 0])
    metric.positives, metric.negatives = metric.steps.positives, metric.steps.negatives
    return metric


def expected_areas(pdf, weight=True):
    given = pdf["label"], pdf["score"]
    weights = pdf["weight"] if weight else None
    precision, recall, _ = metrics.precision_recall_curve(*given, sample_weight=weights)
    recall, precision = recall[:-1][::-1], precision[:-1][::-1]  # Spark starts at the first precision, not at 1
    return [
        metrics.roc_auc_score(*given, sample_weight=weights),
        metrics.auc(np.r_[0, recall], np.r_[precision[0], precision]),
        metrics.average_precision_score(*given, sample_weight=weights),
    ]


def areas(metric):
    return [metric.areaUnderROC, metric.areaUnderPR, metric.averagePrecision]


@pytest.fixture(params=["collected", "distributed"])
def path(request, monkeypatch):
    """Both homes of the steps; few ranges, since each costs planning time, and some stay empty."""
    if request.param == "distributed":
        monkeypatch.setattr(ranking, "MAX_SCORES", 3)
        monkeypatch.setattr(ranking, "RANGES", 5)
    return request.param


samples = st.lists(
    st.tuples(
        st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1e-300, 3.0, 1e17]), st.booleans(), st.sampled_from([0, 0.3, 1, 7])
    ),
    min_size=2,
    max_size=40,
)


def frame(sample):
    pdf = pd.DataFrame(sample, columns=["score", "label", "weight"]).astype(float)
    assume(pdf[pdf["weight"] > 0]["label"].nunique() == 2)
    return pdf


@given(samples)
@settings(deadline=None)
def test_areas_equal_sklearn_without_spark(sample):
    pdf = frame(sample)
    assert areas(collected(pdf)) == pytest.approx(expected_areas(pdf), rel=EXACT, abs=EXACT)


@given(samples)
@settings(deadline=None)
def test_areas_do_not_change_with_the_scale_of_scores_or_weights(sample):
    pdf = frame(sample)
    scaled = pdf.assign(score=np.arctan(pdf["score"].rank()), weight=pdf["weight"] * 1e6)
    assert areas(collected(scaled)) == pytest.approx(areas(collected(pdf)), rel=EXACT, abs=EXACT)


@pytest.mark.parametrize("partitions", [1, 7, 64])
def test_areas_equal_sklearn_in_any_partitioning(spark, path, partitions):
    pdf = rows(seed=partitions)
    df = spark.createDataFrame(pdf).repartition(partitions)
    metric = RankingMetrics(df, weightCol="weight")
    assert type(metric.steps).__name__.lower().startswith(f"_{path}")
    assert areas(metric) == pytest.approx(expected_areas(pdf), rel=EXACT)


@given(samples)
@settings(deadline=None, max_examples=4)
def test_areas_equal_sklearn_on_spark(spark, sample):
    pdf = frame(sample)
    metric = RankingMetrics(spark.createDataFrame(pdf), weightCol="weight")
    assert areas(metric) == pytest.approx(expected_areas(pdf), rel=EXACT, abs=EXACT)


def rare(positives):
    """100,000 rows with different scores, of which the positives mostly score high."""
    label = (np.arange(100_000) < positives).astype(float)
    return pd.DataFrame({"score": np.random.default_rng(1).normal(size=label.size) + 4 * label, "label": label})


def test_rare_positives_among_many_scores(spark, path, monkeypatch):
    monkeypatch.undo()
    if path == "distributed":  # with the real number of ranges
        monkeypatch.setattr(ranking, "MAX_SCORES", 99_999)
    pdf = rare(200)
    found = areas(RankingMetrics(spark.createDataFrame(pdf)))
    assert found == pytest.approx(expected_areas(pdf, weight=False), rel=EXACT)


def test_rare_positives_are_exact_where_sparks_bins_are_not(spark):
    pdf = rare(20)
    df = spark.createDataFrame(pdf)
    truth = expected_areas(pdf, weight=False)[1]
    binned = BinaryClassificationEvaluator(rawPredictionCol="score", metricName="areaUnderPR", numBins=1000)
    assert RankingMetrics(df).areaUnderPR == pytest.approx(truth, rel=EXACT)
    assert abs(binned.evaluate(df) - truth) > 0.3 * truth


def test_curves_equal_sklearn_when_nothing_is_thinned(spark, path):
    pdf = rows()
    metric = RankingMetrics(spark.createDataFrame(pdf), weightCol="weight")
    given = pdf["label"], pdf["score"]
    expected = metrics.roc_curve(*given, sample_weight=pdf["weight"], drop_intermediate=False)
    roc = metric.rocCurve()
    for name, values in zip(["falsePositiveRate", "truePositiveRate", "threshold"], expected, strict=True):
        np.testing.assert_allclose(roc[name], values, rtol=EXACT, atol=EXACT)
    precision, recall, threshold = metrics.precision_recall_curve(*given, sample_weight=pdf["weight"])
    pr = metric.prCurve()
    # scikit-learn lists the rising thresholds, then a point (recall 0, precision 1) that Spark draws elsewhere.
    np.testing.assert_allclose(pr["threshold"][:0:-1], threshold)
    np.testing.assert_allclose(pr["recall"][::-1], recall, rtol=EXACT, atol=EXACT)
    np.testing.assert_allclose(pr["precision"][:0:-1], precision[:-1], rtol=EXACT)
    assert pr["precision"][0] == pr["precision"][1]


def test_both_paths_thin_to_the_same_curve(spark, monkeypatch):
    df = spark.createDataFrame(rows(n=600, levels=1000))
    small = RankingMetrics(df)
    monkeypatch.setattr(ranking, "MAX_SCORES", 3)
    monkeypatch.setattr(ranking, "RANGES", 4)
    pd.testing.assert_frame_equal(small.thresholdCurve(40), RankingMetrics(df).thresholdCurve(40), rtol=EXACT)
    assert len(small.thresholdCurve(40)) < small.steps.count


@given(st.integers(0, 1000), st.sampled_from([4, 5, 30, 201]), st.sampled_from([3, 200, 2900]), st.booleans())
@settings(deadline=None, max_examples=40)
def test_thinned_curves_keep_their_ends_and_stay_close(seed, points, positives, weighted):
    pdf = rows(seed, n=3000, positives=positives, levels=10**6)
    metric = collected(pdf.assign(weight=pdf["weight"] + 0.1 if weighted else 1.0))
    full, thin = metric.rocCurve(ranking.MAX_POINTS), metric.rocCurve(points)
    assert len(thin) <= points
    assert len(metric.prCurve(points)) <= points
    kept = set(thin["threshold"])
    assert {*full["threshold"].iloc[[0, 1, -1]]} <= kept <= {*full["threshold"]}
    cells = points // 2 - 1
    for rate, width in {"truePositiveRate": 1, "falsePositiveRate": 4}.items():
        gaps = np.abs(full[rate].to_numpy()[:, None] - thin[rate].to_numpy()[None, :]).min(axis=1)
        assert gaps.max() <= width / cells + EXACT


def test_threshold_curve_counts_rows_at_or_above():
    pdf = rows().assign(weight=1.0)
    for row in collected(pdf).thresholdCurve().itertuples():
        called = pdf["score"] >= row.threshold
        assert row.truePositives == (called & (pdf["label"] == 1)).sum()
        assert row.falsePositives == (called & (pdf["label"] == 0)).sum()
        assert row.f1 == pytest.approx(metrics.f1_score(pdf["label"], called))


@pytest.mark.parametrize(
    ("labels", "positive"),
    [("if(label = 1, 'yes', 'no')", "yes"), ("label = 1", True), ("label * 2.5D", 2.5)],
    ids=["string", "boolean", "double"],
)
def test_labels_of_any_type(spark, labels, positive):
    pdf = rows()
    df = spark.createDataFrame(pdf).withColumn("label", F.expr(labels))
    found = areas(RankingMetrics(df, positiveLabel=positive))
    assert found == pytest.approx(expected_areas(pdf, weight=False), rel=EXACT)


def test_integer_scores_and_dotted_names(spark):
    pdf = rows()
    df = spark.createDataFrame(pdf).select(
        (F.col("score") * 60).cast("int").alias("a.score"), F.col("label").alias("a`b")
    )
    metric = RankingMetrics(df, scoreCol="a.score", labelCol="a`b")
    cut = pdf.assign(score=(pdf["score"] * 60).astype(int))
    assert areas(metric) == pytest.approx(expected_areas(cut, weight=False), rel=EXACT)


def test_faulty_rows_are_counted(spark, path):
    nan, inf = math.nan, math.inf
    faulty = [(None, 1.0, 1.0), (nan, 1.0, 1.0), (nan, 0.0, 1.0), (-inf, 0.0, 1.0), (0.3, None, 1.0), (0.4, nan, 1.0)]
    faulty += [(0.5, 1.0, -1.0), (0.5, 1.0, nan), (0.6, 1.0, None)]
    good = [(i / 10, float(i % 2), 1.0) for i in range(10)]
    df = spark.createDataFrame(good + faulty, "score double, label double, weight double")
    with pytest.raises(SparkimbError) as error:
        RankingMetrics(df, weightCol="weight")
    message = str(error.value)
    for part in ["Of 19 rows", "1 with null scoreCol", "2 with NaN in scoreCol", "1 with infinite scoreCol"]:
        assert part in message
    assert "2 with null or NaN labelCol" in message
    assert "3 with weightCol 'weight' null, NaN, negative or infinite" in message


def test_no_rows_and_one_class_are_errors(spark, path):
    df = spark.createDataFrame(rows())
    with pytest.raises(SparkimbError, match="no rows"):
        RankingMetrics(df.where("score > 1e9"))
    with pytest.raises(SparkimbError, match="rows with label = 7 sum to 0 and all others to 400"):
        RankingMetrics(df, positiveLabel=7)
    with pytest.raises(SparkimbError, match="weights 'zero' with label = 1 sum to 0 and all others to 0"):
        RankingMetrics(df.withColumn("zero", F.lit(0)), weightCol="zero")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scoreCol": "nope", "weightCol": "no"}, "scoreCol 'nope'.*weightCol 'no'"),
        ({"scoreCol": "text"}, "scoreCol 'text' is of type string, not a number"),
        ({"scoreCol": "vector"}, "vector_to_array"),
        ({"labelCol": "array"}, "labelCol 'array' is of type array<double>"),
        ({"labelCol": "text"}, "positiveLabel is 1, but labelCol 'text' is of type string"),
        ({"positiveLabel": "1"}, "positiveLabel is '1'"),
        (
            {"labelCol": "flag", "positiveLabel": "yes"},
            "positiveLabel is 'yes', but labelCol 'flag' is of type boolean",
        ),
        ({"positiveLabel": math.nan}, "positiveLabel is nan"),
    ],
)
def test_schema_errors(spark, changes, message):
    df = spark.createDataFrame(rows(n=2, positives=1)).selectExpr(
        "*", "'a' AS text", "array(0.5D) AS array", "label = 1 AS flag"
    )
    with pytest.raises(SparkimbError, match=message):
        RankingMetrics(df.withColumn("vector", array_to_vector("array")), **changes)


@pytest.mark.parametrize("points", [0, 3, ranking.MAX_POINTS + 1])
def test_points_out_of_range_are_refused(points):
    with pytest.raises(SparkimbError, match=f"points is {points}"):
        collected(rows()).rocCurve(points)


@given(st.floats(allow_nan=False), st.lists(st.floats(-10, 10), max_size=9, unique=True))
@settings(deadline=None, max_examples=5)
def test_bucket_counts_the_cuts_below(spark, value, cuts):
    found = spark.range(1).select(ranking.bucket(F.lit(value), sorted(cuts))).first()[0]
    assert found == sum(cut < value for cut in cuts)
