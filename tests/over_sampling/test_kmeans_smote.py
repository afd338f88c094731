"""KMeansSMOTE: which clusters rows are made in and how many follow imbalanced-learn's formulas; SMOTE within them."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from compare import rows
from imblearn.over_sampling import KMeansSMOTE as ImblearnKMeansSMOTE
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.spatial.distance import cdist, pdist
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans

from sparkimb import SparkimbError
from sparkimb.over_sampling.kmeans_smote import Clusters, KMeansSMOTE, KMeansSMOTEModel, log_sparsity, mean_distance
from sparkimb.testing import example

PLACES = np.random.default_rng(3).normal(size=(600, 3)) + 6 * np.eye(3)[np.arange(600) % 3]


def test_clusters_are_those_of_k_means() -> None:
    """Of clusters well apart there is one best division, which scikit-learn finds, too."""
    ours = Clusters.learn(PLACES, 3, scaling="none", seed=0)
    theirs = KMeans(3, n_init=10, random_state=0).fit(PLACES)
    pairs = Counter(zip(ours.of(PLACES).tolist(), theirs.labels_.tolist(), strict=True))
    assert len(pairs) == 3
    order = [theirs for _, theirs in sorted(pairs)]
    np.testing.assert_allclose(ours.centres + ours.center, theirs.cluster_centers_[order], rtol=1e-9)


def test_a_row_s_cluster_is_the_nearest_centre_s_and_its_own_affair() -> None:
    clusters = Clusters.learn(PLACES, 7, scaling="robust", seed=1)
    apart = cdist((PLACES - clusters.center) / clusters.scale, clusters.centres)
    found = clusters.of(PLACES)
    assert (found == apart.argmin(axis=1)).all()
    assert [int(clusters.of(PLACES[[i]])[0]) for i in range(50)] == found[:50].tolist()
    missing = PLACES.copy()
    missing[:, 1] = np.nan
    filled = PLACES.copy()
    filled[:, 1] = clusters.center[1]
    assert (clusters.of(missing) == clusters.of(filled)).all()


def test_there_are_no_more_clusters_than_different_rows() -> None:
    values = np.repeat(PLACES[:4], 5, axis=0)
    clusters = Clusters.learn(values, 8, scaling="standard", seed=0)
    assert len(clusters.centres) == 4
    assert Counter(clusters.of(values).tolist()) == dict.fromkeys(range(4), 5)


def test_mean_distance_and_sparsity() -> None:
    assert mean_distance(PLACES[:100] + 1e3) == pytest.approx(pdist(PLACES[:100]).mean(), rel=1e-9)
    assert mean_distance(np.full((7, 3), 0.1)) == 0.0
    assert math.exp(log_sparsity(3.0, 20, 2.5)) == pytest.approx(3.0**2.5 / 20)
    assert log_sparsity(1e300, 10, 100.0) < math.inf
    assert log_sparsity(0.0, 10, 0.0) == -math.log(10)


class Given(BaseEstimator, ClusterMixin):
    """Clusters that are known beforehand."""

    def __init__(self, labels: Any = None, n_clusters: int = 0):
        self.labels, self.n_clusters = labels, n_clusters

    def fit(self, X: Any, y: Any = None) -> Given:
        return self

    def fit_predict(self, X: Any, y: Any = None) -> Any:
        return self.labels

    def predict(self, X: Any) -> Any:
        return self.labels


def made_by_cluster(model: KMeansSMOTEModel, df: DataFrame) -> tuple[dict[tuple[str, int], int], Any]:
    """Count the rows made by the class and the cluster of their parents; return the local rows, too."""
    assert model.clusters is not None
    local = df.select("id", "label", "f0", "f1").orderBy("id").toPandas()
    local["cluster"] = model.clusters.of(local[["f0", "f1"]].to_numpy())
    clusters = dict(zip(local["id"], local["cluster"], strict=True))
    lines = model.resample(df).where("line is not null").select("label", "line").collect()
    for row in lines:
        assert clusters[row["line"]["parent"]["id"]] == clusters[row["line"]["neighbor"]["id"]]
    return Counter((row["label"], int(clusters[row["line"]["parent"]["id"]])) for row in lines), local


@pytest.mark.parametrize(("threshold", "exponent"), [("auto", "auto"), (0.1, 2.0)])
def test_rows_made_by_cluster_are_imbalanced_learn_s(spark: SparkSession, threshold: Any, exponent: Any) -> None:
    """Given our clusters it makes as many rows in each, rounded up where we round to the sum."""
    df = example(spark, {"common": 300, "middle": 100, "rare": 60})
    model = KMeansSMOTE(
        inputCols=["f0", "f1"],
        numClusters=5,
        clusterBalanceThreshold=threshold,
        densityExponent=exponent,
        scale="none",
        idCols=["id"],
        lineageCol="line",
    ).fit(df)
    found, local = made_by_cluster(model, df)
    oracle = ImblearnKMeansSMOTE(
        kmeans_estimator=Given(local["cluster"].to_numpy(), 5),
        cluster_balance_threshold=threshold,
        density_exponent=exponent,
        random_state=0,
    )
    x, y = oracle.fit_resample(local[["f0", "f1"]].to_numpy(), local["label"].to_numpy())
    # A row it makes lies between two of its cluster, and it makes those of a cluster one after the other.
    for label, before in (("middle", 100), ("rare", 60)):
        new = x[len(local) :][y[len(local) :] == label]
        ours = [found[label, part.cluster] for part in model.parts if part.label == label]
        assert sum(ours) == 300 - before
        assert sum(ours) <= len(new) <= sum(ours) + len(ours)
        ends = np.cumsum([0, *ours])
        mine = local[local["label"] == label]
        for part, start in zip([p for p in model.parts if p.label == label], ends, strict=False):
            corners = mine.loc[mine["cluster"] == part.cluster, ["f0", "f1"]].to_numpy()
            inside = new[start + len(ours) : start + found[label, part.cluster]]
            assert (inside >= corners.min(axis=0)).all()
            assert (inside <= corners.max(axis=0)).all()
    assert {(part.label, part.cluster) for part in model.parts} == set(found)


def test_shares_are_those_of_the_formula(spark: SparkSession) -> None:
    """In the scaled space, too; and clusters of k rows or fewer, or with too few of the class, get none."""
    df = example(spark, {"common": 300, "rare": 60})
    sampler = KMeansSMOTE(
        inputCols=["f0", "f1"],
        numClusters=9,
        kNeighbors=3,
        clusterBalanceThreshold=0.15,
        idCols=["id"],
        lineageCol="line",
    )
    model = sampler.fit(df)
    found, local = made_by_cluster(model, df)
    clusters = model.clusters
    assert clusters is not None
    sparsities = {}
    for cluster, mine in local.groupby("cluster"):
        rare = mine[mine["label"] == "rare"]
        if len(rare) > 3 and len(rare) / len(mine) >= 0.15:
            distance = pdist(clusters.places(rare[["f0", "f1"]].to_numpy())).mean()
            sparsities[cluster] = distance ** (0.16 * math.log(len(rare), 1.6) ** 1.8) / len(rare)
    assert 1 < len(sparsities) < local[local["label"] == "rare"]["cluster"].nunique()
    for cluster, sparsity in sparsities.items():
        assert abs(found["rare", cluster] - 240 * sparsity / sum(sparsities.values())) <= 1
    assert sum(found.values()) == sum(found["rare", cluster] for cluster in sparsities) == 240


def test_rows_lie_between_near_rows_of_a_cluster_whatever_the_partitioning(
    spark: SparkSession, tmp_path: object
) -> None:
    df = example(spark, {"common": 150, "rare": 40})
    sampler = KMeansSMOTE(clusterBalanceThreshold=0.1, numClusters=4, scale="none", idCols=["id"], lineageCol="line")
    model = sampler.fit(df)
    model.write().save(f"{tmp_path}/model")
    expected = rows(model.resample(df))
    assert rows(KMeansSMOTEModel.load(f"{tmp_path}/model").resample(df)) == expected
    assert rows(sampler.fitResample(df.repartition(16, F.col("note")))) == expected
    local = df.orderBy("id").toPandas()
    points = np.stack([v.toArray() for v in local["features"]])
    assert model.clusters is not None
    clusters = model.clusters.of(points)
    for row in model.resample(df).where("line is not null").collect():
        parent, neighbor, gap = row["line"]["parent"]["id"], row["line"]["neighbor"]["id"], row["line"]["gap"]
        mine = np.flatnonzero((clusters == clusters[parent]) & (local["label"] == "rare"))
        apart = np.linalg.norm(points[mine] - points[parent], axis=1)
        assert neighbor in mine[np.argsort(apart)[1:3]]
        np.testing.assert_allclose(
            row["features"].toArray(), points[parent] + gap * (points[neighbor] - points[parent])
        )
    quality = model.neighborQuality(df)["rare"]
    assert (quality.recall, quality.distanceRatio, quality.k) == (1.0, 1.0, 2)


def test_classes_without_a_cluster_are_refused(spark: SparkSession) -> None:
    df = example(spark, {"common": 150, "rare": 40}).withColumn("f0", F.lit(1.0))
    with pytest.raises(SparkimbError, match=r"Threshold is 1 for class 'rare'.*largest share is .*Lower"):
        KMeansSMOTE(inputCols=["f1"], clusterBalanceThreshold=1.0, numClusters=2, idCols=["id"]).fit(df)
    with pytest.raises(SparkimbError, match=r"numClusters is 200, but .* 190 rows"):
        KMeansSMOTE(inputCols=["f1"], numClusters=200, idCols=["id"]).fit(df)
    with pytest.raises(SparkimbError, match=r"rows of class 'rare' are alike in each of its 1 clusters"):
        KMeansSMOTE(inputCols=["f0"], idCols=["id"]).fit(df)


def test_with_one_cluster_nothing_is_asked(spark: SparkSession) -> None:
    df = example(spark, {"common": 90, "rare": 10})
    model = KMeansSMOTE(numClusters=1, clusterBalanceThreshold=1.0, idCols=["id"]).fit(df)
    assert [(part.label, part.rows) for part in model.parts] == [("rare", 10)]
    assert model.plan.targets == {"common": 90, "rare": 90}
