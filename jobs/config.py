"""Typed configs of the jobs, and errors in sentences: every mistake in a file at once, before Spark starts."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pyspark.ml import classification
from pyspark.ml.param import Param, Params

import sparkimb
from sparkimb import ClassWeigher, PartitionLocalSampler
from sparkimb.base import Sampler
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.thresholds import OBJECTIVES

C = TypeVar("C", bound="Config")

STEPS: dict[str, Any] = {
    name: found
    for name, found in ((name, getattr(sparkimb, name)) for name in sparkimb.__all__)
    if isinstance(found, type) and issubclass(found, Sampler | ClassWeigher) and found is not PartitionLocalSampler
}
THRESHOLDS = [name for name in OBJECTIVES if name not in ("cost", "topK")]  # these take numbers that no key holds
PARTS = ("train", "validation", "test")
# Params that follow from columns and split, or name columns that the job reads back.
SET_BY_JOB = {
    *("labelCol", "featuresCol", "inputCols", "categoricalCols", "idCols", "validationIndicatorCol"),
    *("predictionCol", "probabilityCol", "rawPredictionCol", "thresholds"),
}
SECRET = re.compile(r"(?i)secret|password|token|credential|jaas|access[._-]?key|account[._-]?key")
Columns = Annotated[list[str], Field(default_factory=list)]


class Config(BaseModel):
    """A section of a config file: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(Config):
    """Where the rows come from: any path that Hadoop knows, or a table."""

    format: Literal["parquet", "csv", "delta", "table"]
    path: str | None = None
    table: str | None = None
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_source(self) -> Input:
        wanted, other = ("table", "path") if self.format == "table" else ("path", "table")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"format '{self.format}' wants {wanted}, and not {other}")
        return self

    @property
    def source(self) -> str:
        """The path or the table's name."""
        return str(self.table if self.format == "table" else self.path)


class ColumnRoles(Config):
    """What each column is for."""

    label: str
    positive: str | bool | int | float | None = None  # the class the metrics are about; by default the smallest
    numeric: Columns
    categorical: Columns
    id: Columns

    @model_validator(mode="after")
    def _one_role_each(self) -> ColumnRoles:
        names = [self.label, *self.numeric, *self.categorical, *self.id]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice} have more than one role; give each column one")
        if not self.numeric and not self.categorical:
            raise ValueError("numeric and categorical are both empty; name at least one feature column")
        return self


class Split(Config):
    """Exact stratified fractions, or a column that says train, validation or test."""

    fractions: dict[Literal["train", "validation", "test"], float] | None = None
    column: str | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _one_way(self) -> Split:
        if (self.fractions is None) == (self.column is None):
            raise ValueError("give either fractions or column")
        if self.fractions is not None:
            if set(self.fractions) != set(PARTS) or min(self.fractions.values()) <= 0:
                raise ValueError("fractions needs train, validation and test, each above 0")
            if abs(sum(self.fractions.values()) - 1) > 1e-9:
                raise ValueError(f"fractions sum to {sum(self.fractions.values()):g}; they must sum to 1")
        return self


class Treatment(Config):
    """One way to treat the training rows: samplers and weights, in order."""

    name: str = Field(min_length=1)
    steps: list[dict[str, dict[str, Any]]] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _not_natural(cls, name: str) -> str:
        if name == "natural":
            raise ValueError("'natural' is the name of the untouched rows; choose another")
        return name

    @field_validator("steps", mode="before")
    @classmethod
    def _without_params(cls, steps: Any) -> Any:
        """A step without Params may be its name alone, with or without a colon."""
        if not isinstance(steps, list):
            return steps
        named = [{step: None} if isinstance(step, str) else step for step in steps]
        return [{k: {} if v is None else v for k, v in s.items()} if isinstance(s, dict) else s for s in named]

    @field_validator("steps")
    @classmethod
    def _known_steps(cls, steps: list[dict[str, dict[str, Any]]]) -> list[dict[str, dict[str, Any]]]:
        for step in steps:
            if len(step) != 1:
                raise ValueError(f"a step is one sampler or weigher with its Params; found {list(step)}")
            (name, params), *_ = step.items()
            if name not in STEPS:
                raise ValueError(f"'{name}' is no sampler or weigher{nearest(name, STEPS)}; known are {_join(STEPS)}")
            _check_params(STEPS[name], params)
            try:
                STEPS[name](**params)  # the converters check the values
            except TypeError as error:  # which pydantic would let through
                raise ValueError(str(error)) from None
        if any("ClassWeigher" in step for step in steps[:-1]):
            # Rows made after it would have no weight, and rows dropped after it would shift the priors.
            raise ValueError("ClassWeigher is not the last step; weigh the rows that the samplers leave, and once")
        return steps

    @property
    def weightCol(self) -> str | None:
        """The column of weights that the last step makes, or None."""
        weigher = self.steps[-1].get("ClassWeigher")
        return None if weigher is None else str(weigher.get("weightCol", "weight"))

    @property
    def strataCols(self) -> list[str]:
        """The columns within whose values a step balances."""
        return [name for step in self.steps for params in step.values() for name in params.get("strataCols", ())]


