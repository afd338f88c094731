"""Neighbours within a task: exact ones against scikit-learn and a slow oracle, inverted lists by their recall."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from sparkimb.datasets import path
from sparkimb.neighbors import kernel
from sparkimb.neighbors.kernel import Nearest, nearest
from sparkimb.neighbors.metrics import Euclidean
from sparkimb.neighbors.spaces import center_and_scale

NO_QUERIES = np.arange(0)


def euclidean(values: Any, scaling: Any = "none") -> Euclidean:
    return Euclidean(values, *center_and_scale(values, scaling))


def oracle(values: Any, queries: Any, index: Any, k: int, scale: Any = 1.0) -> Nearest:
    """Compare all pairs, nearest first, those at one distance by their positions."""
    apart = (values[queries][:, None].astype(float) - values[index][None].astype(float)) / scale
    squared = (apart**2).sum(axis=2)
    squared[queries[:, None] == index[None]] = np.inf
    order = np.lexsort((np.broadcast_to(index, squared.shape), squared), axis=1)[:, :k]
    return Nearest(index[order], np.take_along_axis(squared, order, axis=1))


def assert_equal(found: Nearest, expected: Nearest) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.squared, expected.squared, rtol=1e-9)


def clusters(rows: int, d: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(12, d))[rng.integers(0, 12, rows)] * 5 + rng.normal(size=(rows, d))


def random_rows(rng: Any, kind: str, n: int, d: int) -> Any:
    """Rows whose coordinates and differences are exact in binary, so that equal distances are equal in any order."""
    values = rng.integers(-1000, 1000, (n, d)) / 1024
    if kind == "ties":
        return np.round(values * 3)
    if kind == "far away":
        return values + 1e6
    if kind == "an outlier":
        values[rng.integers(n)] = 2.0**20
        return values
    if kind == "constant features":
        values[:, : d // 2 + 1] = 7.0
        return values
    if kind == "duplicates":
        return values[rng.integers(0, max(1, n // 4), n)]
    return values


KINDS = ["plain", "ties", "far away", "an outlier", "constant features", "duplicates"]


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 60),
    d=st.integers(1, 8),
    k=st.integers(1, 12),
    single=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_exact_search_finds_what_the_oracle_finds(seed: int, kind: str, n: int, d: int, k: int, single: bool) -> None:
    """Queries and index are parts of the rows that overlap anyhow; rows may be fewer than neighbours wanted."""
    rng = np.random.default_rng(seed)
    values = random_rows(rng, kind, n, d).astype(np.float32 if single else np.float64)
    queries, index = (np.sort(rng.choice(n, rng.integers(1, n + 1), replace=False)) for _ in range(2))
    most = len(index) - np.isin(queries, index).any()
    scale = 2.0 ** rng.integers(-3, 4, d)
    metric = Euclidean(values, values.astype(float).mean(axis=0), scale)
    expected = oracle(values, queries, index, min(k, most), scale)
    assert_equal(nearest(metric, queries, index, k, exact=True), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_search_with_several_blocks_finds_what_the_oracle_finds(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = random_rows(np.random.default_rng(3), kind, 150, 4)
    everything = np.arange(150)
    expected = oracle(values, everything, everything, 5)
    for queries, index in ((512, 4096), (7, 64), (64, 7), (3, 4)):
        monkeypatch.setattr(kernel, "BLOCK_QUERIES", queries)
        monkeypatch.setattr(kernel, "BLOCK_INDEX", index)
        assert_equal(nearest(euclidean(values), everything, everything, 5, exact=True), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_exact_search_equals_scikit_learn(dtype: Any, offset: float) -> None:
    """With spread 1 around 1e6 the products of float32 numbers would be off by more than the distances."""
    values = (np.random.default_rng(1).normal(size=(3000, 6)) + offset).astype(dtype)
    everything = np.arange(len(values))
    found = nearest(euclidean(values), everything, everything, 5, exact=True)
    centred = values.astype(float) - offset  # scikit-learn, too, looks for neighbours by products
    distances, rows = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(centred).kneighbors(centred)
    np.testing.assert_allclose(found.squared, distances[:, 1:] ** 2, rtol=1e-5)
    # float32 near 1e6 knows sixteenths: many rows are equally far, and scikit-learn orders those anyhow.
    same = [set(a) == set(b) for a, b in zip(found.rows, rows[:, 1:], strict=True)]
    assert all(same) or (dtype == np.float32 and offset)


@pytest.mark.parametrize("scaling", ["robust", "standard"])
def test_features_are_divided_by_their_scales(scaling: Any) -> None:
    values = np.random.default_rng(1).normal(size=(400, 3)) * [1.0, 1000.0, 1e-9]
    everything = np.arange(len(values))
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    scale = high - low if scaling == "robust" else values.std(axis=0)
    found = nearest(euclidean(values, scaling), everything, everything, 5, exact=True)
    assert_equal(found, oracle(values, everything, everything, 5, scale))


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_missing_lies_at_the_centre(missing: float, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    values = (rng.integers(-1000, 1000, (200, 3)) / 1024).astype(dtype)
    gaps = rng.random(values.shape) < 0.2
    center = np.array([0.5, -0.25, 8.0])
    everything = np.arange(len(values))
    metric = Euclidean(np.where(gaps, dtype(missing), values), center, np.ones(3))
    whole = np.where(gaps, center, values)
    assert_equal(nearest(metric, everything, everything, 4, exact=True), oracle(whole, everything, everything, 4))


@pytest.mark.parametrize("exact", [True, False])
def test_few_rows_have_few_neighbours(exact: bool) -> None:
    one = euclidean(np.array([[3.0, 4.0], [0.0, 0.0]]))
    row = np.array([0])
    assert nearest(one, row, row, 5, exact=exact).rows.shape == (1, 0)
    assert nearest(one, row, np.array([1]), 5, exact=exact).rows.tolist() == [[1]]
    assert nearest(one, np.arange(2), np.arange(2), 5, exact=exact).squared.tolist() == [[25.0], [25.0]]
    many = euclidean(clusters(3000, 3))
    assert nearest(many, NO_QUERIES, np.arange(3000), 5, exact=exact).rows.shape == (0, 5)


def test_a_query_may_be_known_by_another_position() -> None:
    """A row and its copy in the index, or none: `own` tells which is which."""
    values = np.array([[0.0], [1.0], [3.0], [0.0], [1.0]])
    found = nearest(euclidean(values), np.array([3, 4]), np.arange(3), 1, own=np.array([0, -1]), exact=True)
    assert found.rows.tolist() == [[1], [1]]


exponents = st.integers(-60, 60)
numbers = st.builds(lambda m, e: m * 2.0**e, st.floats(-1, 1), exponents) | st.just(0.0)


@given(
    values=st.integers(1, 5).flatmap(lambda d: st.lists(st.lists(numbers, min_size=d, max_size=d), min_size=2)),
    centred=st.booleans(),
    single=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_coarse_distances_are_never_too_large(values: list[list[float]], centred: bool, single: bool) -> None:
    """For numbers of any magnitude: this is what makes exact search exact."""
    array = np.array(values, np.float32 if single else np.float64)
    center = array.astype(float).mean(axis=0) if centred else np.zeros(array.shape[1])
    metric = Euclidean(array, center, np.ones(array.shape[1]))
    n = len(array)
    left, right = (side.ravel() for side in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    exact = metric.exact(left, right) - metric.offset(left)
    assert (metric.coarse(np.arange(n), np.arange(n)).ravel() <= exact + 1e-9 * np.abs(exact)).all()


@pytest.mark.parametrize("magnitude", [1e-100, 1e-22, 1e22, 1e100])
def test_exact_search_takes_numbers_whose_squares_float32_does_not_hold(magnitude: float) -> None:
    whole = np.random.default_rng(0).normal(size=(100, 8))
    everything = np.arange(100)
    found = nearest(euclidean(whole * magnitude), everything, everything, 5, exact=True)
    np.testing.assert_array_equal(found.rows, oracle(whole, everything, everything, 5).rows)


def test_exact_search_takes_a_few_numbers_out_of_range_among_ordinary_ones() -> None:
    """Such as 1e25 for "not known"."""
    values = np.random.default_rng(0).normal(size=(100, 8))
    values[[3, 40, 41], 2] = [1.0e25, 1.5e25, 1.75e25]
    everything = np.arange(100)
    found = nearest(euclidean(values, "robust"), everything, everything, 2, exact=True).rows
    assert [set(found[row]) for row in (3, 40, 41)][1:] == [{3, 41}, {3, 40}]
    ordinary = np.delete(everything, [3, 40, 41])
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    np.testing.assert_array_equal(found[ordinary], oracle(values, ordinary, ordinary, 2, high - low).rows)


@pytest.mark.parametrize(("kind", "d"), [("clusters", 10), ("clusters", 30), ("one Gaussian", 10)])
def test_inverted_lists_find_nearly_all_neighbours(kind: str, d: int) -> None:
    values = clusters(20_000, d) if kind == "clusters" else np.random.default_rng(0).normal(size=(20_000, d))
    metric, everything = euclidean(values, "robust"), np.arange(20_000)
    queries = everything[::10]
    found = nearest(metric, queries, everything, 5, exact=False)
    truth = nearest(metric, queries, everything, 5, exact=True).rows
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found.rows, truth, strict=True)])
    assert recall >= 0.95
    assert_sound(metric, queries, everything, found)


def hypothyroid() -> Any:
    table = pd.read_csv(path("hypothyroid"))[["age", "TSH", "T3", "TT4", "T4U", "FTI"]]
    return table.fillna(table.median()).to_numpy()


@pytest.mark.parametrize("values", [load_digits().data, hypothyroid()], ids=["digits, d = 64", "hypothyroid, d = 6"])
def test_inverted_lists_find_nearly_all_neighbours_of_real_rows(values: Any) -> None:
    """A neighbour as near as the fifth counts: the real rows hold many alike."""
    metric, everything = euclidean(values, "robust"), np.arange(len(values))
    found = nearest(metric, everything, everything, 5, exact=False)
    truth = nearest(metric, everything, everything, 5, exact=True)
    recall = (found.squared <= truth.squared[:, -1:]).mean()
    assert recall >= 0.95
    assert found.squared.sum() <= 1.01**2 * truth.squared.sum()


def assert_sound(metric: Euclidean, queries: Any, index: Any, found: Nearest) -> None:
    """Every distance is the true one, in order; no row is its own neighbour or is found twice; all are of the index."""
    assert np.isin(found.rows, index).all()
    assert (found.rows != queries[:, None]).all()
    ordered = np.sort(found.rows, axis=1)
    assert (ordered[:, 1:] != ordered[:, :-1]).all()
    pairs = np.repeat(queries, found.rows.shape[1]), found.rows.ravel()
    np.testing.assert_array_equal(found.squared.ravel(), metric.exact(*pairs))
    assert (np.diff(found.squared, axis=1) >= 0).all()


def awkward(kind: str) -> Any:
    values = np.random.default_rng(0).normal(size=(3000, 3))
    if kind == "pairs far away":  # their lists hold fewer rows than neighbours are wanted
        values[:2] += 1e4
        values[2:4] -= 1e4
    elif kind == "islands of two":
        values = np.repeat(values[:1500] * 1e3, 2, axis=0) + values * 1e-3
    elif kind == "mostly alike":
        values[300:] = values[0]
    elif kind == "all alike":
        values[:] = 1.0
    elif kind == "binary":
        values = (values > 0).astype(float)
    return values


AWKWARD = ["pairs far away", "islands of two", "mostly alike", "all alike", "binary"]


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("k", [1, 5, 400])
def test_inverted_lists_of_any_lengths_hold_what_is_wanted(kind: str, k: int) -> None:
    values = awkward(kind)
    metric = euclidean(values)
    queries, index = np.arange(0, 3000, 7), np.arange(0, 3000, 2)
    found = nearest(metric, queries, index, k, exact=False)
    assert found.rows.shape == (len(queries), k)
    assert_sound(metric, queries, index, found)
    truth = nearest(metric, queries, index, k, exact=True).squared
    assert (found.squared <= truth[:, -1:] + 1e-12).mean() >= 0.95


def test_answers_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = clusters(3000, 5)
    metric, everything = euclidean(values), np.arange(3000)
    expected = {exact: nearest(metric, everything, everything, 5, exact=exact) for exact in (True, False)}
    for queries, index in ((64, 100), (1000, 3000)):
        monkeypatch.setattr(kernel, "BLOCK_QUERIES", queries)
        monkeypatch.setattr(kernel, "BLOCK_INDEX", index)
        monkeypatch.setattr(kernel, "MAX_PROBES_HELD", 50 * queries)
        for exact, wanted in expected.items():
            found = nearest(metric, everything, everything, 5, exact=exact)
            if exact:
                assert_equal(found, wanted)
            else:  # a row may change its list where two centres are equally near but for a rounding
                assert (found.rows == wanted.rows).mean() > 0.99


def test_many_rows_alike_take_little_memory_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs are at one distance: the first few rows answer for the rest."""
    looked: list[int] = []
    true_exact = Euclidean.exact

    def counted(self: Euclidean, left: Any, right: Any) -> Any:
        looked.append(len(left))
        return true_exact(self, left, right)

    monkeypatch.setattr(Euclidean, "exact", counted)
    monkeypatch.setattr(kernel, "BLOCK_QUERIES", 64)
    monkeypatch.setattr(kernel, "BLOCK_INDEX", 64)
    metric, everything = euclidean(np.ones((2000, 2))), np.arange(2000)
    for exact in (True, False):
        looked.clear()
        found = nearest(metric, everything, everything, 3, exact=exact)
        assert sum(looked) <= 2000 * 3 * 64 + 64 * 2000
        assert max(looked) <= 64 * 64
        if exact:
            assert found.rows[[0, 1999]].tolist() == [[1, 2, 3], [0, 1, 2]]
