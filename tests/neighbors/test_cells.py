"""Cells: every row has one home, neighbours visit it, and no cell is too large for a task."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from sparkimb.neighbors.cells import Cells
from sparkimb.neighbors.kernel import nearest
from sparkimb.neighbors.metrics import Euclidean

ROWS, K = 6000, 5


def clusters(d: int = 6) -> Any:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(24, d)) * 12
    return centres[rng.integers(0, 24, ROWS)] + rng.normal(size=(ROWS, d))


def skewed() -> Any:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(ROWS, 4))
    values[rng.random(ROWS) < 0.9] *= 1e-3
    return values


DATA = {
    "clusters": clusters,
    "skewed": skewed,
    "one feature": lambda: np.random.default_rng(0).normal(size=(ROWS, 1)),
    "heavy tails": lambda: np.random.default_rng(0).standard_cauchy(size=(ROWS, 2)),
    "one Gaussian in 20 dimensions": lambda: np.random.default_rng(0).normal(size=(ROWS, 20)),
    "half of them zero": lambda: np.maximum(0, np.random.default_rng(0).normal(size=(ROWS, 3))),
}


@pytest.fixture(params=DATA, name="kind")
def _kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learn(places: Any, max_rows: int = 900) -> Cells:
    return Cells.learn(places, k=K, rows=len(places), max_rows=max_rows)


def places_of(kind: str) -> Any:
    return DATA[kind]().astype(np.float32)


def homes_of(cells: Cells, places: Any) -> Any:
    rows, cell, home = cells.route(places)
    homes = np.empty(len(places), np.int64)
    homes[rows[home]] = cell[home]
    return homes


def test_every_row_has_one_home_and_visits_a_cell_once(kind: str) -> None:
    places = places_of(kind)
    cells = learn(places)
    assert cells.number > 4
    rows, cell, home = cells.route(places)
    assert sorted(rows[home]) == list(range(ROWS))
    assert len(set(zip(rows, cell, strict=True))) == len(rows)
    assert set(cell) <= set(range(cells.number))


def test_a_row_goes_where_it_goes_alone() -> None:
    """A batch's other rows do not matter, though the cut goes through the row: other partitions, other batches."""
    rng = np.random.default_rng(0)
    places = rng.normal(size=(400, 10)).astype(np.float32)
    direction = rng.normal(size=10)
    for row in range(3, 60):
        threshold = float(places[row] @ direction.astype(np.float32))
        cells = Cells(direction[None], np.array([threshold]), np.zeros(1), np.array([[~0, ~1]]))
        homes = [
            homes_of(cells, places[start:stop])[row - start]
            for start, stop in ((0, 400), (row, row + 1), (row - 3, row + 4), (row - 1, 100))
        ]
        assert len(set(homes)) == 1


def cuts_on_the_way(cells: Cells, cell: int) -> list[tuple[int, int]]:
    """Return the cuts between the root and a cell, and the side taken at each."""
    ways: dict[int, list[tuple[int, int]]] = {0: []}
    for cut, ends in enumerate(cells.sides):
        for side, end in enumerate(ends):
            ways[int(end)] = [*ways[cut], (cut, side)]
    return ways[~cell]


def test_visitors_are_those_within_the_margins(kind: str) -> None:
    """Against a slow walk from the root to every cell."""
    places = places_of(kind)
    cells = learn(places)
    rows, cell, home = cells.route(places)
    along = places.astype(float) @ cells.directions.T - cells.thresholds
    for number in range(cells.number):
        beyond = [along[:, cut] * (1 if side == 0 else -1) for cut, side in cuts_on_the_way(cells, number)]
        margins = [cells.margins[cut] for cut, _ in cuts_on_the_way(cells, number)]
        outside = np.max([far - margin for far, margin in zip(beyond, margins, strict=True)], axis=0)
        sent, lives = np.zeros(ROWS, bool), np.zeros(ROWS, bool)
        sent[rows[cell == number]] = True
        lives[rows[(cell == number) & home]] = True
        rounding = 1e-5 * (1 + np.abs(places).max(axis=1))
        assert (outside[sent] <= rounding[sent]).all()
        assert (outside[~sent] >= -rounding[~sent]).all()
        assert (np.max(beyond, axis=0)[lives] <= rounding[lives]).all()