class Learner(Config):
    """A classifier of pyspark.ml that gives probabilities."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str = Field(alias="class")
    params: dict[str, Any] = Field(default_factory=dict, validate_default=True)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        known = {
            name: kind
            for name, kind in vars(classification).items()
            if hasattr(kind, "probabilityCol") and hasattr(kind, "fit") and hasattr(kind, "setParams")
        }
        if name not in known:
            named = getattr(classification, name, None)
            why = "gives no probabilities" if hasattr(named, "fit") else "is no classifier of pyspark.ml"
            raise ValueError(f"'{name}' {why}{nearest(name, known)}; use one of {_join(known)}")
        return name

    @field_validator("params")
    @classmethod
    def _checked(cls, params: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "name" not in info.data:
            return params
        kind = getattr(classification, info.data["name"])
        _check_params(kind, params)
        if "weightCol" in params:
            raise ValueError(f"{kind.__name__}.weightCol is set by the job; add a treatment with ClassWeigher instead")
        for key, value in params.items():
            try:
                getattr(kind, key).typeConverter(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{kind.__name__}.{key} is {value!r}: {error}") from None
        # pyspark's own default is another in every process.
        return {"seed": 0, **params} if hasattr(kind, "seed") else params

    @property
    def kind(self) -> Any:
        """The class."""
        return getattr(classification, self.name)

    @property
    def weighable(self) -> bool:
        """Whether it takes weights and heeds them; FMClassifier takes them only."""
        return hasattr(self.kind, "weightCol") and self.name != "FMClassifier"


class Output(Config):
    """Where results go: a directory that any Hadoop file system holds."""

    path: str
    format: Literal["parquet", "delta"] = "parquet"
    treatment: str | None = None  # whose rows and model are written; by default the first
    overwrite: bool = False


class Balance(Config):
    """jobs/balance.py."""

    name: str = "balance"
    input: Input
    columns: ColumnRoles
    split: Split
    treatments: list[Treatment] = Field(min_length=1)
    learner: Learner | None = None
    threshold: str = "f1"
    output: Output
    spark: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @field_validator("threshold")
    @classmethod
    def _known_objective(cls, objective: str) -> str:
        if objective not in THRESHOLDS:
            raise ValueError(f"'{objective}' is no objective{nearest(objective, THRESHOLDS)}; use {_join(THRESHOLDS)}")
        return objective

    @model_validator(mode="after")
    def _consistent(self) -> Balance:
        names = [treatment.name for treatment in self.treatments]
        if len(set(names)) < len(names):
            raise ValueError(f"treatments {names} share a name; name each differently")
        if self.output.treatment is not None and self.output.treatment not in names:
            raise ValueError(f"output.treatment '{self.output.treatment}' is none of the treatments {names}")
        weighing = {treatment.name: treatment.weightCol for treatment in self.treatments if treatment.weightCol}
        if weighing and self.learner is not None and not self.learner.weighable:
            why = "ignores weightCol" if hasattr(self.learner.kind, "weightCol") else "has no weightCol"
            raise ValueError(
                f"learner.class '{self.learner.name}' {why}, but the treatments {list(weighing)} make weights; "
                "use samplers instead, or a learner that heeds weights"
            )
        roles = [self.columns.label, *self.columns.numeric, *self.columns.categorical, *self.columns.id]
        lowered = {name.lower() for name in roles}  # Spark takes names that differ in case for the same
        for name in weighing.values():
            if name.lower() in lowered:
                raise ValueError(
                    f"ClassWeigher.weightCol '{name}' would overwrite that column, which columns gives a role; "
                    "set weightCol to another name"
                )
        if self.split.column is not None and self.split.column.lower() in lowered:
            raise ValueError(f"split.column '{self.split.column}' has a role in columns too; give each column one")
        return self

    @property
    def written(self) -> str:
        """The treatment whose rows and model are written."""
        return self.output.treatment or self.treatments[0].name


class Benchmark(Config):
    """jobs/benchmark.py."""

    name: str = "benchmark"
    benchmarks: list[str] = Field(min_length=1)
    rows: int = Field(ge=100)
    features: int = Field(ge=2)
    minority: float = Field(gt=0, lt=0.5)
    clusters: int = Field(default=1, ge=1)  # of each class
    scatter: float = Field(default=0.0, ge=0)  # of the clusters' centres, in standard deviations of a cluster
    targets: dict[str, dict[str, float]] = Field(default_factory=dict)  # by benchmark and baseline: highest CPU ratios
    leave_out: list[str] = Field(default_factory=list)  # baselines that would take too long
    seed: int = 0
    streams: int = Field(default=1, ge=1)  # of each kind, with a seed each, for drift
    files: int = Field(default=2, ge=1)  # that the rows lie in: a task reads one or more of them
    runs: int = Field(default=5, ge=1)
    warmup: int = Field(default=2, ge=0)
    path: str = "output/benchmark"  # generated rows stay here for the next time
    output: str | None = None  # a file of this machine that the results are added to
    master: str = "local[2]"
    driver_memory: str = "2g"
    spark: dict[str, str | int | float | bool] = Field(default_factory=dict)


def load(path: str, kind: type[C]) -> C:
    """Read a config file; raise one SparkimbError with a sentence for each mistake."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SparkimbError(f"The config '{path}' cannot be read: {error.strerror}. Check --config.") from None
    except UnicodeDecodeError:
        raise SparkimbError(f"The config '{path}' is not text in UTF-8. Check --config.") from None
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        place = " ".join(str(error).split())
        raise SparkimbError(f"The config '{path}' is not YAML: {place}.") from None
    if not isinstance(given, Mapping):
        raise SparkimbError(f"The config '{path}' holds no keys. See conf/ for examples.")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        mistakes: dict[
            str, list[Any]
        ] = {}  # by place: a value of no allowed type is one mistake, not one for each type
        for mistake in error.errors():
            mistakes.setdefault(_place(mistake, given), []).append(mistake)
        head = f"The config '{path}' has {len(mistakes)} mistake{'s' * (len(mistakes) > 1)}:"
        sentences = [_sentence(place, found, kind) for place, found in mistakes.items()]
        raise SparkimbError("\n".join([head, *(f"  - {sentence}" for sentence in sentences)])) from None


