"""RankingMetrics against scikit-learn: ties, weights, partitions, every home of the steps, and what it refuses."""

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
from scipy.stats import ks_2samp
from sklearn import metrics

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import RankingMetrics, best_threshold, ranking, steps
from sparkimb.evaluation.inputs import bucket
from sparkimb.evaluation.steps import CollectedSteps, DistributedSteps
from sparkimb.evaluation.thresholds import OBJECTIVES

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
    found = grouped[grouped["p"] + grouped["n"] > 0].sort_values("score", ascending=False)
    return RankingMetrics.fromSteps(CollectedSteps(*(found[name].to_numpy() for name in ("score", "p", "n"))))


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


def live_in(monkeypatch, home):
    """Choose the home of the steps; few ranges, since some stay empty then."""
    if home == "gaps":
        monkeypatch.setattr(steps, "MAX_SCORES", 3)
    if home == "distributed":
        monkeypatch.setattr(steps, "MAX_POSITIVES", 3)
        monkeypatch.setattr(steps, "RANGES", 5)
        monkeypatch.setattr(steps, "SAMPLED", 1)


@pytest.fixture(params=["collected", "gaps", "distributed"])
def path(request, monkeypatch):
    """Every home of the steps."""
    live_in(monkeypatch, request.param)
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


@pytest.mark.parametrize("partitions", [1, 7, 16])
def test_areas_equal_sklearn_in_any_partitioning(spark, path, partitions):
    pdf = rows(seed=partitions)
    df = spark.createDataFrame(pdf).repartition(partitions)
    metric = RankingMetrics(df, weightCol="weight")
    assert isinstance(metric.steps, DistributedSteps if path == "distributed" else CollectedSteps)
    distinct = pdf[pdf["weight"] > 0]["score"].nunique()
    assert metric.steps.count < distinct if path == "gaps" else metric.steps.count == distinct
    assert areas(metric) == pytest.approx(expected_areas(pdf), rel=EXACT)


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_of_every_size_and_both_zeros(spark, path, seed):
    rng = np.random.default_rng(seed)
    scores = [-1e17, -1.5, -0.0, 0.0, 5e-324, 1e-300, 0.25, 3.0, np.nextafter(3.0, 4.0), 1e17]
    pdf = pd.DataFrame(
        {"score": rng.choice(scores, 80), "label": rng.random(80) < 0.3, "weight": rng.choice([0, 0.3, 7], 80)}
    )
    pdf = pdf.astype(float)
    metric = RankingMetrics(spark.createDataFrame(pdf).repartition(3), weightCol="weight")
    assert areas(metric) == pytest.approx(expected_areas(pdf), rel=EXACT)
    curve = metric.thresholdCurve(1000)
    cuts = curve["threshold"].to_numpy()
    of = pdf["weight"] * pdf["label"]
    assert curve["truePositives"].tolist() == pytest.approx([of[pdf["score"] >= cut].sum() for cut in cuts])


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
    monkeypatch.setattr(steps, "MAX_SCORES", 100_000 if path == "collected" else 99_999)
    if path == "distributed":  # with the real number of ranges
        monkeypatch.setattr(steps, "MAX_POSITIVES", 199)
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


@pytest.mark.parametrize("home", ["collected", "distributed"])
def test_curves_equal_sklearn_when_nothing_is_thinned(spark, monkeypatch, home):
    live_in(monkeypatch, home)
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
    live_in(monkeypatch, "distributed")
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


def everything(metric):
    """All numbers, in one list."""
    total = metric.positives + metric.negatives
    return [
        *areas(metric),
        *(
            metric.partialAreaUnderROC(most, standardised=scaled)
            for most in (0.05, 0.37, 1)
            for scaled in (True, False)
        ),
        *(at(k * total) for at in (metric.precisionAt, metric.recallAt) for k in (0.01, 0.13, 0.5, 1)),
        *(metric.recallAtPrecision(p) for p in (0, 0.2, 0.5, 0.9)),
        *(metric.precisionAtRecall(r) for r in (0.01, 0.3, 0.9, 1)),
        *metric.ks,
        *metric.liftTable(7).to_numpy().ravel(),
    ]


@pytest.mark.parametrize("home", ["gaps", "distributed"])
def test_all_homes_give_the_same_numbers(spark, monkeypatch, home):
    pdf = rows(seed=5, levels=300)
    live_in(monkeypatch, home)
    df = spark.createDataFrame(pdf).repartition(3)
    metric = RankingMetrics(df, weightCol="weight")
    assert everything(metric) == pytest.approx(everything(collected(pdf)), rel=EXACT, abs=EXACT)


def merged(metric):
    """The same metrics, with every run of others between two positives as one step; the first step stays."""
    at = metric.steps.at
    last = np.r_[at.p[1:] > 0, True] | (at.p > 0)
    last[0] = True
    p, n = (np.diff(total[last], prepend=0.0) for total in (at.tp, at.fp))
    return RankingMetrics.fromSteps(CollectedSteps(metric.steps.score[last], p, n))


@given(samples)
@settings(deadline=None)
def test_merging_the_others_between_positives_changes_no_number(sample):
    metric = collected(frame(sample).assign(weight=lambda pdf: pdf["weight"] * 10))
    assert everything(merged(metric)) == pytest.approx(everything(metric), rel=EXACT, abs=EXACT)
    for objective in set(OBJECTIVES) - {"topK"}:
        for given_costs in ({"false_positive_cost": 1.0}, {"false_positive_cost": 0.0}):
            one, other = (best_threshold(found, objective, **given_costs) for found in (metric, merged(metric)))
            assert (one.value, one.threshold) == pytest.approx((other.value, other.threshold), rel=EXACT, abs=EXACT)


