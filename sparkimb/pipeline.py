"""A Pipeline that resamples while fitting and never while scoring."""

from __future__ import annotations

from typing import Any

from pyspark import keyword_only
from pyspark.ml import Estimator, PipelineModel, Transformer
from pyspark.ml import Pipeline as SparkPipeline
from pyspark.ml.pipeline import PipelineReader, PipelineWriter
from pyspark.ml.util import MLWriter
from pyspark.sql import DataFrame

from sparkimb.base import Sampler
from sparkimb.errors import SparkimbError
from sparkimb.persistence import ConnectOverwrite
from sparkimb.weights import ClassWeigher


class Pipeline(SparkPipeline):
    """A pyspark.ml Pipeline whose samplers and class weighers act on the training rows only.

    While fitting, a sampler's `fitResample` replaces the running dataset, and a ClassWeigher adds its column to it.
    Neither has anything to do with scoring, so neither is in the fitted model: a plain `pyspark.ml.PipelineModel`,
    which loads where sparkimb is not installed.  CrossValidator and TrainValidationSplit therefore evaluate on
    untouched rows, with grids over samplers' Params too.

    Parameters
    ----------
    stages : list of Estimator and Transformer

    Raises
    ------
    SparkimbError
        In `fit`, before any job: a sampler or weigher with no estimator after it, which would train nothing.

    Notes
    -----
    Cost: that of the stages.  Nothing is cached: if several estimators follow a sampler, each reads the data again.

    Examples
    --------
    >>> Pipeline(stages=[assembler, RandomUnderSampler(), classifier]).fit(train).transform(test)  # doctest: +SKIP
    """

    @keyword_only
    def __init__(self, *, stages: list[Any] | None = None):
        super().__init__(**self._input_kwargs)

    def _fit(self, dataset: DataFrame) -> PipelineModel:
        stages = self.getStages()
        self._check_stages(stages)
        last = max((i for i, stage in enumerate(stages) if isinstance(stage, Estimator)), default=-1)
        fitted: list[Transformer] = []
        for i, stage in enumerate(stages):
            if isinstance(stage, Sampler):
                dataset = stage.fitResample(dataset)
            elif isinstance(stage, ClassWeigher):
                dataset = stage.fit(dataset).transform(dataset)
            else:
                transformer = stage.fit(dataset) if isinstance(stage, Estimator) else stage
                fitted.append(transformer)
                if i < last:
                    dataset = transformer.transform(dataset)
        return PipelineModel(fitted)

    def _check_stages(self, stages: list[Any]) -> None:
        for i, stage in enumerate(stages):
            if not isinstance(stage, Estimator | Transformer):
                raise TypeError(f"Pipeline.stages[{i}] is a {type(stage).__name__}, not an Estimator or Transformer.")
            if isinstance(stage, Sampler | ClassWeigher) and not any(
                isinstance(later, Estimator) and not isinstance(later, Sampler | ClassWeigher)
                for later in stages[i + 1 :]
            ):
                raise SparkimbError(
                    f"Pipeline.stages[{i}] is a {type(stage).__name__}, and no estimator follows that would train on "
                    "its rows. Put it before the learner, or call it outside the pipeline."
                )

    def write(self) -> MLWriter:
        """Return a writer; the stages must be writable."""
        return _Writer(self)

    @classmethod
    def read(cls) -> PipelineReader:
        """Return a reader of what `write` wrote."""
        return _Reader(cls)


class _Writer(ConnectOverwrite, PipelineWriter):
    """pyspark's writer, with an `overwrite()` that works on Connect."""


class _Reader(PipelineReader):
    """pyspark's reader returns pyspark's own Pipeline; this one returns ours."""

    def load(self, path: str) -> Pipeline:
        plain = super().load(path)
        return Pipeline(stages=plain.getStages())._resetUid(plain.uid)