def resolved(config: Config) -> str:
    """Return a config with every default filled in and no secret, as YAML."""
    given = _without_secrets(config.model_dump(mode="json", by_alias=True, exclude_none=True))
    return yaml.safe_dump(given, sort_keys=False, allow_unicode=True)


def _without_secrets(given: Any) -> Any:
    if isinstance(given, list):
        return [_without_secrets(value) for value in given]
    if not isinstance(given, dict):
        return given
    return {k: "(not shown)" if SECRET.search(k) else _without_secrets(value) for k, value in given.items()}


def _place(mistake: Any, given: Any) -> str:
    """Return the path of keys to a mistake, without the names of types that pydantic appends."""
    place: list[str] = []
    for part in mistake["loc"]:
        inside = part in given if isinstance(given, Mapping) else isinstance(given, list) and isinstance(part, int)
        if inside:
            given = given[part]
        elif mistake["type"] != "missing":
            break
        place.append(str(part))
    return ".".join(place)


def _sentence(place: str, mistakes: list[Any], kind: type[Config]) -> str:
    mistake = mistakes[0]
    if mistake["type"] == "missing":
        return f"{place} is missing."
    if mistake["type"] == "extra_forbidden":
        known = _keys_at(kind, mistake["loc"][:-1])
        return f"{place} is not a known key{nearest(str(mistake['loc'][-1]), known)}. Known here: {_join(known)}."
    if mistake["loc"][-1:] == ("[key]",):
        return f"{place} is not a known key. Known here: {mistake['ctx']['expected']}."
    if mistake["type"] in ("model_type", "model_attributes_type"):
        return f"{place} is {mistake['input']!r}. It holds keys: {_join(_keys_at(kind, mistake['loc']))}."
    message = mistake["msg"].removeprefix("Value error, ").rstrip(".")
    if mistake["type"] == "value_error":
        return f"{place + ': ' if place else ''}{message}."
    kinds = [m["msg"].removeprefix("Input should be a valid ") for m in mistakes]
    if len(kinds) > 1:
        return f"{place} is {mistake['input']!r}: it should be of type {', '.join(kinds[:-1])} or {kinds[-1]}."
    return f"{place} is {mistake['input']!r}: {message[0].lower()}{message[1:]}."


def _keys_at(kind: Any, place: tuple[Any, ...]) -> list[str]:
    """Return the keys that a config knows at a place, found by walking the types."""
    for part in place:
        if isinstance(part, str):
            kind = next(f.annotation for name, f in kind.model_fields.items() if part in (name, f.alias))
        while not hasattr(kind, "model_fields"):  # list[X], X | None
            kind = next(arg for arg in get_args(kind) if arg is not type(None))
    return [field.alias or name for name, field in kind.model_fields.items()]


def _check_params(kind: type[Params], params: Mapping[str, Any]) -> None:
    """Check that a stage has these Params, and that they are the config's to set."""
    known = [
        name
        for name in inspect.signature(kind).parameters
        if isinstance(getattr(kind, name, None), Param) and name not in SET_BY_JOB
    ]
    for key in params:
        if key in SET_BY_JOB:
            raise ValueError(f"{kind.__name__}.{key} is set by the job; leave it out")
        if key not in known:
            raise ValueError(f"{kind.__name__} has no Param '{key}'{nearest(key, known)}")


def nearest(name: str, known: Any) -> str:
    """Return a question that names the known name most like this one, to go into a sentence; or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _join(names: Any) -> str:
    return ", ".join(names)