def test_a_curve_over_gaps_has_the_ends_of_each(spark, monkeypatch):
    pdf = rare(20).iloc[::50]
    full = collected(pdf.assign(weight=1.0)).thresholdCurve(ranking.MAX_POINTS)
    live_in(monkeypatch, "gaps")
    curve = RankingMetrics(spark.createDataFrame(pdf)).thresholdCurve()
    kept = full[full["threshold"].isin(curve["threshold"])]
    assert len(curve) == len(kept) < len(full)
    np.testing.assert_allclose(curve, kept, rtol=EXACT)
    assert set(pdf[pdf["label"] == 1]["score"]) < set(curve["threshold"])


@given(samples, st.sampled_from([0.01, 0.25, 0.5, 0.999, 1]))
@settings(deadline=None)
def test_partial_area_equals_sklearn(sample, most):
    pdf = frame(sample)
    found = collected(pdf).partialAreaUnderROC(most)
    expected = metrics.roc_auc_score(pdf["label"], pdf["score"], sample_weight=pdf["weight"], max_fpr=most)
    assert found == pytest.approx(expected, rel=EXACT, abs=EXACT)
    chance = most * most / 2  # McClish's scaling, undone
    raw = (2 * expected - 1) * (most - chance) + chance
    assert collected(pdf).partialAreaUnderROC(most, standardised=False) == pytest.approx(raw, rel=EXACT, abs=EXACT)


@given(samples, st.integers(1, 40))
@settings(deadline=None)
def test_top_k_is_the_mean_over_the_orders_of_ties(sample, k):
    pdf = frame(sample).assign(weight=1.0)
    k = min(k, len(pdf))
    cut = pdf["score"].sort_values(ascending=False).iloc[k - 1]
    above, tied = pdf[pdf["score"] > cut], pdf[pdf["score"] == cut]
    expected = above["label"].sum() + (k - len(above)) * tied["label"].mean()
    metric = collected(pdf.assign(weight=1.0))
    assume(0 < pdf["label"].sum() < len(pdf))
    assert metric.precisionAt(k) == pytest.approx(expected / k)
    assert metric.recallAt(k) == pytest.approx(expected / pdf["label"].sum())


@given(samples, st.sampled_from([0.0, 0.2, 0.5, 0.75, 1.0]))
@settings(deadline=None)
def test_recall_at_precision_and_precision_at_recall_equal_sklearns_curve(sample, floor):
    pdf = frame(sample)
    given = pdf[pdf["weight"] > 0]  # scikit-learn lists thresholds of weight 0 too
    precision, recall, _ = metrics.precision_recall_curve(
        given["label"], given["score"], sample_weight=given["weight"], drop_intermediate=False
    )
    metric = collected(pdf)
    assert metric.recallAtPrecision(floor) == pytest.approx(recall[precision >= floor - EXACT].max(), abs=EXACT)
    if floor > 0:
        assert metric.precisionAtRecall(floor) == pytest.approx(precision[recall >= floor - EXACT].max(), abs=EXACT)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # about scipy's p-value, which is not asked for
@given(samples)
@settings(deadline=None)
def test_ks_equals_scipy(sample):
    pdf = frame(sample).assign(weight=1.0)
    assume(pdf["label"].nunique() == 2)
    found = collected(pdf).ks
    by_label = [pdf[pdf["label"] == label]["score"] for label in (1, 0)]
    assert found.statistic == pytest.approx(ks_2samp(*by_label).statistic, abs=EXACT)
    rates = [(scores >= found.threshold).mean() for scores in by_label]
    assert abs(rates[0] - rates[1]) == pytest.approx(found.statistic, abs=EXACT)


@given(samples, st.sampled_from([1, 2, 10, 100]))
@settings(deadline=None)
def test_lift_tables_add_up(sample, bins):
    pdf = frame(sample)
    metric = collected(pdf)
    table = metric.liftTable(bins)
    assert len(table) == bins
    assert table["rows"].sum() == pytest.approx(pdf["weight"].sum())
    assert table["positives"].sum() == pytest.approx(metric.positives)
    assert table["lift"].mean() == pytest.approx(1)
    expected = [metric.recallAt(share * pdf["weight"].sum()) for share in table["populationShare"]]
    np.testing.assert_allclose(table["cumulativeCapture"], expected, atol=EXACT)
    np.testing.assert_allclose(table["rate"] * table["rows"], table["positives"], atol=EXACT)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda metric: metric.partialAreaUnderROC(0), "maxFPR is 0"),
        (lambda metric: metric.partialAreaUnderROC(1.1), "maxFPR is 1.1"),
        (lambda metric: metric.precisionAt(0), "k is 0, but there are rows of weight 400"),
        (lambda metric: metric.recallAt(401), "k is 401"),
        (lambda metric: metric.recallAtPrecision(math.nan), "precision is nan"),
        (lambda metric: metric.precisionAtRecall(0), "recall is 0"),
        (lambda metric: metric.liftTable(0), "bins is 0"),
        (lambda metric: metric.liftTable(ranking.MAX_BINS + 1), "bins is 101"),
    ],
)
def test_numbers_out_of_range_are_refused(request_, message):
    with pytest.raises(SparkimbError, match=message):
        request_(collected(rows().assign(weight=1.0)))


@given(st.floats(allow_nan=False), st.lists(st.floats(-10, 10), max_size=9, unique=True))
@settings(deadline=None, max_examples=5)
def test_bucket_counts_the_cuts_below(spark, value, cuts):
    found = spark.range(1).select(bucket(F.lit(value), sorted(cuts))).first()[0]
    assert found == sum(cut < value for cut in cuts)
