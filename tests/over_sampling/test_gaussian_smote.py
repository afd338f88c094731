"""GaussianSMOTE: rows made have the mean and the covariance of the neighbourhood that they are drawn from."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from compare import rows
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from sparkimb.errors import NotEnoughSamplesError
from sparkimb.over_sampling.gaussian_smote import GaussianSMOTE, GaussianSMOTEModel, gaussian, normal_numbers
from sparkimb.testing import example

ALARM = 1e-6  # how often a statistical test here would fail for other seeds
KEYS = np.arange(20_000) * 7919
NOUGHT = np.zeros_like(KEYS)


def test_normal_numbers_are_normal_and_independent() -> None:
    normals = normal_numbers(KEYS, NOUGHT, 5, seed=0, purpose="test")
    assert normals.shape == (len(KEYS), 5)
    for column in normals.T:
        assert stats.kstest(column, "norm").pvalue > ALARM
    correlations = np.corrcoef(np.column_stack([normals, normals**2]).T)[np.triu_indices(10, 1)]
    assert np.abs(correlations).max() < stats.norm.isf(ALARM / 2) / np.sqrt(len(KEYS))
    assert (normal_numbers(KEYS, NOUGHT, 4, seed=0, purpose="test") == normals[:, :4]).all()
    assert (normal_numbers(KEYS, NOUGHT + 1, 4, seed=0, purpose="test") != normals[:, :4]).all()


def test_draws_have_the_mean_and_covariance_of_the_places() -> None:
    places = np.random.default_rng(0).normal(size=(6, 3)) * [1.0, 100.0, 0.01] + [0.0, 1e4, 5.0]
    normals = normal_numbers(KEYS, NOUGHT, 6, seed=0, purpose="test")
    made = gaussian(places, np.tile(np.arange(6), (len(KEYS), 1)), normals)
    expected = np.cov(places.T, bias=True)
    scales = np.sqrt(np.diag(expected))
    z = stats.norm.isf(ALARM / 2) / np.sqrt(len(made))
    assert (np.abs(made.mean(axis=0) - places.mean(axis=0)) / scales < z).all()
    # An estimated covariance of normal numbers of variance 1 has a standard deviation of at most sqrt(2 / n).
    assert (np.abs(np.cov(made.T) - expected) / np.outer(scales, scales) < np.sqrt(2) * z).all()


def test_missing_numbers_take_no_part() -> None:
    values = np.array([[0.0, np.nan, 1.0, np.inf], [2.0, 5.0, np.nan, np.nan], [4.0, 9.0, np.nan, -np.inf]])
    normals = normal_numbers(KEYS, NOUGHT, 3, seed=0, purpose="test")
    made = gaussian(values, np.tile(np.arange(3), (len(KEYS), 1)), normals)
    z = stats.norm.isf(ALARM / 2) / np.sqrt(len(made))
    for column, known in ((0, [0.0, 2.0, 4.0]), (1, [5.0, 9.0])):
        assert abs(made[:, column].mean() - np.mean(known)) < z * np.std(known)
        assert abs(made[:, column].var() / np.var(known) - 1) < np.sqrt(2) * z
    assert (made[:, 2] == 1.0).all()
    assert np.isnan(made[:, 3]).all()


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_rows_made_lie_in_the_flat_through_the_neighbourhood(kind: str) -> None:
    places = np.random.default_rng(0).normal(size=(3, 8)).astype(kind)
    normals = normal_numbers(KEYS[:50], NOUGHT[:50], 3, seed=0, purpose="test")
    made = gaussian(places, np.tile(np.arange(3), (50, 1)), normals)
    assert made.dtype == kind
    assert np.linalg.matrix_rank(made - places.mean(axis=0), tol=1e-4) == 2


def test_rows_are_drawn_around_their_parents_neighbourhoods(spark: SparkSession) -> None:
    """With scale "none" the neighbourhoods are scikit-learn's; the distances to them are those of normal numbers."""
    df = example(spark, {"common": 900, "rare": 30})
    k = 4
    sampler = GaussianSMOTE(
        inputCols=["f0", "f1"], kNeighbors=k, scale="none", idCols=["id"], lineageCol="line", maxGrowth=10
    )
    out = sampler.fitResample(df).where("line is not null").select("f0", "f1", "label", "line").collect()
    assert len(out) == 870
    times = Counter(row["line"]["parent"]["id"] for row in out)
    assert {times[i] for i in range(900, 930)} == {29}
    assert all((row["line"]["neighbor"], row["line"]["gap"], row["label"]) == (None, 0.0, "rare") for row in out)
    rare = df.where("label = 'rare'").orderBy("id").select("f0", "f1").toPandas().to_numpy()
    places = rare[NearestNeighbors(n_neighbors=k + 1).fit(rare).kneighbors(rare, return_distance=False)]
    squared = []
    for row in out:
        mine = places[row["line"]["parent"]["id"] - 900]
        apart = np.array([row["f0"], row["f1"]]) - mine.mean(axis=0)
        squared.append(apart @ np.linalg.solve(np.cov(mine.T, bias=True), apart))
    assert stats.kstest(squared, "chi2", args=(2,)).pvalue > ALARM


def test_too_few_rows_and_saving(spark: SparkSession, tmp_path: object) -> None:
    df = example(spark, {"common": 40, "rare": 5})
    with pytest.raises(
        NotEnoughSamplesError, match=r"GaussianSMOTE\.kNeighbors is 5, but class 'rare' has only 5 rows"
    ):
        GaussianSMOTE(idCols=["id"]).fit(df)
    model = GaussianSMOTE(idCols=["id"], kNeighbors="auto", lineageCol="line").fit(df)
    model.write().save(f"{tmp_path}/model")
    loaded = GaussianSMOTEModel.load(f"{tmp_path}/model")
    again = loaded.resample(df.repartition(5, F.col("note")))
    assert rows(again) == rows(model.resample(df))
