"""The config of jobs/stream.py."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal

from config import Config, nearest
from pydantic import Field, field_validator, model_validator

from sparkimb.streaming.balancer import StreamingBalancer
from sparkimb.streaming.drift import DETECTORS, DriftMonitor
from sparkimb.streaming.metrics import StreamingMetrics

Options = Annotated[dict[str, str | int | float | bool], Field(default_factory=dict)]
Columns = Annotated[list[str], Field(default_factory=list)]

# Fields of StreamingBalancer that follow from columns.
SET_BY_JOB = ("labelCol", "featuresCol", "inputCols", "idCols", "timeCol")
# Formats whose streaming source wants a schema, as it cannot take that of files to come.
FILES = ("parquet", "csv", "json", "orc", "xml", "avro")
# What a stream may be continued with, though it was begun otherwise: what becomes of rows that come later.
MAY_CHANGE = (
    *("trigger", "spark", "select", "model", "maxRejected", "output.overwrite"),
    *("source.schema", "source.options", "source.value", "sink.options"),
    *("metrics.stepSeconds", "metrics.fading"),
)
TOPICS = ("subscribe", "subscribePattern", "assign")  # the options of a Kafka source that may not


class Generate(Config):
    """Rows of `sparkimb.datasets.drifting`, written as files: a stream to try things on."""

    rows: int = Field(ge=1)
    files: int = Field(default=20, ge=1)
    drift: Literal["abrupt", "gradual", "prior"] = "abrupt"
    at: float = Field(default=0.5, gt=0, lt=1)
    width: float = Field(default=0.2, gt=0, lt=1)
    minority: float = Field(default=0.1, gt=0, lt=1)
    minority_after: float | None = Field(default=None, gt=0, lt=1)
    noise: float = Field(default=0.0, ge=0, le=1)
    seed: int = 0


class Value(Config):
    """How to read the value of a Kafka message."""

    format: Literal["json"] = "json"
    fields: str = Field(alias="schema")  # as DDL


class Source(Config):
    """Where the rows come from: any streaming source of Spark's."""

    format: str | None = None
    path: str | None = None
    table: str | None = None
    fields: str | None = Field(default=None, alias="schema")  # as DDL
    options: Options
    value: Value | None = None
    generate: Generate | None = None

    @model_validator(mode="after")
    def _whole(self) -> Source:
        given = [name for name in ("path", "table", "fields", "value") if getattr(self, name) is not None]
        if self.generate is not None:
            if self.format is not None or given:
                raise ValueError("generate writes and reads its own files; leave out all but options")
            return self
        if self.format is None:
            raise ValueError("format is missing: a streaming source of Spark's, such as parquet, kafka, delta or table")
        if (self.format == "table") != (self.table is not None):
            raise ValueError("format 'table' goes with table, and any other without it")
        if self.format in FILES and (self.path is None or self.fields is None):
            raise ValueError(f"format '{self.format}' wants path and schema, such as 'id bigint, label int, x double'")
        if self.format == "delta" and (self.path is None or self.fields is not None):
            raise ValueError("format 'delta' wants path, and takes the schema from the table")
        if self.format == "kafka":
            if self.path is not None or self.fields is not None or self.value is None:
                raise ValueError("format 'kafka' wants value, which says how messages are read, and no path or schema")
            lacking = [] if "kafka.bootstrap.servers" in self.options else ["kafka.bootstrap.servers"]
            if not set(TOPICS) & set(self.options):
                lacking.append("subscribe")
            if lacking:
                raise ValueError(f"format 'kafka' wants the options {', '.join(lacking)}")
        elif self.value is not None:
            raise ValueError("value says how Kafka's messages are read; leave it out")
        return self


class Model(Config):
    """A fitted pyspark.ml.PipelineModel that judges the rows, those that wait for labels when these have come."""

    path: str
    positiveIndex: int = Field(default=1, ge=0)  # of the positive class in the probabilities


class StreamColumns(Config):
    """What each column is for."""

    label: str
    positive: str | bool | int | float | None = None  # the class that scores and drift detectors are about
    numeric: Columns
    features: str | None = None  # a vector or an array, in place of numeric
    id: Columns
    time: str | None = None

    @model_validator(mode="after")
    def _one_role_each(self) -> StreamColumns:
        named = [self.label, *self.numeric, *self.id, *(n for n in (self.features, self.time) if n is not None)]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"{twice} have more than one role; give each column one")
        if self.features is not None and self.numeric:
            raise ValueError("features and numeric are both given; name the features once")
        return self


class Metrics(Config):
    """What is measured of predictions that come with the rows."""

    prediction: str = "prediction"
    score: str | None = None
    fading: float = 0.999
    window: int = 1_000
    stepSeconds: float | None = None


class Drift(Config):
    """Detectors, each by its name or with values of its own: {ddmOci: {fading: 0.95}}."""

    detectors: list[str | dict[str, dict[str, Any]]] = Field(default=["ddmOci", "linearFourRates"], min_length=1)

    @field_validator("detectors")
    @classmethod
    def _known(cls, detectors: list[str | dict[str, dict[str, Any]]]) -> list[str | dict[str, dict[str, Any]]]:
        for given in detectors:
            if isinstance(given, dict) and len(given) != 1:
                raise ValueError(f"a detector is one name with its values; found {list(given)}")
            name, values = (given, {}) if isinstance(given, str) else next(iter(given.items()))
            if name not in DETECTORS:
                raise ValueError(f"'{name}' is no detector{nearest(name, DETECTORS)}; use {', '.join(DETECTORS)}")
            _make(DETECTORS[name], values)
        DriftMonitor(detectors=[_detector(given) for given in detectors])
        return detectors

    @property
    def built(self) -> list[Any]:
        """The detectors."""
        return [_detector(given) for given in self.detectors]


