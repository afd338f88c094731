"""StreamingBalancer: the rows and the state of a batch, as functions of its rows and of the state before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import FractionalType

from sparkimb.columns import (
    Features,
    case_of,
    check_label_type,
    check_time_type,
    column,
    feature_array,
    quoted,
    require_columns,
    resolve_features,
    temporary_name,
)
from sparkimb.draws import DrawSet, row_key, uniform, with_draw
from sparkimb.errors import SparkimbError
from sparkimb.neighbors.spaces import Space, check_features
from sparkimb.over_sampling.smote import SMOTE, SMOTEModel
from sparkimb.params import choice, column_name, column_names, integer, number
from sparkimb.statistics import MAX_CLASSES
from sparkimb.strategy import Label, SamplingPlan
from sparkimb.streaming.counts import DecayedCounts, row_size
from sparkimb.streaming.rates import METHODS, MOST_RATE, number_of_rows, sampling_rates
from sparkimb.streaming.reservoir import MAX_RESERVOIR_BYTES, Reservoir

UNLABELLED = ("pass", "wait", "reject")
# A class worth fewer rows than this says nothing about how rare it is: its share may be wrong by a third and more.
STRAY_ROWS = 10


@dataclass(frozen=True)
class BalancerState:
    """What a balancer knows after a batch.

    Parameters
    ----------
    counts : DecayedCounts
    reservoir : Reservoir
        Rows of the classes that are not the largest; only with method "smote".
    features : tuple of str
        The columns that hold the reservoir's features.
    numFeatures : int
        Numbers in a row of them; 0 before any row has come.
    """

    counts: DecayedCounts = field(default_factory=DecayedCounts)
    reservoir: Reservoir = field(default_factory=Reservoir)
    features: tuple[str, ...] = ()
    numFeatures: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "counts": self.counts.to_json(),
            "reservoir": self.reservoir.to_json(),
            "features": list(self.features),
            "numFeatures": self.numFeatures,
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> BalancerState:
        """Read what `to_json` wrote."""
        return cls(
            DecayedCounts.from_json(state["counts"]),
            Reservoir.from_json(state["reservoir"]),
            tuple(state["features"]),
            state["numFeatures"],
        )


@dataclass(frozen=True)
class BatchCounts:
    """What one look at a batch tells: rows that came and rows that go out of each class, and rows that cannot be used.

    Parameters
    ----------
    rowsIn, rowsOut : dict
        Rows by class.
    unlabelled : int
        Rows without a label, which pass.
    rejected : dict
        Rows by what is wrong with them.
    newest : int, optional
        The largest value of timeCol, in microseconds since 1970.
    """

    rowsIn: dict[Label, int]
    rowsOut: dict[Label, int]
    unlabelled: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    newest: int | None = None


@dataclass(frozen=True, kw_only=True)
class StreamingBalancer:
    """Balance the classes of a stream by their sizes as of the batch before, which forget what came long ago.

    For streams whose minority is rare and whose class shares drift.  Where they do not drift fit a RandomUnderSampler,
    ClassWeigher or SMOTE on a table instead: their models take streams as they are, without state.

    Parameters
    ----------
    labelCol : str, default="label"
        String, boolean, integer or double.
    featuresCol : str, optional
        Vector, or array of doubles or floats.
    inputCols : list of str, optional
        Numeric scalar feature columns.  Method "smote" needs features; with any other method naming them makes rows
        whose features are missing go to the dead letters.
    idCols : list of str, optional
        Columns that identify a row, also among the batches.  Without them all columns do.
    method : {"under", "uob", "over", "oob", "smote", "weigh"}, default="under"
        "under" drops rows of the larger classes and "over" repeats rows of the smaller ones, each by a draw of its own.
        "uob" and "oob" do the same a Poisson-distributed number of times [1]_.  "smote" makes rows between a row of a
        smaller class and its neighbours among rows kept of that class.  "weigh" adds a column of weights.
    ratio : float in (0, 1], default=1.0
        Wanted rows of the smallest class for each row of the largest.  Not looked at by "weigh".
    halfLife : float in (0, inf), default=100_000
        After so many rows a row counts half as much for the sizes and, with "smote", is half as likely to be kept.
    warmUpRows : int in [0, inf), default=1_000
        All rows pass as they are until so many have come.
    minRate : float in (0, 1], default=0.0001
        Fewest rows that go out, in the mean, for one that comes in, however small the smallest class has become.
    maxRate : float in [1, 100], default=20.0
        Most rows that go out, in the mean, for one that comes in; the largest weight.
    unlabelled : {"pass", "wait", "reject"}, default="reject"
        What becomes of rows without a label: they pass as they are and count for no class; they wait until a row with
        the same idCols brings the label; or they go to the dead letters.  Where they wait, those with a null among
        idCols go to the dead letters, and so do all but the first with the same idCols.
    maxWaitBatches : int in [1, inf), default=1_000
        Rows that have waited for so many batches go to the dead letters.
    missingFeatures : {"reject", "pass"}, default="reject"
        What becomes of rows with a feature that is null, NaN or infinite.  With "pass" rows made by "smote" take the
        feature from the other parent.
    weightCol : str, default="weight"
        The column that "weigh" adds.
    timeCol : str, optional
        Timestamp column, for the lag in a batch's status.
    kNeighbors : int in [1, reservoirRows), default=5
        For "smote": neighbours that rows made are drawn towards.  A class of which no more than these are kept passes.
    reservoirRows : int in [2, inf), default=500
        For "smote": rows kept of each class but the largest.  Of more classes than 16 MB of features hold the smallest;
        they must hold one, so with d features at most 4,194,304 / d.
    syntheticCol : str, optional
        Output column: true in rows made, and in all but the first of rows repeated.
    seed : int, default=0

    Raises
    ------
    SparkimbError
        From `check`, before any job: missing columns, columns of the wrong type, output columns that exist.  From
        `measured`, as from the balancer itself with inputCols: more reservoirRows than there is room for.

    Notes
    -----
    Rows:   a row's number of copies is drawn from its key and the seed, so in expectation the rates are met, in a batch
            within chance.  Which rates held when a row came depends on the batches before it, not on its own.
            With "smote" vectors and arrays are all as long as most of the first batch are; others go to the dead
            letters.
            Repeated rows are whole, ids included, as online bagging wants it; rows made have nulls in every column but
            features and label.
    New classes: pass as they are in their first batch, and have a rate from the next one on.  A class whose size is
            worth fewer than 10 rows passes and is not the smallest, if there are two others: a stray label must not
            cost the rest its rows.
    Cost:   a batch: one aggregate over label, id and feature columns, one more where rows cannot be used, and with
            "smote" one filter over the smaller classes, of which at most 4 reservoirRows a class are collected (a class
            has about that many only in the first batches).  The majority stays in the JVM; rows of classes that grow
            pass through Python, without a shuffle.  A source is read once for the count, once for the rows and, with
            "smote", once for those of the smaller classes, which `start_balanced` caches for the length of a batch.
    The same rows, seed and batches give the same output rows and the same state, whatever the partitioning.

    References
    ----------
    .. [1] Wang, Minku, Yao, "Resampling-Based Ensemble Methods for Online Class Imbalance Learning", TKDE 27(5), 2015.

    Examples
    --------
    >>> balancer = StreamingBalancer(labelCol="fraud", idCols=["id"], method="under", ratio=0.25)
    >>> start_balanced(stream, balancer, sink=ParquetSink(path="out"), ...)  # doctest: +SKIP
    """

    labelCol: str = "label"
    featuresCol: str | None = None
    inputCols: Sequence[str] | None = None
    idCols: Sequence[str] | None = None
    method: str = "under"
    ratio: float = 1.0
    halfLife: float = 100_000.0
    warmUpRows: int = 1_000
    minRate: float = 0.0001
    maxRate: float = 20.0
    unlabelled: str = "reject"
    maxWaitBatches: int = 1_000
    missingFeatures: str = "reject"
    weightCol: str = "weight"
    timeCol: str | None = None
    kNeighbors: int = 5
    reservoirRows: int = 500
    syntheticCol: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checks: dict[str, Any] = {
            **{name: column_name(f"StreamingBalancer.{name}") for name in ("labelCol", "weightCol")},
            **{n: _optional(column_name(f"StreamingBalancer.{n}")) for n in ("featuresCol", "timeCol", "syntheticCol")},
            **{n: _optional(column_names(f"StreamingBalancer.{n}")) for n in ("inputCols", "idCols")},
            "method": choice("StreamingBalancer.method", METHODS),
            "ratio": number("StreamingBalancer.ratio", 0, 1, low_open=True),
            "halfLife": number("StreamingBalancer.halfLife", 0, low_open=True),
            "warmUpRows": integer("StreamingBalancer.warmUpRows", 0),
            "minRate": number("StreamingBalancer.minRate", 0, 1, low_open=True),
            "maxRate": number("StreamingBalancer.maxRate", 1, MOST_RATE),
            "unlabelled": choice("StreamingBalancer.unlabelled", UNLABELLED),
            "maxWaitBatches": integer("StreamingBalancer.maxWaitBatches", 1),
            "missingFeatures": choice("StreamingBalancer.missingFeatures", ("reject", "pass")),
            "kNeighbors": integer("StreamingBalancer.kNeighbors", 1),
            "reservoirRows": integer("StreamingBalancer.reservoirRows", 2),
            "seed": integer("StreamingBalancer.seed"),
        }
        for name, convert in checks.items():
            object.__setattr__(self, name, convert(getattr(self, name)))  # frozen, but not yet seen by anybody
        if self.featuresCol is not None and self.inputCols is not None:
            raise SparkimbError(
                f"StreamingBalancer has featuresCol '{self.featuresCol}' and inputCols {self.inputCols}. Give one."
            )
        if self.method == "smote" and self.featuresCol is None and not self.inputCols:
            raise SparkimbError("StreamingBalancer.method is 'smote', which needs featuresCol or inputCols. Name one.")
        if self.kNeighbors >= self.reservoirRows:
            raise SparkimbError(
                f"StreamingBalancer.kNeighbors is {self.kNeighbors}, but reservoirRows is {self.reservoirRows}. "
                "Keep more rows than neighbours."
            )
        if self.unlabelled == "wait" and not self.idCols:
            raise SparkimbError(
                "StreamingBalancer.unlabelled is 'wait', but idCols is not set, so no label finds its row. Set idCols."
            )

        if self.method == "smote":
            self._check_room(len(self.inputCols or ()))

    def check(self, dataset: DataFrame) -> None:
        """Check the columns of a stream or batch: no job."""
        require_columns(
            dataset,
            labelCol=self.labelCol,
            idCols=self.idCols,
            timeCol=self.timeCol,
            featuresCol=self.featuresCol,
            inputCols=self.inputCols,
        )
        check_label_type(dataset, self.labelCol)
        self._features(dataset)
        check_time_type(dataset, self.timeCol)
        made = {"syntheticCol": self.syntheticCol, "weightCol": self.weightCol if self.method == "weigh" else None}
        for name, given in made.items():
            if given is not None and given in dataset.columns:
                raise SparkimbError(f"{name} '{given}' is there already. Name a column that the stream does not have.")

    def rates(self, state: BalancerState) -> dict[Label, float]:
        """Return the rows that go out, in the mean, for each row of a class (with "weigh": its weight); no job.

        Classes that the state does not know have 1.  With "smote" a class has 1 until more than kNeighbors rows of it
        are kept.
        """
        sizes = state.counts.sizes
        if state.counts.rows < self.warmUpRows:
            return dict.fromkeys(sizes, 1.0)
        rates = sampling_rates(
            self.method,
            sizes,
            ratio=self.ratio,
            maxRate=self.maxRate,
            minRate=self.minRate,
            strays=STRAY_ROWS * row_size(self.halfLife),
        )
        if self.method != "smote":
            return rates
        kept = state.reservoir.rows
        return {c: r if c in kept and kept[c].num_rows > self.kNeighbors else 1.0 for c, r in rates.items()}

    def measured(self, batch: DataFrame, state: BalancerState) -> BalancerState:
        """Return the state with the number of features: with "smote" one small job until it is known, else none."""
        features = self._features(batch)
        if self.method != "smote" or features is None:
            return state
        d = state.numFeatures or _usual_length(self.sound(batch), features)
        check_features(d, "StreamingBalancer")
        self._check_room(d)
        return replace(state, numFeatures=d)

    def sound(self, batch: DataFrame, numFeatures: int = 0) -> DataFrame:
        """Return the rows of a batch that can be used: lazy, a filter.

        Parameters
        ----------
        numFeatures : int
            As the state has it.  With 0 vectors and arrays may be of any length.
        """
        return batch.where(self._is_sound(batch, numFeatures))

    def rejected(self, batch: DataFrame, numFeatures: int = 0) -> DataFrame:
        """Return the rows of a batch that cannot be used, with the column `reason`: lazy, a filter."""
        fault = self._fault(batch, numFeatures)
        return batch.where(~self._is_sound(batch, numFeatures)).withColumn(reason_name(batch), fault)

    def look(self, batch: DataFrame, state: BalancerState) -> BatchCounts:
        """Count the rows that came and that will go out: one job, one grouped aggregate; one more for rows rejected."""
        newest = (
            F.unix_micros(F.max(column(self.timeCol)).cast("timestamp")) if self.timeCol is not None else F.lit(None)
        )
        name = temporary_name(batch, "draw")
        drawn = with_draw(batch, self._draw(batch, "copy"), name)
        is_sound = self._is_sound(batch, state.numFeatures)
        groups = drawn.groupBy(column(self.labelCol).alias("label"), is_sound.alias("sound")).agg(
            F.count(F.lit(1)).alias("rows"),
            F.sum(self._copies(state, F.col(name))).alias("out"),
            newest.alias("newest"),
        )
        found = groups.limit(MAX_CLASSES + 1).collect()
        if len(found) > MAX_CLASSES:
            raise SparkimbError(
                f"labelCol '{self.labelCol}' has more than {MAX_CLASSES:,} different values in one batch. "
                "Is it a continuous column or an id? Bin it, or name another column."
            )
        times = [row["newest"] for row in found if row["newest"] is not None]
        good = sorted((row for row in found if row["sound"]), key=lambda row: str(row["label"]))
        rejected: dict[str, int] = {}
        if len(good) < len(found):
            reasons = batch.where(~is_sound).groupBy(self._fault(batch, state.numFeatures).alias("reason"))
            counted = reasons.agg(F.count(F.lit(1)).alias("rows")).collect()
            rejected = dict(sorted((row["reason"], row["rows"]) for row in counted))
        return BatchCounts(
            {row["label"]: row["rows"] for row in good if row["label"] is not None},
            {row["label"]: row["out"] for row in good if row["label"] is not None},
            sum(row["rows"] for row in good if row["label"] is None),
            rejected,
            max(times, default=None),
        )

    def smaller(self, batch: DataFrame, state: BalancerState) -> DataFrame | None:
        """Return the rows that "smote" looks at twice: lazy, a filter.

        These are the sound ones of all classes but the one that was the largest before the batch.  None where nothing
        is known of the classes, and with any other method.
        """
        largest = state.counts.largest
        if self.method != "smote" or largest is None:
            return None
        # The label first: the features of the largest class are not looked at.
        return self.sound(batch.where(column(self.labelCol) != F.lit(largest)), state.numFeatures)

    def resample(self, batch: DataFrame, state: BalancerState, smaller: DataFrame | None = None) -> DataFrame:
        """Return the rows that go out for a batch: lazy, no job.

        Parameters
        ----------
        smaller : DataFrame, optional
            What the method of this name returns, if it is cached.
        """
        sound, rates = self.sound(batch, state.numFeatures), self.rates(state)
        if self.method == "weigh":
            return sound.withColumn(self.weightCol, case_of(column(self.labelCol), rates, F.lit(1.0)))
        if self.method == "smote":
            return self._with_rows_made(sound, self.smaller(batch, state) if smaller is None else smaller, state, rates)
        name, copy = temporary_name(sound, "draw"), temporary_name(sound, "copy")
        drawn = with_draw(sound, self._draw(sound, "copy"), name)
        copies = self._copies(state, F.col(name))
        if self.method == "under":
            kept = drawn.where(copies > 0).drop(name)
            return kept if self.syntheticCol is None else kept.withColumn(self.syntheticCol, F.lit(False))
        numbers = F.when(copies > 0, F.sequence(F.lit(1), copies))  # none where it is null
        repeated = drawn.select("*", F.explode(numbers).alias(copy)).drop(name)
        if self.syntheticCol is not None:
            repeated = repeated.withColumn(self.syntheticCol, F.col(copy) > 1)
        return repeated.drop(copy)

    def after(
        self, batch: DataFrame, state: BalancerState, seen: BatchCounts, smaller: DataFrame | None = None
    ) -> BalancerState:
        """Return the state after a batch: with "smote" two small jobs at most, else none.

        For `smaller` see `resample`.
        """
        counts = state.counts.after(seen.rowsIn, self.halfLife)
        if self.method != "smote" or not seen.rowsIn:
            return replace(state, counts=counts)
        features = self._features(batch)
        assert features is not None
        if state.features not in ((), features.names):
            raise SparkimbError(
                f"The state holds rows with the features {list(state.features)}, but the balancer has "
                f"{list(features.names)}. Go on with the former, or start anew: with an empty checkpoint."
            )
        state = self.measured(batch, state)
        d = state.numFeatures
        if not d:  # no row with features has come
            return replace(state, counts=counts)
        sound = self.sound(batch, d)
        others = sorted((c for c in counts.sizes if c != counts.largest), key=lambda c: (counts.sizes[c], str(c)))
        held = others[: MAX_RESERVOIR_BYTES // (4 * d * self.reservoirRows)]
        # What was the largest class may not be it any more.
        source = batch if smaller is None or state.counts.largest in held else smaller
        # The label first: the features of other classes are not looked at.
        rows = self.sound(source.where(column(self.labelCol).isin(held)), d).select(
            column(self.labelCol).alias("label"),
            F.xxhash64(*row_key(sound, self._keyCols(sound))).alias("key"),
            self._draw(sound, "reservoir").alias("draw"),
            feature_array(sound, features, d).alias("features"),
        )
        reservoir = state.reservoir.after(
            rows,
            {label: seen.rowsIn.get(label, 0) for label in sorted(held, key=str)},
            size=self.reservoirRows,
            age=math.log(2.0) * state.counts.rows / self.halfLife,
        )
        return BalancerState(counts, reservoir, features.names, d)

    def _with_rows_made(
        self, sound: DataFrame, smaller: DataFrame | None, state: BalancerState, rates: Mapping[Label, float]
    ) -> DataFrame:
        """Add rows between those of the batch and their neighbours in the reservoir."""
        grown = {label: rate for label, rate in rates.items() if rate > 1.0}
        if not grown:
            return sound if self.syntheticCol is None else sound.withColumn(self.syntheticCol, F.lit(False))
        assert smaller is not None  # classes that grow are known, and so is the largest
        given = {"featuresCol": self.featuresCol, "inputCols": self.inputCols, "idCols": self.idCols}
        smote = SMOTE(labelCol=self.labelCol, kNeighbors=self.kNeighbors, seed=self.seed)
        smote.setParams(**{name: value for name, value in given.items() if value is not None})
        if self.syntheticCol is not None:
            smote.setParams(syntheticCol=self.syntheticCol)
        model: SMOTEModel = smote._copyValues(SMOTEModel())
        model.plan = SamplingPlan({}, {})
        model.keyCols, model.numFeatures = self._keyCols(sound), state.numFeatures
        model.neighbors = dict.fromkeys(grown, self.kNeighbors)
        model.copies = {
            (label, ()): (math.floor(rate) - 1, DrawSet.union([(0.0, rate - math.floor(rate))]))
            for label, rate in grown.items()
        }
        model.reference = {label: state.reservoir.reference(label) for label in grown}
        space = Space(scaling="robust", exact=True)
        model.spaces = {label: space.measured(table) for label, table in model.reference.items()}
        return model._resampled(sound, parents=smaller)

    def _copies(self, state: BalancerState, draw: Column) -> Column:
        """Return how many rows go out for a row; 1 for classes that the state does not know, and without a label."""
        if self.method == "weigh":
            return F.lit(1)
        copies = F.when(F.lit(False), F.lit(1))
        for label, rate in self.rates(state).items():
            copies = copies.when(column(self.labelCol) == F.lit(label), number_of_rows(self.method, rate, draw))
        return copies.otherwise(1)

    def _draw(self, dataset: DataFrame, purpose: str) -> Column:
        # SMOTE's models draw their copies by themselves, and the count must know how many they make.
        name = "SMOTE" if self.method == "smote" and purpose == "copy" else "StreamingBalancer"
        return uniform(*row_key(dataset, self._keyCols(dataset)), seed=self.seed, purpose=f"{name}.{purpose}")

    def _keyCols(self, dataset: DataFrame) -> list[str]:
        return list(self.idCols or dataset.columns)

    def _check_room(self, d: int) -> None:
        most = MAX_RESERVOIR_BYTES // 4
        if d * self.reservoirRows > most:
            raise SparkimbError(
                f"StreamingBalancer.reservoirRows is {self.reservoirRows}, but of rows with {d:,} features at most "
                f"{most // d:,} are kept of a class. Keep fewer."
            )

    def _features(self, dataset: DataFrame) -> Features | None:
        if self.featuresCol is None and not self.inputCols:
            return None
        return resolve_features(
            dataset, featuresCol=self.featuresCol or "", inputCols=self.inputCols, categoricalCols=None
        )

    def _is_sound(self, dataset: DataFrame, d: int) -> Column:
        """Say whether a row can be used.

        This looks at every row, so its code is kept short: Java compiles no method of more than 8,000 bytes, and Spark
        makes one of all that is done with a row.
        """
        label = column(self.labelCol)
        sound = F.lit(True) if self.unlabelled == "pass" else F.isnotnull(label)
        if isinstance(dataset.schema[self.labelCol].dataType, FractionalType):
            sound = sound & (F.isnull(label) | ~F.isnan(label))
        length = self._length(dataset, d)
        if length is not None:
            sound = sound & F.coalesce(length == d, F.lit(True))
        features = self._checked(dataset)
        if features is not None and features.form == "columns":
            # Null, NaN and infinity times 0 are not 0, nor is a sum with one of them.  As text, for one call to the JVM
            # instead of eight for each feature.
            nothing = " + ".join(f"CAST({quoted(name)} AS DOUBLE) * 0D" for name in features.numeric)
            sound = sound & F.expr(f"coalesce({nothing} = 0D, false)")
        elif features is not None:
            for name in features.numeric:
                sound = sound & ~_missing(dataset, name, features.form)
        return sound

    def _fault(self, dataset: DataFrame, d: int) -> Column:
        """Say what is wrong with a row that cannot be used: the label, or the first feature at fault."""
        label, name = column(self.labelCol), f"label '{self.labelCol}'"
        faults = [F.when(F.isnull(label), F.lit(f"{name} is null"))] if self.unlabelled == "reject" else []
        if self.unlabelled == "wait":  # a row that has no label after `WaitingRoom.release` is one that cannot wait
            for idCol in self.idCols or ():
                lost = F.lit(f"id '{idCol}' is null, so no label would find the row")
                faults.append(F.when(F.isnull(label) & F.isnull(column(idCol)), lost))
            faults.append(F.when(F.isnull(label), F.lit(f"another row with the same ids waits for {name}")))
        if isinstance(dataset.schema[self.labelCol].dataType, FractionalType):
            faults.append(F.when(F.isnan(label), F.lit(f"{name} is NaN")))
        length = self._length(dataset, d)
        if length is not None:
            start, end = F.lit(f"feature '{self.featuresCol}' has "), F.lit(f" numbers instead of {d}")
            found = F.concat(start, length.cast("string"), end)
            faults.append(F.when(length != d, found))
        features = self._checked(dataset)
        if features is not None:
            for feature in features.numeric:
                what = F.lit(f"feature '{feature}' is null, NaN or infinite")
                faults.append(F.when(_missing(dataset, feature, features.form), what))
        # By a function over an array, whose code is not part of that method.
        return F.get(F.filter(F.array(*faults, F.lit(None).cast("string")), F.isnotnull), 0)

    def _length(self, dataset: DataFrame, d: int) -> Column | None:
        """Return how many numbers a row's vector or array has, null of a null; None where that is not looked at."""
        features = self._features(dataset)
        if self.method != "smote" or not d or features is None or features.form == "columns":
            return None
        return _size(features)

    def _checked(self, dataset: DataFrame) -> Features | None:
        return self._features(dataset) if self.missingFeatures == "reject" else None


def reason_name(dataset: DataFrame) -> str:
    """Return the name of the column that says why a row cannot be used."""
    return "reason" if "reason" not in dataset.columns else temporary_name(dataset, "reason")


def _usual_length(dataset: DataFrame, features: Features) -> int:
    """Return how many numbers most rows have: for a vector or array one job, one row; 0 where there are no rows."""
    if features.form == "columns":
        return len(features.numeric)
    ((usual,),) = dataset.agg(F.mode(_size(features), deterministic=True)).collect()
    return usual or 0


def _size(features: Features) -> Column:
    value = column(features.numeric[0])
    return F.when(F.isnotnull(value), F.size(vector_to_array(value) if features.form == "vector" else value))


def _missing(dataset: DataFrame, name: str, form: str) -> Column:
    value = column(name)
    if form == "columns":
        return _not_a_number(value)
    numbers = vector_to_array(value) if form == "vector" else value
    return F.isnull(value) | F.exists(numbers, _not_a_number)


def _not_a_number(value: Column) -> Column:
    x = value.cast("double")
    return F.isnull(x) | F.isnan(x) | (F.abs(x) == F.lit(math.inf))


def _optional(convert: Any) -> Any:
    return lambda value: None if value is None else convert(value)
