"""Samplers that look at neighbours of every class: whom they make rows of, how many, and where."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import imblearn.over_sampling
import numpy as np
import pytest
from compare import rows
from pyspark.sql import DataFrame, SparkSession
from sklearn.svm import SVC

from sparkimb.errors import NotEnoughSamplesError, SparkimbError
from sparkimb.neighbors import spaces
from sparkimb.over_sampling.adasyn import ADASYN
from sparkimb.over_sampling.borderline_smote import BorderlineSMOTE
from sparkimb.over_sampling.levels import LevelOverSampler
from sparkimb.over_sampling.safe_level_smote import SafeLevelSMOTE
from sparkimb.over_sampling.svm_smote import SVMSMOTE

K, M = 5, 10
COMMON = {"idCols": ["id"], "inputCols": ["f0", "f1"], "lineageCol": "line", "scale": "none", "neighborSearch": "exact"}


class Data(NamedTuple):
    points: Any  # float64 [n, 2]
    labels: Any  # str [n]

    def frame(self, spark: SparkSession) -> DataFrame:
        numbers = self.points.tolist()
        return spark.createDataFrame(
            [(i, *numbers[i], str(label)) for i, label in enumerate(self.labels)],
            "id long, f0 double, f1 double, label string",
        )

    def nearest(self, k: int, index: Any = None) -> Any:
        """Return the k nearest index rows of every row, itself left out, by comparing all pairs."""
        apart = ((self.points[:, None] - self.points[None]) ** 2).sum(axis=2)
        np.fill_diagonal(apart, np.inf)
        if index is not None:
            apart[:, ~index] = np.inf
        return np.argsort(apart, axis=1)[:, :k]

    def levels(self, k: int) -> Any:
        return (self.labels[self.nearest(k)] != self.labels[:, None]).sum(axis=1)


class Made(NamedTuple):
    parent: int
    neighbor: int
    gap: float
    point: tuple[float, float]
    label: str


def overlapping(**sizes: int) -> Data:
    """Make classes of normal points, one step of 1.3 apart."""
    places = np.repeat(1.3 * np.arange(len(sizes)), list(sizes.values()))
    points = places[:, None] + np.random.default_rng(7).normal(size=(len(places), 2))
    return Data(points, np.repeat(list(sizes), list(sizes.values())))


def apart() -> Data:
    """Make two classes with nothing of one near the other."""
    return Data(np.random.default_rng(7).normal(size=(60, 2)) + np.repeat([[0.0], [50.0]], [40, 20], axis=0), TWO)


def islands() -> Data:
    """Make six rare rows, each among ten common ones and far from each other."""
    noise = np.random.default_rng(7).normal(size=(66, 2))
    return Data(noise + np.tile(50.0 * np.arange(6), 11)[:, None], np.repeat(["common", "rare"], [60, 6]))


TWO = np.repeat(["common", "rare"], [40, 20])
THREE = overlapping(common=110, middle=45, rare=25)
# Enough rows for each parent to have one at least.
PLAN = {"middle": 110, "rare": 120}


def made_by(sampler: LevelOverSampler[Any], data: Data, spark: SparkSession) -> tuple[Any, list[Made]]:
    dataset = data.frame(spark)
    model = sampler.fit(dataset)
    out = model.resample(dataset).where("id IS NULL").collect()
    assert Counter(row["label"] for row in out) == {
        label: model.plan.targets[label] - model.plan.counts[label] for label in model.plan.changed
    }
    made = [
        Made(r["line"]["parent"]["id"], r["line"]["neighbor"]["id"], r["line"]["gap"], (r["f0"], r["f1"]), r["label"])
        for r in out
    ]
    for row in made:
        start, end = data.points[row.parent], data.points[row.neighbor]
        np.testing.assert_allclose(row.point, start + row.gap * (end - start), atol=1e-9)
        assert data.labels[row.parent] == row.label
    return model, made


def of_class(data: Data, label: str) -> Any:
    return np.flatnonzero(data.labels == label)


def assert_neighbors_in_class(data: Data, made: list[Made]) -> None:
    within = {label: data.nearest(K, data.labels == label) for label in set(data.labels)}
    assert all(row.neighbor in within[row.label][row.parent] for row in made)


def assert_equally_many(made: list[Made], parents: set[int], label: str) -> None:
    """Assert that rows are made of these parents and no others, as many of each but for one."""
    found = Counter(row.parent for row in made if row.label == label)
    assert set(found) == parents
    assert max(found.values()) - min(found.values()) <= 1


def test_borderline_makes_rows_of_the_rows_in_danger(spark: SparkSession) -> None:
    theirs = imblearn.over_sampling.BorderlineSMOTE(sampling_strategy=PLAN, random_state=0)
    theirs.fit_resample(THREE.points, THREE.labels)
    _, made = made_by(BorderlineSMOTE(samplingStrategy=PLAN, **COMMON), THREE, spark)
    for label in PLAN:
        assert_equally_many(made, set(theirs.in_danger_indices[label].tolist()), label)
    assert_neighbors_in_class(THREE, made)
    assert max(row.gap for row in made) > 0.9


def test_borderline_2_goes_less_than_half_way_towards_other_classes(spark: SparkSession) -> None:
    _, made = made_by(BorderlineSMOTE(samplingStrategy=PLAN, variant="borderline-2", **COMMON), THREE, spark)
    level = THREE.levels(M)
    for label in PLAN:
        mine = of_class(THREE, label)
        assert_equally_many(made, {int(i) for i in mine if M / 2 <= level[i] < M}, label)
    nearest = THREE.nearest(K)
    assert all(row.neighbor in nearest[row.parent] for row in made)
    towards = {True: [], False: []}
    for row in made:
        towards[bool(THREE.labels[row.neighbor] == row.label)].append(row.gap)
    assert 0.4 < max(towards[False]) < 0.5 < 0.9 < max(towards[True]) < 1


def test_adasyn_makes_rows_in_proportion_to_the_share_of_other_classes(spark: SparkSession) -> None:
    _, made = made_by(ADASYN(samplingStrategy=PLAN, **COMMON), THREE, spark)
    r = THREE.levels(K) / K
    found = Counter(row.parent for row in made)
    for label, target in PLAN.items():
        mine = of_class(THREE, label)
        wanted = np.rint(r[mine] / r[mine].sum() * (target - len(mine)))
        assert max(wanted) >= 3 * wanted[wanted > 0].min(), "rows are alike, so this proves nothing"
        assert np.abs([found[i] for i in mine] - wanted).max() <= 1
        assert not any(found[i] for i in mine if r[i] == 0)
    assert_neighbors_in_class(THREE, made)


def test_safe_level_gaps_keep_to_the_safer_end(spark: SparkSession) -> None:
    _, made = made_by(SafeLevelSMOTE(samplingStrategy=PLAN, **COMMON), THREE, spark)
    safe = K - THREE.levels(K)
    for label in PLAN:
        assert_equally_many(made, {int(i) for i in of_class(THREE, label) if safe[i] > 0}, label)
    assert_neighbors_in_class(THREE, made)
    seen = Counter()
    for row in made:
        own, theirs = int(safe[row.parent]), int(safe[row.neighbor])
        if theirs == 0:
            low, high, case = 0.0, 0.0, "copy"
        elif own == theirs:
            low, high, case = 0.0, 1.0, "even"
        elif own > theirs:
            low, high, case = 0.0, theirs / own, "safer"
        else:
            low, high, case = 1 - own / theirs, 1.0, "less safe"
        assert low <= row.gap <= high, row
        seen[case] += 1
    assert set(seen) == {"copy", "even", "safer", "less safe"}, seen


@pytest.mark.slow  # LinearSVC takes seconds
def test_svm_makes_rows_of_support_rows_between_or_beyond(spark: SparkSession) -> None:
    model, made = made_by(SVMSMOTE(samplingStrategy=PLAN, outStep=0.4, **COMMON), THREE, spark)
    level = THREE.levels(M)
    for label in PLAN:
        plane = model.hyperplanes[label]
        mine = of_class(THREE, label)
        decision = THREE.points[mine] @ np.array(plane.weights) + plane.intercept
        assert_equally_many(
            made, {int(i) for i, f in zip(mine, decision, strict=True) if f <= 1.01 and level[i] < M}, label
        )
    assert_neighbors_in_class(THREE, made)
    between = [row.gap for row in made if 2 * level[row.parent] >= M]
    beyond = [row.gap for row in made if 2 * level[row.parent] < M]
    assert 0 <= min(between) < 0.1 < 0.9 < max(between) < 1
    assert -0.4 < min(beyond) < -0.3 < -0.1 < max(beyond) <= 0


@pytest.mark.slow  # LinearSVC takes seconds
def test_svm_finds_the_borders_that_scikit_learn_finds(spark: SparkSession) -> None:
    data = overlapping(common=80, rare=30)
    model = SVMSMOTE(**COMMON).fit(data.frame(spark))
    plane = model.hyperplanes["rare"]
    scaled = data.points / data.points.std(axis=0, ddof=1)
    theirs = SVC(kernel="linear", C=1.0, tol=1e-6).fit(scaled, data.labels == "rare")
    ours = data.points @ np.array(plane.weights) + plane.intercept
    np.testing.assert_allclose(ours, theirs.decision_function(scaled), atol=0.05)


def test_svm_takes_rows_with_missing_features(spark: SparkSession) -> None:
    data = overlapping(common=60, rare=25)
    data.points[::4, 0] = np.nan
    model = SVMSMOTE(syntheticCol="made", **COMMON).fit(data.frame(spark))
    assert np.isfinite(model.hyperplanes["rare"].weights).all()
    out = model.resample(data.frame(spark)).where("made").select("f0", "f1").collect()
    assert len(out) == 35
    # A row made lacks a feature only where both parents do.
    assert sum(row["f0"] is not None for row in out) > 0
    assert all(row["f1"] is not None for row in out)


@pytest.mark.parametrize(
    "sampler",
    [ADASYN(**COMMON), pytest.param(SVMSMOTE(**COMMON), marks=pytest.mark.slow)],  # LinearSVC takes seconds
    ids=lambda s: type(s).__name__,
)
def test_loaded_models_make_the_same_rows(sampler: LevelOverSampler[Any], spark: SparkSession, tmp_path: Any) -> None:
    dataset = overlapping(common=50, rare=20).frame(spark)
    model = sampler.fit(dataset)
    model.write().save(str(tmp_path / "model"))
    loaded = type(model).load(str(tmp_path / "model"))
    assert loaded.everything == model.everything
    assert rows(loaded.resample(dataset)) == rows(model.resample(dataset))


def test_cells_find_nearly_the_same_rows_in_danger(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    data = overlapping(common=400, rare=150)
    searched = {**COMMON, "neighborSearch": "cells"}
    level = data.levels(M)
    danger = {int(i) for i in of_class(data, "rare") if M / 2 <= level[i] < M}
    monkeypatch.setattr(spaces, "MAX_UNIT_BYTES", 8 * 400)  # two features of 400 rows
    model, made = made_by(BorderlineSMOTE(**searched), data, spark)
    assert model.everything.units > 1
    found = {row.parent for row in made}
    assert len(found & danger) > 0.9 * len(found | danger)


@pytest.mark.parametrize(
    ("sampler", "data", "expected"),
    [
        (BorderlineSMOTE(**COMMON), apart(), "no row in danger.* for 20 of its rows, and all of them for 0"),
        (BorderlineSMOTE(**COMMON), islands(), "no row in danger.* for 0 of its rows, and all of them for 6"),
        (ADASYN(**COMMON), apart(), "ADASYN.kNeighbors is 5, but class 'rare' has no row of another class"),
        (SafeLevelSMOTE(**COMMON), islands(), "SafeLevelSMOTE.kNeighbors is 5, but class 'rare' has no row of its own"),
        (SVMSMOTE(**COMMON), islands(), "class 'rare' has no support row that is not noise: of its 6 rows 6 are"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_class_without_parents_is_refused(
    sampler: LevelOverSampler[Any], data: Data, expected: str, spark: SparkSession
) -> None:
    with pytest.raises(SparkimbError, match=f"{expected}.*[.] Raise .Neighbors, or use SMOTE"):
        sampler.fit(data.frame(spark))


def test_more_neighbours_than_rows_are_refused(spark: SparkSession) -> None:
    with pytest.raises(NotEnoughSamplesError, match=r"BorderlineSMOTE\.mNeighbors is 66, but there are only 66 rows"):
        BorderlineSMOTE(mNeighbors=66, **COMMON).fit(islands().frame(spark))