def test_no_cell_is_much_larger_than_wanted(kind: str) -> None:
    """On the rows it was learned from none is, but where they are alike; on others of the kind half as many more."""
    places = places_of(kind)
    sample = np.arange(0, ROWS, 2)
    cells = Cells.learn(places[sample], k=K, rows=ROWS, max_rows=900)
    sizes = np.bincount(cells.route(places[sample])[1], minlength=cells.number)
    assert sizes.max() * 2 <= 900 * 1.01
    assert np.bincount(cells.route(places)[1]).max() <= 900 * 1.5


def test_visitors_are_few() -> None:
    places = places_of("clusters")
    rows, _, _ = learn(places).route(places)
    assert len(rows) <= 1.5 * ROWS


@pytest.mark.parametrize("alike", [1.0, 0.9, 0.5])
def test_rows_alike_share_a_cell(alike: float) -> None:
    """They cannot be cut apart: their cell is large, the others are not."""
    places = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    places[: int(alike * ROWS)] = 0.25
    cells = learn(places)
    rows, cell, home = cells.route(places)
    assert sorted(rows[home]) == list(range(ROWS))
    at_home = np.bincount(cell[home], minlength=cells.number)
    assert len(set(homes_of(cells, places[: int(alike * ROWS)]))) == 1
    assert np.sort(at_home)[:-1].max(initial=0) <= 900


def test_few_different_rows_end() -> None:
    places = (np.random.default_rng(0).integers(0, 2, (ROWS, 3))).astype(np.float32)
    cells = learn(places, max_rows=300)
    homes = homes_of(cells, places)
    for row in np.unique(places, axis=0):
        assert len(set(homes[(places == row).all(axis=1)])) == 1
    assert cells.number == 8


def test_neighbours_are_found_at_home() -> None:
    places = places_of("clusters")
    everything = np.arange(ROWS)
    truth = nearest(Euclidean(places, np.zeros(6), np.ones(6)), everything, everything, K, exact=True).rows
    cells = learn(places)
    rows, cell, home = cells.route(places)
    there = np.zeros((cells.number, ROWS), bool)
    there[cell, rows] = True
    homes = homes_of(cells, places)
    assert there[homes[:, None], truth].mean() >= 0.97
    alone = np.zeros_like(there)
    alone[cell[home], rows[home]] = True
    assert alone[homes[:, None], truth].mean() < there[homes[:, None], truth].mean(), "visitors are of use"


def test_what_fits_is_not_cut() -> None:
    places = places_of("clusters")
    cells = learn(places, max_rows=ROWS)
    rows, cell, home = cells.route(places)
    assert cells.number == 1
    assert rows.tolist() == list(range(ROWS))
    assert not cell.any()
    assert home.all()
    assert np.isinf(cells.border_distances(places)).all()
    again = Cells.from_json(json.loads(json.dumps(cells.to_json())))
    assert again.number == 1
    assert again.route(places)[0].tolist() == list(range(ROWS))


def test_json_keeps_every_cut() -> None:
    cells = learn(places_of("clusters"))
    again = Cells.from_json(json.loads(json.dumps(cells.to_json())))
    for name in ("directions", "thresholds", "margins", "sides"):
        np.testing.assert_array_equal(getattr(again, name), getattr(cells, name))
        assert getattr(again, name).dtype == getattr(cells, name).dtype
    for found, kept in zip(again.route(places_of("clusters")), cells.route(places_of("clusters")), strict=True):
        np.testing.assert_array_equal(found, kept)


def test_border_distances_are_those_to_the_cuts_around_the_home(kind: str) -> None:
    places = places_of(kind)
    cells = learn(places)
    np.testing.assert_allclose(np.linalg.norm(cells.directions, axis=1), 1.0)
    homes = homes_of(cells, places)
    along = np.abs(places.astype(float) @ cells.directions.T - cells.thresholds)
    for number in range(cells.number):
        cuts = [cut for cut, _ in cuts_on_the_way(cells, number)]
        here = homes == number
        np.testing.assert_allclose(
            cells.border_distances(places)[here], along[here][:, cuts].min(axis=1), atol=1e-5 * np.abs(places).max()
        )
