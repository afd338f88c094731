"""Data balance against SciPy and slow formulas over the rows."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import data_balance
from sparkimb.evaluation.data_balance import aggregate_balance, distribution_balance, feature_balance

LOGARITHMS = ["pmi", "pmiSquared", "nPmiY", "logLikelihoodRatio"]


def people(seed=1, n=400):
    rng = np.random.default_rng(seed)
    pdf = pd.DataFrame(
        {
            "sex": rng.choice(["f", "m", "x"], n, p=[0.5, 0.3, 0.2]),
            "band.1": rng.choice([1.0, 2.0, 4.5], n, p=[0.6, 0.3, 0.1]),
            "member": rng.random(n) < 0.3,
        }
    )
    pdf["label"] = np.where(rng.random(n) < 0.2 + 0.2 * pdf["member"], "yes", "no")
    return pdf


def association(pdf, name, value):
    """The measures of one value, from the rows."""
    has, positive = (pdf[name] == value).to_numpy(), (pdf["label"] == "yes").to_numpy()
    x, y, xy = has.mean(), positive.mean(), (has & positive).mean()
    return {
        "demographicParity": positive[has].mean(),
        "pmi": math.log(xy / (x * y)),
        "pmiSquared": math.log(xy**2 / (x * y)),
        "nPmiY": -math.log(xy / (x * y)) / math.log(y),
        "nPmiXY": -math.log(xy / (x * y)) / math.log(xy),
        "sorensenDice": 2 * (has & positive).sum() / (has.sum() + positive.sum()),
        "jaccard": (has & positive).sum() / (has | positive).sum(),
        "logLikelihoodRatio": math.log(has[positive].mean()),
        "kendallTau": stats.kendalltau(has, positive).statistic,
        "tTest": (xy - x * y) / math.sqrt(x * y),
    }


def test_gaps_equal_the_formulas_over_the_rows(spark):
    pdf = people()
    found = feature_balance(spark.createDataFrame(pdf), ["sex", "band.1", "member"], positiveLabel="yes")
    assert found.groupby("sensitiveCol").size().to_dict() == {"sex": 3, "band.1": 3, "member": 1}
    for pair in found.to_dict("records"):
        assert pair["valueA"] > pair["valueB"]
        a, b = (association(pdf, pair["sensitiveCol"], pair[side]) for side in ("valueA", "valueB"))
        gaps = {measure: a[measure] - b[measure] for measure in a}
        assert {measure: pair[measure] for measure in a} == pytest.approx(gaps, abs=1e-9)
        assert pair["positiveShareA"] - pair["positiveShareB"] == pytest.approx(gaps["demographicParity"], abs=1e-12)
    assert {type(value) for value in found.loc[found["sensitiveCol"] == "member", "valueA"]} == {bool}


def test_values_without_positive_rows(spark):
    df = spark.createDataFrame([("a", 1), ("a", 0), ("b", 0), ("c", 0), ("c", 0)], ["v", "label"])
    found = feature_balance(df, ["v"]).set_index(["valueA", "valueB"])
    assert (found.loc[("b", "a"), LOGARITHMS] == -math.inf).all()
    assert (found.loc[("c", "b"), [*LOGARITHMS, "nPmiXY", "jaccard", "demographicParity"]] == 0.0).all()
    # p(a) = p(a,y) / p(y) * 2/5: pmi of a is ln(5/2) and p(a,y) is 1/5
    assert found.loc[("b", "a"), "nPmiXY"] == pytest.approx(-1 - math.log(5 / 2) / math.log(5), abs=1e-12)
    assert feature_balance(df.where("v = 'a'"), ["v"]).empty
    alone = feature_balance(df.withColumn("w", df["label"] * 0), ["w", "v"])
    assert alone["sensitiveCol"].tolist() == ["v"] * 3


def check_distribution(row, p, q, rows, places):
    expected = {
        "klDivergence": stats.entropy(p, q),
        "jensenShannonDistance": jensenshannon(p, q),
        "infinityNorm": np.abs(p - q).max(),
        "totalVariation": np.abs(p - q).sum() / 2,
        "wasserstein": stats.wasserstein_distance(places, places, p, q),
        "chiSquare": stats.chisquare(p * rows, q * rows).statistic,
        "chiSquarePValue": stats.chisquare(p * rows, q * rows).pvalue,
    }
    assert {measure: row[measure] for measure in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert row["rows"] == rows


def test_distributions_equal_scipy(spark):
    pdf = people()
    wanted = {"sex": {"f": 0.45, "m": 0.35, "x": 0.2}, "band.1": {1: 0.25, 2: 0.25, 3: 0.25, 4.5: 0.25}}
    found = distribution_balance(spark.createDataFrame(pdf), ["sex", "band.1", "member"], reference=wanted)
    found = found.set_index("sensitiveCol").to_dict("index")
    sex = pdf["sex"].value_counts(normalize=True).sort_index().to_numpy()
    assert found["sex"].pop("wasserstein") == found["sex"]["totalVariation"]  # three values, 1 apart: on no line
    check_distribution({**found["sex"], "wasserstein": 0.0}, sex, np.array([0.45, 0.35, 0.2]), len(pdf), np.zeros(3))
    band = pdf["band.1"].value_counts(normalize=True).reindex([1, 2, 3, 4.5], fill_value=0).to_numpy()
    check_distribution(found["band.1"], band, np.full(4, 0.25), len(pdf), [1, 2, 3, 4.5])
    member = pdf["member"].value_counts(normalize=True).sort_index().to_numpy()
    check_distribution(found["member"], member, np.full(2, 0.5), len(pdf), [0, 1])


def test_a_value_that_should_not_occur(spark):
    df = spark.createDataFrame([("a",), ("b",), ("b",)], ["v"])
    row = distribution_balance(df, ["v"], reference={"v": {"a": 1.0}}).iloc[0]
    assert [row["klDivergence"], row["chiSquare"], row["chiSquarePValue"]] == [math.inf, math.inf, 0.0]
    assert row["jensenShannonDistance"] == pytest.approx(jensenshannon([1 / 3, 2 / 3], [1, 0]))
    never = distribution_balance(df.where("v = 'a'"), ["v"], reference={"v": {"a": 1.0, "z": 0.0}}).iloc[0]
    assert never.drop("sensitiveCol").tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 1.0]
    even = distribution_balance(df.limit(2), ["v"]).iloc[0]
    assert even.drop("sensitiveCol").tolist() == [2, 2, 0, 0, 0, 0, 0, 0, 1.0]


@given(st.integers(1, 999), st.floats(0, 4))
@settings(deadline=None)
def test_tail_of_chi_square_equals_scipy(freedom, scale):
    statistic = freedom * scale
    found = data_balance.chi_square_tail(statistic, freedom)
    assert found == pytest.approx(stats.chi2.sf(statistic, freedom), rel=1e-9, abs=1e-290)


def test_tail_of_chi_square_at_its_ends():
    assert data_balance.chi_square_tail(0.0, 3) == 1.0
    assert data_balance.chi_square_tail(1e-30, 0) == 1.0
    assert data_balance.chi_square_tail(1e9, 3) == 0.0
    assert data_balance.chi_square_tail(math.inf, 0) == 0.0


def test_inequality_of_combinations(spark):
    pdf = people()
    df = spark.createDataFrame(pdf)
    counts = pdf.groupby(["sex", "member"]).size().to_numpy().astype(float)
    x = counts / counts.mean()
    for epsilon, atkinson in {
        0.0: 0.0,
        0.5: 1 - np.mean(np.sqrt(x)) ** 2,
        1.0: 1 - stats.gmean(x),
        2.0: 1 - stats.hmean(x),
    }.items():
        row = aggregate_balance(df, ["sex", "member"], epsilon=epsilon).iloc[0]
        assert row["atkinsonIndex"] == pytest.approx(atkinson, abs=1e-12)
    uniform = np.full(len(counts), 1 / len(counts))
    shares = counts / counts.sum()
    assert row["theilLIndex"] == pytest.approx(stats.entropy(uniform, shares), rel=1e-9)
    assert row["theilTIndex"] == pytest.approx(stats.entropy(shares, uniform), rel=1e-9)
    assert [row["combinations"], row["rows"]] == [6, len(pdf)]


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.floats(-3, 3))
@example([2.0], 5e-324)
def test_power_means(values, power):
    near_zero = abs(power) < 1e-3
    expected = math.log(stats.gmean(values) if near_zero else stats.pmean(values, power))
    tolerance = 1e-9 + 50 * abs(power) * near_zero
    assert data_balance._log_of_power_mean(np.log(values), power) == pytest.approx(expected, abs=tolerance)
    lowest = data_balance._log_of_power_mean(np.log(values), -1e6)
    assert lowest == pytest.approx(math.log(min(values)), abs=1e-5)


def test_faulty_rows_are_counted(spark):
    data = [("a", 1.0, 1), (None, 1.0, 1), ("a", math.nan, 0), ("b", 2.0, None), ("a", None, 0)]
    df = spark.createDataFrame(data, "v string, w double, label int")
    for measure in (feature_balance, distribution_balance, aggregate_balance):
        with pytest.raises(SparkimbError) as error:
            measure(df, ["v", "w"])
        for part in ["Of 5 rows", "1 with null or NaN sensitiveCols 'v'", "2 with null or NaN sensitiveCols 'w'"]:
            assert part in str(error.value)
    with pytest.raises(SparkimbError, match="1 with null or NaN labelCol 'label'"):
        feature_balance(df, ["w"])
    with pytest.raises(SparkimbError, match="no rows"):
        aggregate_balance(df.where("v = 'z'"), ["v"])
    with pytest.raises(SparkimbError, match="Of 1 rows 1 have label = 1"):
        feature_balance(df.limit(1), ["v"])


def test_the_number_of_groups_is_bounded(spark, monkeypatch):
    monkeypatch.setattr(data_balance, "MAX_VALUES", 5)
    monkeypatch.setattr(data_balance, "MAX_COMBINATIONS", 5)
    df = spark.range(6).selectExpr("id", "id % 2 AS label", "id % 5 AS few")
    assert distribution_balance(df, ["few", "label"])["values"].tolist() == [5, 2]
    for measure in (feature_balance, distribution_balance):
        with pytest.raises(SparkimbError, match="has more than 5 values"):
            measure(df, ["few", "id"])
    with pytest.raises(SparkimbError, match="have more than 5 combinations"):
        aggregate_balance(df, ["label", "few"])


def test_wrong_requests_are_refused(spark):
    df = spark.range(1).selectExpr("id", "'a' AS v", "array(1) AS list", "1 AS label")
    with pytest.raises(TypeError, match="sensitiveCols is the string 'v'"):
        aggregate_balance(df, "v")
    for wrong in ([], ["v", "v"]):
        with pytest.raises(SparkimbError, match="Name one column or more, each once"):
            aggregate_balance(df, wrong)
    with pytest.raises(SparkimbError, match=r"sensitiveCols 'w'.*labelCol 'y' not found"):
        feature_balance(df, ["w"], labelCol="y")
    with pytest.raises(SparkimbError, match="'list' is of type array<int>"):
        distribution_balance(df, ["list"])
    with pytest.raises(SparkimbError, match="epsilon is -1"):
        aggregate_balance(df, ["v"], epsilon=-1)
    for reference, message in [
        ({"id": {1: 1.0}}, r"reference names \['id'\]"),
        ({"v": {1: 1.0}}, "the column is of type string"),
        ({"v": {"a": 0.5}}, r"shares from 0\.5, of sum 0\.5"),
        ({"v": {"a": 1.5, "b": -0.5}}, r"shares from -0\.5, of sum 1\."),
        ({"v": {"a": math.nan}}, "shares from nan"),
        ({"v": {}}, "of sum 0"),
    ]:
        with pytest.raises(SparkimbError, match=message):
            distribution_balance(df, ["v"], reference=reference)