class Target(Config):
    """Where the balanced rows go."""

    format: Literal["parquet", "delta", "kafka"] = "parquet"
    path: str | None = None
    topic: str | None = None
    options: Options

    @model_validator(mode="after")
    def _whole(self) -> Target:
        if self.format == "kafka":
            if self.topic is None or self.path is not None:
                raise ValueError("format 'kafka' wants topic, and not path")
            if "kafka.bootstrap.servers" not in self.options:
                raise ValueError("format 'kafka' wants the option kafka.bootstrap.servers")
            return self
        if self.topic is not None:
            raise ValueError(f"format '{self.format}' wants path, and not topic")
        if self.format == "delta" and self.path is None:
            raise ValueError("format 'delta' wants path")
        if self.format == "parquet" and self.options:
            raise ValueError("format 'parquet' takes no options")
        return self


class StreamOutput(Config):
    """Where everything else goes: a directory that any Hadoop file system holds."""

    path: str
    overwrite: bool = False  # start anew each time, and remove what is there


class Trigger(Config):
    """When a batch begins: at once until all that is there has been read, or every so often without end."""

    availableNow: Literal[True] | None = None
    processingTime: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Trigger:
        if (self.availableNow is None) == (self.processingTime is None):
            raise ValueError("give either availableNow: true or processingTime, such as '10 seconds'")
        return self


class Stream(Config):
    """jobs/stream.py."""

    name: str = Field(default="stream", min_length=1)
    source: Source
    select: dict[str, str] = Field(default_factory=dict)  # columns and the SQL that makes them, one after the other
    model: Model | None = None
    columns: StreamColumns
    balance: dict[str, Any] = Field(default_factory=dict)  # StreamingBalancer's fields
    maxRejected: float = Field(default=0.5, gt=0, le=1)  # share of a batch of 100 rows or more; above it the job stops
    metrics: Metrics | None = None
    drift: Drift | None = None
    sink: Target = Target(options={})
    output: StreamOutput
    trigger: Trigger = Trigger(availableNow=True)
    spark: Options

    @field_validator("balance")
    @classmethod
    def _known_fields(cls, balance: dict[str, Any]) -> dict[str, Any]:
        for name in balance:
            if name in SET_BY_JOB:
                raise ValueError(f"StreamingBalancer.{name} is set by the job, from columns; leave it out")
        _check_names(StreamingBalancer, balance)
        return balance

    @model_validator(mode="after")
    def _consistent(self) -> Stream:
        made = self.balancer, self.measured  # their own checks
        if self.drift is not None and made[1] is None:
            raise ValueError("drift looks at what metrics counts; give metrics too, if only as metrics: {}")
        if self.columns.positive is None and (self.drift or (self.metrics and self.metrics.score)):
            raise ValueError("columns.positive is missing, the class that metrics.score and drift are about")
        return self

    @property
    def balancer(self) -> StreamingBalancer:
        """The balancer."""
        roles = self.columns
        fields: dict[str, Any] = {
            "featuresCol": roles.features,
            "inputCols": roles.numeric or None,
            "idCols": roles.id or None,
        }
        made: StreamingBalancer = _made(
            StreamingBalancer, {"labelCol": roles.label, "timeCol": roles.time, **fields, **self.balance}
        )
        return made

    @property
    def measured(self) -> StreamingMetrics | None:
        """What measures the predictions."""
        if self.metrics is None:
            return None
        given, roles = self.metrics, self.columns
        made: StreamingMetrics = _made(
            StreamingMetrics,
            {
                "labelCol": roles.label,
                "predictionCol": given.prediction,
                "scoreCol": given.score,
                "timeCol": roles.time,
                "idCols": roles.id or None,
                "stepSeconds": given.stepSeconds,
                "fading": given.fading,
                "window": given.window,
                **({} if roles.positive is None else {"positiveLabel": roles.positive}),
            },
        )
        return made

    @property
    def identity(self) -> dict[str, Any]:
        """What must be as it was, by key, for a stream to go on where it stopped."""
        flat = _flat(self.model_dump(mode="json", by_alias=True, exclude_none=True))
        topics = [f"source.options.{name}" for name in TOPICS]
        return {
            k: v for k, v in flat.items() if k in topics or not any(f"{k}.".startswith(f"{f}.") for f in MAY_CHANGE)
        }


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def _detector(given: str | dict[str, dict[str, Any]]) -> Any:
    name, values = (given, {}) if isinstance(given, str) else next(iter(given.items()))
    return _make(DETECTORS[name], values)


def _make(kind: Any, values: dict[str, Any]) -> Any:
    _check_names(kind, values)
    return _made(kind, values)


def _made(kind: Any, values: dict[str, Any]) -> Any:
    try:
        return kind(**values)
    except TypeError as error:  # which pydantic would let through
        raise ValueError(str(error)) from None


def _check_names(kind: Any, values: dict[str, Any]) -> None:
    known = [name for name in inspect.signature(kind).parameters if name not in SET_BY_JOB]
    for name in values:
        if name not in known:
            raise ValueError(f"{kind.__name__} has no field '{name}'{nearest(name, known)}")
