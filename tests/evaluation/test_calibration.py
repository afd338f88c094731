"""correct_priors: the published formulas, and Bayes' rule on densities that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import correct_priors


def corrected(spark, probabilities, before, after):
    df = spark.createDataFrame([(i, row) for i, row in enumerate(probabilities)], "id int, p array<double>")
    found = df.select("id", correct_priors(F.col("p"), before=before, after=after)).collect()
    return [row[1] for row in sorted(found)]


def posterior(priors):
    """Class probabilities at 50 points under Gaussians of known place: exact by Bayes' rule."""
    x = np.linspace(-4, 4, 50)[:, None]
    joint = np.exp(-((x - np.arange(len(priors))) ** 2) / 2) * np.asarray(priors)
    return joint / joint.sum(axis=1, keepdims=True)


def test_posterior_under_the_natural_priors_is_recovered(spark):
    natural, sampled = np.array([9_000, 900, 100]), np.array([100, 300, 100])
    found = corrected(spark, posterior(sampled).tolist(), natural.tolist(), sampled.tolist())
    np.testing.assert_allclose(found, posterior(natural), rtol=1e-12)


def test_two_classes_follow_the_formula_of_under_sampling(spark):
    kept = 0.02
    p = np.r_[0, np.linspace(0.01, 0.99, 20), 1]
    found = corrected(spark, np.c_[1 - p, p].tolist(), [5_000, 100], [5_000 * kept, 100])
    np.testing.assert_allclose(np.array(found)[:, 1], kept * p / (kept * p - p + 1), rtol=1e-12)


def test_scale_of_the_lists_and_equal_priors_change_nothing(spark):
    p = posterior([1, 2, 3]).tolist()
    np.testing.assert_allclose(corrected(spark, p, [2, 4, 6], [10, 20, 30]), p, rtol=1e-12)
    shares = corrected(spark, p, [0.9, 0.06, 0.04], [0.2, 0.4, 0.4])
    np.testing.assert_allclose(corrected(spark, p, [90, 6, 4], [1, 2, 2]), shares, rtol=1e-12)


def test_correction_is_undone_by_its_inverse(spark):
    p = posterior([1, 2, 3]).tolist()
    there = corrected(spark, p, [90, 6, 4], [1, 2, 2])
    np.testing.assert_allclose(corrected(spark, there, [1, 2, 2], [90, 6, 4]), p, rtol=1e-12)


def test_vector_column_through_vector_to_array(spark):
    df = spark.createDataFrame([([0.4, 0.6],)], "p array<double>").select(array_to_vector("p").alias("p"))
    found = df.select(correct_priors(vector_to_array("p"), before=[9, 1], after=[1, 1])).first()[0]
    assert found == pytest.approx([3.6 / 4.2, 0.6 / 4.2])


def test_rows_without_probabilities_become_null(spark):
    wrong = [None, [0.5], [0.2, 0.3, 0.5], [None, 1.0], [0.0, 0.0], []]
    assert corrected(spark, wrong, [9, 1], [1, 1]) == [None] * len(wrong)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([1, 2], [1, 2, 3], "before has 2 and after 3 classes"),
        ([1], [1], "before has 1 and after 1 classes"),
        ([0, 1], [1, 1], r"before holds \[0\]"),
        ([1, 1], [1, math.inf], r"after holds \[inf\]"),
        ([1, 1], [math.nan, -1], r"after holds \[nan, -1\]"),
    ],
)
def test_wrong_priors_are_refused(before, after, message):
    with pytest.raises(SparkimbError, match=message):
        correct_priors(None, before=before, after=after)  # type: ignore[arg-type]  # refused before it is looked at
