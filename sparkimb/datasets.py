"""Imbalanced example data: one packaged table, and generators that make any number of rows on Spark.

A generated row is a function of its id and the seed alone (`sparkimb.draws`), so it is the same row whatever the number
of partitions.  The class is drawn first, then the features given the class.  So a class share is met in expectation: of
n rows, a class of share p gets n·p rows, give or take √(n·p·(1 - p)).

All functions return a lazy DataFrame.  None starts a Spark job, shuffles, or holds generated rows on the driver.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate, pairwise, product
from typing import Literal, TypeVar

import numpy as np
from pyspark.ml.functions import array_to_vector
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkimb.draws import normal, uniform
from sparkimb.errors import SparkimbError

_FILES = {"hypothyroid": "hypothyroid.csv"}

_HYPOTHYROID_NUMBERS = ("age", "TSH", "T3", "TT4", "T4U", "FTI", "TBG")

Value = TypeVar("Value", str, int)
Layout = Literal["scalars", "array", "vector"]
Drift = Literal["abrupt", "gradual", "prior"]

# 2024-01-01T00:00:00Z, in seconds: a Monday, and the first instant of every generated time column.
_START = 1_704_067_200

# The concepts of SEA with the largest step between neighbours (its third and fourth): label 1 where f0 + f1 <= theta.
_THETA_BEFORE, _THETA_AFTER = 7.0, 9.5

# STAGGER's three concepts: the rows of label 1.
_STAGGER: tuple[Callable[[str, str, str], bool], ...] = (
    lambda size, colour, shape: size == "small" and colour == "red",
    lambda size, colour, shape: colour == "green" or shape == "circular",
    lambda size, colour, shape: size in ("medium", "large"),
)
_SIZES, _COLOURS, _SHAPES = ("small", "medium", "large"), ("red", "green", "blue"), ("square", "circular", "triangular")
_FIGURES = tuple(product(_SIZES, _COLOURS, _SHAPES))

# Value: (weight among honest transactions, weight among suspicious ones).  Invented; only the contrast matters.
_CATEGORIES = {
    "grocery": (30, 12),
    "restaurant": (22, 10),
    "fuel": (14, 8),
    "clothing": (14, 14),
    "travel": (6, 12),
    "electronics": (10, 24),
    "gift_cards": (4, 20),
}
_COUNTRIES = {"DE": (70, 45), "FR": (10, 12), "NL": (8, 12), "GB": (6, 14), "US": (6, 17)}
_CHANNELS = {"chip": (35, 12), "contactless": (30, 15), "online": (32, 60), "phone": (3, 13)}
_FIRST_HOURS = {0: (5, 25), 6: (27, 18), 12: (40, 25), 18: (28, 32)}  # of the quarters of a day
# Fraud that looks honest in every column: what keeps any learner from perfection.
_HIDDEN_FRAUD = 0.15
_UNKNOWN_DEVICE = 0.08


def path(name: str) -> str:
    """Return the local path of a packaged file.

    Parameters
    ----------
    name : "hypothyroid"
        A CSV file with a header, in which an empty field is a missing value.

    Raises
    ------
    SparkimbError
        If no packaged file has this name.

    Notes
    -----
    The path is one of this machine: Spark can read it only where its executors see the same files.
    """
    if name not in _FILES:
        raise SparkimbError(f"No packaged data set is named {name!r}. Names are: {', '.join(_FILES)}.")
    return str(resources.files("sparkimb") / "data" / _FILES[name])


def hypothyroid(spark: SparkSession) -> DataFrame:
    """Return the UCI hypothyroid table: 3,163 patients, of whom 151 (4.8 %) are hypothyroid.

    Columns: `patient_id` (int, 1 to 3,163), `diagnosis` ("hypothyroid" or "negative"), `age` in years and the measured
    values `TSH`, `T3`, `TT4`, `T4U`, `FTI`, `TBG` (double), and 18 categories (string): `sex` ("F", "M"), the flags
    ("t", "f") and `<value>_measured` ("y", "n").  Missing values are null: they occur in `sex`, `age` and the measured
    values, and a measured value is null exactly where its `_measured` is "n".  77 rows repeat an earlier row in all but
    the id.

    Notes
    -----
    The file is read on the driver and sent to Spark; see `path` for the file itself.

    References
    ----------
    .. [1] R. Quinlan, "Thyroid Disease", UCI Machine Learning Repository, 1986.  https://doi.org/10.24432/C5D010
           (CC BY 4.0)
    """
    with open(path("hypothyroid"), encoding="utf-8", newline="") as file:
        header, *records = csv.reader(file)
    casts = [int if name == "patient_id" else float if name in _HYPOTHYROID_NUMBERS else str for name in header]
    rows = [[cast(field) if field else None for cast, field in zip(casts, r, strict=True)] for r in records]
    types = {int: "int", float: "double", str: "string"}
    schema = ", ".join(f"{name} {types[cast]}" for name, cast in zip(header, casts, strict=True))
    return spark.createDataFrame(rows, schema)


def blobs(
    spark: SparkSession,
    rows: int,
    *,
    minority: float | Sequence[float] = 0.05,
    features: int = 2,
    clusters: int = 1,
    separation: float = 2.0,
    scatter: float = 0.0,
    layout: Layout = "scalars",
    seed: int = 0,
    partitions: int | None = None,
) -> DataFrame:
    """Generate Gaussian blobs: `id` (bigint, from 0), `label` (int) and the features.

    Each class has the same number of clusters, of unit variance.  The centres stand on a lattice in the plane of `f0`
    and `f1`, on which no two neighbours in a row are of one class: class c's cluster j is centred at
    f0 = separation · ((c + j) mod classes), f1 = separation · j.  The other features are standard normal noise, unless
    `scatter` moves the centres in all of them.

    Parameters
    ----------
    spark : SparkSession
    rows : int in [1, ∞)
    minority : float in (0, 1), or a sequence of such, default=0.05
        Share of class 1; or the shares of the classes 1, 2, …  Class 0 gets the rest, which must not be empty.
    features : int in [2, ∞), default=2
    clusters : int in [1, ∞), default=1
        Clusters per class, of one expected size.
    separation : float in [0, ∞), default=2.0
        Distance of neighbouring centres in standard deviations.  With two classes of one cluster the best possible area
        under the ROC curve is Φ(separation / √2): 0.92 for the default.
    scatter : float in [0, ∞), default=0.0
        Standard deviation of what is added to each coordinate of each class's each centre, a normal draw of its own.
    layout : {"scalars", "array", "vector"}, default="scalars"
        Features as double columns `f0`, `f1`, …, or as one column `features`.
    seed : int, default=0
    partitions : int in [1, ∞), optional
        Spark's default parallelism if None.  Does not change the rows.

    Raises
    ------
    SparkimbError
        If a value is out of its range.
    """
    shares = [_share("blobs.minority", p) for p in (minority if isinstance(minority, Sequence) else [minority])]
    if not shares or sum(shares) >= 1.0:
        raise SparkimbError(
            f"blobs.minority is {minority}, which sums to {sum(shares):g}. "
            "Name at least one share, and leave some rows to class 0: use a sum in (0, 1)."
        )
    features = _whole("blobs.features", features, 2)
    clusters = _whole("blobs.clusters", clusters, 1)
    separation = _number("blobs.separation", separation)
    if not 0.0 <= separation < float("inf"):
        raise SparkimbError(f"blobs.separation is {separation}. Use a number in [0, ∞).")
    scatter = _number("blobs.scatter", scatter)
    if not 0.0 <= scatter < float("inf"):
        raise SparkimbError(f"blobs.scatter is {scatter}. Use a number in [0, ∞).")
    draw = _Draws("blobs", seed)

    ids = _ids("blobs", spark, rows, partitions)
    label = _pick(draw.uniform("label"), dict(enumerate([1.0 - sum(shares), *shares])))
    cluster = F.floor(draw.uniform("cluster") * clusters)
    across = (F.col("label") + F.col("cluster")) % (len(shares) + 1)
    centre = [across * separation, F.col("cluster") * separation] + [F.lit(0.0)] * (features - 2)
    if scatter:
        moved = (normal("label", "cluster", seed=seed, purpose=f"blobs.centre.f{i}") for i in range(features))
        centre = [c + F.lit(scatter) * m for c, m in zip(centre, moved, strict=True)]
    points = [c + draw.normal(f"f{i}") for i, c in enumerate(centre)]
    labelled = ids.select("id", label.alias("label"), cluster.alias("cluster"))
    return labelled.select("id", "label", *_laid_out("blobs", points, layout))


def checkerboard(
    spark: SparkSession,
    rows: int,
    *,
    minority: float = 0.05,
    squares: int = 4,
    noise: float = 0.0,
    layout: Layout = "scalars",
    seed: int = 0,
    partitions: int | None = None,
) -> DataFrame:
    """Generate a checkerboard: `id` (bigint, from 0), `label` (int), and `f0` and `f1` in [0, squares).

    Each class is uniform on its colour: label 1, the minority, on the dark squares, where ⌊f0⌋ + ⌊f1⌋ is odd.  A linear
    model finds nothing here, and every dark square is a small disjunct of its own.

    Parameters
    ----------
    spark : SparkSession
    rows : int in [1, ∞)
    minority : float in (0, 1), default=0.05
        Share of label 1.
    squares : even int in [2, ∞), default=4
        Squares along a side.  Even, so that there are as many dark ones as light ones.
    noise : float in [0, 1], default=0.0
        Share of rows of either class that are placed on the other class's colour.
    layout : {"scalars", "array", "vector"}, default="scalars"
        Features as double columns `f0`, `f1`, or as one column `features`.
    seed : int, default=0
    partitions : int in [1, ∞), optional
        Spark's default parallelism if None.  Does not change the rows.

    Raises
    ------
    SparkimbError
        If a value is out of its range.
    """
    minority = _share("checkerboard.minority", minority)
    squares = _whole("checkerboard.squares", squares, 2)
    if squares % 2:
        raise SparkimbError(
            f"checkerboard.squares is {squares}, so one colour would have more squares than the other. "
            f"Use an even number, such as {squares + 1}."
        )
    noise = _noise("checkerboard.noise", noise)
    draw = _Draws("checkerboard", seed)

    ids = _ids("checkerboard", spark, rows, partitions)
    labelled = ids.select("id", (draw.uniform("label") < minority).cast("int").alias("label"))
    colour = F.when(draw.uniform("noise") < noise, 1 - F.col("label")).otherwise(F.col("label"))
    y = draw.uniform("row") * squares
    pair = draw.uniform("column") * (squares // 2)  # which pair of squares in the row, and how far into its square
    x = pair + F.floor(pair) + (F.floor(y) + colour) % 2
    return labelled.select("id", "label", *_laid_out("checkerboard", [x, y], layout))


def card_fraud(
    spark: SparkSession,
    rows: int,
    *,
    fraud: float = 0.002,
    cards: int = 1_000,
    days: int = 90,
    seed: int = 0,
    partitions: int | None = None,
) -> DataFrame:
    """Generate card transactions, a few of them fraud.  All numbers behind it are invented.

    ==================  =========  ====================================================================================
    `transaction_id`    bigint     from 0
    `card_id`           bigint     in [0, cards), uniform; says nothing about fraud
    `timestamp`         timestamp  from 2024-01-01 UTC; fewest between 0 and 6 o'clock UTC, fraud oftener there
    `amount`            double     log-normal, rounded to 0.01; fraud is larger and more varied
    `category`          string     of the merchant
    `country`           string     of the merchant
    `channel`           string     "chip", "contactless", "online" or "phone"
    `device_age`        double     days since the device was first seen, exponential; null in 8 % of the rows, at random
    `is_fraud`          boolean
    ==================  =========  ====================================================================================

    Given `is_fraud`, columns are independent, except that 15 % of the fraud looks honest in every column.

    Parameters
    ----------
    spark : SparkSession
    rows : int in [1, ∞)
    fraud : float in (0, 1), default=0.002
        Share of transactions with `is_fraud`.
    cards : int in [1, ∞), default=1,000
    days : int in [1, ∞), default=90
        Length of the period.  Transactions are not ordered by time.
    seed : int, default=0
    partitions : int in [1, ∞), optional
        Spark's default parallelism if None.  Does not change the rows.

    Raises
    ------
    SparkimbError
        If a value is out of its range.
    """
    fraud = _share("card_fraud.fraud", fraud)
    cards = _whole("card_fraud.cards", cards, 1)
    days = _whole("card_fraud.days", days, 1)
    draw = _Draws("card_fraud", seed)
    suspicious = F.col("is_fraud") & (draw.uniform("hidden") >= _HIDDEN_FRAUD)

    def pick(purpose: str, weights: Mapping[Value, tuple[int, int]]) -> Column:
        u = draw.uniform(purpose)
        honest, of_suspicious = ({value: pair[i] for value, pair in weights.items()} for i in (0, 1))
        return F.when(F.col("suspicious"), _pick(u, of_suspicious)).otherwise(_pick(u, honest))

    def by_kind(honest: float, of_suspicious: float) -> Column:
        return F.when(F.col("suspicious"), of_suspicious).otherwise(honest)

    day = F.floor(draw.uniform("day") * days)
    hour = pick("quarter", _FIRST_HOURS) + draw.uniform("hour") * 6.0
    amount = F.exp(by_kind(3.3, 4.1) + by_kind(0.9, 1.2) * draw.normal("amount"))
    device_age = -by_kind(400.0, 150.0) * F.log(1.0 - draw.uniform("device_age"))
    ids = _ids("card_fraud", spark, rows, partitions)
    labelled = ids.select("id", (draw.uniform("label") < fraud).alias("is_fraud"))
    return labelled.select("id", "is_fraud", suspicious.alias("suspicious")).select(
        F.col("id").alias("transaction_id"),
        F.floor(draw.uniform("card") * cards).alias("card_id"),
        F.timestamp_seconds(_START + day * 86_400 + F.floor(hour * 3_600.0)).alias("timestamp"),
        F.round(amount, 2).alias("amount"),
        pick("category", _CATEGORIES).alias("category"),
        pick("country", _COUNTRIES).alias("country"),
        pick("channel", _CHANNELS).alias("channel"),
        F.when(draw.uniform("unknown device") >= _UNKNOWN_DEVICE, device_age).alias("device_age"),
        "is_fraud",
    )


def drifting(
    spark: SparkSession,
    rows: int,
    *,
    drift: Drift = "abrupt",
    at: float = 0.5,
    width: float = 0.2,
    minority: float = 0.1,
    minority_after: float | None = None,
    noise: float = 0.0,
    layout: Layout = "scalars",
    seed: int = 0,
    partitions: int | None = None,
) -> DataFrame:
    """Generate an ordered table whose concept, class share or both change along `id`.

    `id` (bigint, from 0), `event_time` (timestamp; one row a second from 2024-01-01 UTC), `label` (int) and three
    features in [0, 10].  The concept is SEA's [1]_: label 1 where f0 + f1 <= θ, while f2 means nothing.  Before the
    drift θ is 7, after it 9.5 (SEA's third and fourth concepts).  Unlike in SEA the class is drawn first, and then a
    point that is uniform on the class's part of the square, so that the class share is a parameter.

    Parameters
    ----------
    spark : SparkSession
    rows : int in [1, ∞)
    drift : {"abrupt", "gradual", "prior"}, default="abrupt"
        abrupt: rows from `at` on are drawn from what holds after the drift.
        gradual: the chance that a row is so drawn rises linearly from 0 to 1 while `at` is at most width / 2 away.
        prior: abrupt, and θ stays 7: only the class share changes.
    at : float in (0, 1), default=0.5
        Where the drift is, as a share of the rows.
    width : float in (0, 1), default=0.2
        Length of a gradual drift, as a share of the rows; not looked at otherwise.
    minority : float in (0, 1), default=0.1
        Share of label 1 before the drift.
    minority_after : float in (0, 1), optional
        Share of label 1 after the drift.  If None: as before it; for "prior" 1 - minority, the classes change roles.
    noise : float in [0, 1], default=0.0
        Share of rows of either class that are drawn from the other class's part of the square (in SEA: 0.1).
    layout : {"scalars", "array", "vector"}, default="scalars"
        Features as double columns `f0`, `f1`, `f2`, or as one column `features`.
    seed : int, default=0
    partitions : int in [1, ∞), optional
        Spark's default parallelism if None.  Does not change the rows.

    Raises
    ------
    SparkimbError
        If a value is out of its range.

    References
    ----------
    .. [1] W. N. Street, Y. Kim, "A Streaming Ensemble Algorithm (SEA) for Large-Scale Classification", KDD 2001,
           377-382.
    """
    if drift not in ("abrupt", "gradual", "prior"):
        raise SparkimbError(f"drifting.drift is {drift!r}. Use 'abrupt', 'gradual' or 'prior'.")
    at = _share("drifting.at", at)
    width = _share("drifting.width", width)
    minority = _share("drifting.minority", minority)
    if minority_after is None:
        minority_after = 1.0 - minority if drift == "prior" else minority
    minority_after = _share("drifting.minority_after", minority_after)
    noise = _noise("drifting.noise", noise)
    ids = _ids("drifting", spark, rows, partitions)
    draw = _Draws("drifting", seed)

    place = F.col("id") / float(rows)
    after = draw.uniform("drifted") * width + (at - width / 2.0) if drift == "gradual" else F.lit(at)
    share = F.when(F.col("drifted"), minority_after).otherwise(minority)
    label = (draw.uniform("label") < share).cast("int")
    low = F.when(draw.uniform("noise") < noise, F.col("label") == 0).otherwise(F.col("label") == 1)

    theta = F.when(F.col("drifted") & F.lit(drift != "prior"), _THETA_AFTER).otherwise(_THETA_BEFORE)
    below = theta * theta / 200.0  # the part of the square where f0 + f1 <= theta
    u = draw.uniform("sum")
    total = _quantile_of_sum(F.when(F.col("low"), u * below).otherwise(below + u * (1.0 - below)))
    # Of all points with this sum, those in the square have f0 between `least` and `total` - `least`.
    least = F.greatest(F.col("total") - 10.0, F.lit(0.0))
    f0 = least + draw.uniform("f0") * (F.col("total") - 2.0 * least)
    points = [F.col("f0"), F.col("total") - F.col("f0"), draw.uniform("f2") * 10.0]
    return (
        ids.select("id", (place >= after).alias("drifted"))
        .select("id", "drifted", label.alias("label"))
        .select("id", "drifted", "label", low.alias("low"))
        .select("id", "label", total.alias("total"))
        .select("id", "label", "total", f0.alias("f0"))
        .select(
            "id",
            F.timestamp_seconds(F.col("id") + _START).alias("event_time"),
            "label",
            *_laid_out("drifting", points, layout),
        )
    )


def _quantile_of_sum(q: Column) -> Column:
    """Return the q-quantile of the sum of two numbers that are uniform in [0, 10)."""
    return F.when(q <= 0.5, F.sqrt(q * 200.0)).otherwise(20.0 - F.sqrt((1.0 - q) * 200.0))


def stagger(
    spark: SparkSession,
    rows: int,
    *,
    concepts: Sequence[int] = (1, 2, 3),
    changes: Sequence[float] = (1 / 3, 2 / 3),
    width: float = 0.0,
    minority: float | Sequence[float] = 0.1,
    noise: float = 0.0,
    seed: int = 0,
    partitions: int | None = None,
) -> DataFrame:
    """Generate an ordered table of figures whose concept changes along `id`: STAGGER's [1]_.

    `id` (bigint, from 0), `event_time` (timestamp; one row a second from 2024-01-01 UTC), `label` (int) and three
    categories (string): `size` ("small", "medium", "large"), `colour` ("red", "green", "blue") and `shape` ("square",
    "circular", "triangular").  Label 1 is, by concept, 1: small and red; 2: green or circular; 3: medium or large.
    Unlike in STAGGER the class is drawn first, and then one of the figures that the concept gives this class, all alike
    likely, so that the class share is a parameter.

    Parameters
    ----------
    spark : SparkSession
    rows : int in [1, ∞)
    concepts : sequence of {1, 2, 3}, default=(1, 2, 3)
        The concepts in the order they hold.
    changes : sequence of float in (0, 1), default=(1/3, 2/3)
        Where each concept gives way to the next, rising, as shares of the rows.
    width : float in [0, 1), default=0.0
        Length of each change, as a share of the rows: the chance that a row is drawn from what holds after the change
        rises linearly from 0 to 1 while the change is at most width / 2 away.
    minority : float in (0, 1), or a sequence of such, default=0.1
        Share of label 1, or the share with each of the concepts.
    noise : float in [0, 1], default=0.0
        Share of rows of either class that are drawn from the other class's figures.
    seed : int, default=0
    partitions : int in [1, ∞), optional
        Spark's default parallelism if None.  Does not change the rows.

    Raises
    ------
    SparkimbError
        If a value is out of its range.

    References
    ----------
    .. [1] J. C. Schlimmer, R. H. Granger, "Incremental Learning from Noisy Data", Machine Learning 1, 1986, 317-354.
    """
    concepts = [_whole("stagger.concepts", concept, 1) for concept in concepts]
    if not concepts or max(concepts) > len(_STAGGER):
        raise SparkimbError(f"stagger.concepts is {concepts}. Use numbers of concepts: 1, 2 or 3.")
    changes = [_share("stagger.changes", change) for change in changes]
    if len(changes) != len(concepts) - 1 or any(a >= b for a, b in pairwise(changes)):
        raise SparkimbError(
            f"stagger.changes is {changes}, with concepts {concepts}. Use one place less than concepts, rising."
        )
    if not 0.0 <= _number("stagger.width", width) < 1.0:
        raise SparkimbError(f"stagger.width is {width}. Use a number in [0, 1).")
    given = list(minority) if isinstance(minority, Sequence) else [minority] * len(concepts)
    shares = [_share("stagger.minority", share) for share in given]
    if len(shares) != len(concepts):
        raise SparkimbError(
            f"stagger.minority has {len(shares)} shares for {len(concepts)} concepts. Use one for each."
        )
    noise = _noise("stagger.noise", noise)
    ids = _ids("stagger", spark, rows, partitions)
    draw = _Draws("stagger", seed)

    place = F.col("id") / float(rows) + (draw.uniform("drifted") - 0.5) * float(width)
    turn = sum((F.when(place >= change, 1).otherwise(0) for change in changes), F.lit(0))  # how many changes are past
    label = (draw.uniform("label") < F.get(F.array(*map(F.lit, shares)), F.col("turn"))).cast("int")
    as_one = F.when(draw.uniform("noise") < noise, F.col("label") == 0).otherwise(F.col("label") == 1)
    u = draw.uniform("figure")
    figure = F.lit(None)
    for number, concept in enumerate(concepts):
        one, zero = (
            [i for i, f in enumerate(_FIGURES) if _STAGGER[concept - 1](*f) == holds] for holds in (True, False)
        )
        drawn = F.when(F.col("as_one"), _one_of(u, one)).otherwise(_one_of(u, zero))
        figure = F.when(F.col("turn") == number, drawn).otherwise(figure)
    return (
        ids.select("id", turn.alias("turn"))
        .select("id", "turn", label.alias("label"))
        .select("id", "turn", "label", as_one.alias("as_one"))
        .select("id", "label", figure.alias("figure"))
        .select(
            "id",
            F.timestamp_seconds(F.col("id") + _START).alias("event_time"),
            "label",
            *(
                F.get(F.array(*(F.lit(f[i]) for f in _FIGURES)), F.col("figure")).alias(name)
                for i, name in enumerate(("size", "colour", "shape"))
            ),
        )
    )


def _one_of(u: Column, values: Sequence[int]) -> Column:
    """Turn a uniform draw into one of the values, all alike likely."""
    return F.get(F.array(*map(F.lit, values)), F.floor(u * len(values)).cast("int"))


@dataclass(frozen=True)
class _Draws:
    """The draws of one generator, whose purposes are its own."""

    generator: str
    seed: int

    def __post_init__(self) -> None:
        _whole(f"{self.generator}.seed", self.seed)

    def uniform(self, purpose: str) -> Column:
        return uniform("id", seed=self.seed, purpose=f"datasets.{self.generator}.{purpose}")

    def normal(self, purpose: str) -> Column:
        return normal("id", seed=self.seed, purpose=f"datasets.{self.generator}.{purpose}")


def _ids(generator: str, spark: SparkSession, rows: int, partitions: int | None) -> DataFrame:
    if partitions is not None:
        partitions = _whole(f"{generator}.partitions", partitions, 1)
    return spark.range(0, _whole(f"{generator}.rows", rows, 1), 1, partitions)


def _pick(u: Column, weights: Mapping[Value, float]) -> Column:
    """Turn a uniform draw into one of the values, each with a chance proportional to its weight."""
    values = list(weights)
    total = float(sum(weights.values()))
    picked = F.lit(values[-1])
    for value, bound in reversed(list(zip(values[:-1], accumulate(weights.values()), strict=False))):
        picked = F.when(u < bound / total, F.lit(value)).otherwise(picked)
    return picked


def _laid_out(generator: str, features: Sequence[Column], layout: str) -> list[Column]:
    if layout == "scalars":
        return [feature.alias(f"f{i}") for i, feature in enumerate(features)]
    if layout == "array":
        return [F.array(*features).alias("features")]
    if layout == "vector":
        return [array_to_vector(F.array(*features)).alias("features")]
    raise SparkimbError(f"{generator}.layout is {layout!r}. Use 'scalars', 'array' or 'vector'.")


def _whole(name: str, value: int, least: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}. Use an int.")
    if least is not None and value < least:
        raise SparkimbError(f"{name} is {value}. Use a whole number in [{least}, ∞).")
    return int(value)


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}. Use a number.")
    return float(value)


def _share(name: str, value: float) -> float:
    if not 0.0 < _number(name, value) < 1.0:
        raise SparkimbError(f"{name} is {value}. Use a number in (0, 1).")
    return float(value)


def _noise(name: str, value: float) -> float:
    if not 0.0 <= _number(name, value) <= 1.0:
        raise SparkimbError(f"{name} is {value}. Use a number in [0, 1].")
    return float(value)
