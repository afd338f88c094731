"""Params that two or more classes share, and the converters that check their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params

from sparkimb.errors import SparkimbError
from sparkimb.strategy import WORDS

P = TypeVar("P", bound="CheckedParams")


def _plain(value: Any) -> Any:
    """Turn a NumPy scalar into Python's."""
    return value.item() if hasattr(value, "item") and not isinstance(value, str | bytes) else value


def number(name: str, low: float, high: float = math.inf, *, low_open: bool = False) -> Callable[[Any], float]:
    """Convert to a float in [low, high], or in (low, high] if `low_open`."""
    shown = f"{'(' if low_open else '['}{low:g}, {'inf)' if math.isinf(high) else f'{high:g}]'}"

    def convert(value: Any) -> float:
        value = _plain(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number in {shown}; got {value!r} of type {type(value).__name__}.")
        if not (low < value if low_open else low <= value) or value > high or not math.isfinite(value):
            raise SparkimbError(f"{name} is {value!r}. It must be in {shown}.")
        return float(value)

    return convert


def integer(name: str, low: float = -math.inf) -> Callable[[Any], int]:
    """Convert to an int of at least `low`."""

    def convert(value: Any) -> int:
        value = _plain(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer; got {value!r} of type {type(value).__name__}.")
        if value < low:
            raise SparkimbError(f"{name} is {value}. It must be at least {low:g}.")
        return value

    return convert


def column_name(name: str) -> Callable[[Any], str]:
    """Convert to one column name."""

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a column name; got {value!r} of type {type(value).__name__}.")
        if not value:
            raise SparkimbError(f"{name} is empty. Name a column.")
        return value

    return convert


def column_names(name: str) -> Callable[[Any], list[str]]:
    """Convert to a list of distinct column names."""

    def convert(value: Any) -> list[str]:
        if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
            raise TypeError(f"{name} must be a list of column names; got {value!r}.")
        if len(set(value)) != len(value):
            raise SparkimbError(f"{name} {list(value)} names a column twice.")
        return list(value)

    return convert


def choice(name: str, allowed: Sequence[str]) -> Callable[[Any], str]:
    """Convert to one of the words allowed."""

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be one of {list(allowed)}; got {value!r} of type {type(value).__name__}.")
        if value not in allowed:
            raise SparkimbError(f"{name} is {value!r}. Use one of: {', '.join(allowed)}.")
        return value

    return convert


def label_map(name: str, convert: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    """Convert to a dict from labels, as strings, to values."""

    def convert_all(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not value:
            raise TypeError(f"{name} must be a non-empty dict by label; got {value!r}.")
        return {str(_plain(label)): convert(given) for label, given in value.items()}

    return convert_all


def _sampling_strategy(value: Any) -> str | float | dict[str, int]:
    if isinstance(value, str):
        return choice("samplingStrategy", WORDS)(value)
    if isinstance(value, Mapping):
        return label_map("samplingStrategy", integer("samplingStrategy rows", 0))(value)
    return number("samplingStrategy", 0, 1, low_open=True)(value)


def param(name: str, doc: str, convert: Callable[[Any], Any]) -> Param[Any]:
    """Declare a Param with its converter."""
    return Param(Params._dummy(), name, doc, typeConverter=convert)


class CheckedParams(Params):
    """Params whose converters' errors name the class, and keyword arguments that set them."""

    _input_kwargs: dict[str, Any]  # what pyspark's keyword_only leaves: the arguments given, without defaults

    def _set(self, **kwargs: Any) -> CheckedParams:
        for name, value in kwargs.items():
            if value is None:
                continue
            declared = self.getParam(name)
            try:
                self._paramMap[declared] = declared.typeConverter(value)
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else SparkimbError
                raise kind(f"{type(self).__name__}.{error}") from None
        return self

    def setParams(self: P, **kwargs: Any) -> P:
        """Set Params by name."""
        unknown = [name for name in kwargs if not self.hasParam(name)]
        if unknown:
            known = ", ".join(p.name for p in self.params)
            raise TypeError(f"{type(self).__name__} has no Params {unknown}. Its Params are: {known}.")
        self._set(**kwargs)
        return self

    def _optional(self, declared: Param[Any]) -> Any:
        """Return a Param's value, or None where it is neither set nor has a default."""
        return self.getOrDefault(declared) if self.isDefined(declared) else None


class HasLabelCol(CheckedParams):
    """The class label: a string, boolean, integer or double; never null or NaN."""

    labelCol = param("labelCol", "label column", column_name("labelCol"))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(labelCol="label")

    def getLabelCol(self) -> str:
        """Return labelCol."""
        return str(self.getOrDefault(self.labelCol))


class HasSeed(CheckedParams):
    """The seed of every draw: 0 by default, the same in every process (pyspark's default is not)."""

    seed = param("seed", "seed of the draws", integer("seed"))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(seed=0)

    def getSeed(self) -> int:
        """Return seed."""
        return int(self.getOrDefault(self.seed))


class HasIdCols(CheckedParams):
    """The columns that identify a row: what draws are made from; by default all columns."""

    idCols = param("idCols", "columns that identify a row", column_names("idCols"))

    def getIdCols(self) -> list[str] | None:
        """Return idCols, or None."""
        value: list[str] | None = self._optional(self.idCols)
        return value


class HasSamplingStrategy(CheckedParams):
    """How many rows each class shall have: see `sparkimb.strategy.resolve`."""

    samplingStrategy = param("samplingStrategy", "target rows per class", _sampling_strategy)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(samplingStrategy="auto")

    def getSamplingStrategy(self) -> str | float | dict[str, int]:
        """Return samplingStrategy."""
        value: str | float | dict[str, int] = self.getOrDefault(self.samplingStrategy)
        return value


class HasValidationIndicatorCol(CheckedParams):
    """A boolean column that flags validation rows, which pass through unsampled and uncounted."""

    validationIndicatorCol = param(
        "validationIndicatorCol", "boolean column of validation rows", column_name("validationIndicatorCol")
    )

    def getValidationIndicatorCol(self) -> str | None:
        """Return validationIndicatorCol, or None."""
        value: str | None = self._optional(self.validationIndicatorCol)
        return value


class HasFeatures(CheckedParams):
    """Where the features are: `inputCols` and `categoricalCols` where either is set, else `featuresCol`."""

    featuresCol = param("featuresCol", "vector or array column of features", column_name("featuresCol"))
    inputCols = param("inputCols", "numeric scalar feature columns", column_names("inputCols"))
    categoricalCols = param("categoricalCols", "categorical feature columns", column_names("categoricalCols"))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(featuresCol="features")

    def getFeaturesCol(self) -> str:
        """Return featuresCol."""
        return str(self.getOrDefault(self.featuresCol))

    def getInputCols(self) -> list[str] | None:
        """Return inputCols, or None."""
        value: list[str] | None = self._optional(self.inputCols)
        return value

    def getCategoricalCols(self) -> list[str] | None:
        """Return categoricalCols, or None."""
        value: list[str] | None = self._optional(self.categoricalCols)
        return value

    def _feature_columns(self) -> dict[str, list[str] | None]:
        """Return the columns that hold features, by the Params that name them."""
        inputs, categorical = self.getInputCols(), self.getCategoricalCols()
        if inputs or categorical:
            return {"inputCols": inputs, "categoricalCols": categorical}
        return {"featuresCol": [self.getFeaturesCol()]}
