"""A Pipeline that resamples while fitting and never while scoring."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from pyspark import keyword_only
from pyspark.ml import Estimator, PipelineModel, Transformer
from pyspark.ml import Pipeline as SparkPipeline
from pyspark.ml.classification import FMClassifier, ProbabilisticClassifier
from pyspark.ml.param import TypeConverters
from pyspark.ml.pipeline import PipelineReader, PipelineSharedReadWrite, PipelineWriter
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLWriter
from pyspark.sql import DataFrame
from pyspark.sql.types import StructField

from sparkimb.base import Sampler
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.calibrators import Calibrator
from sparkimb.evaluation.cost import CostSensitive
from sparkimb.evaluation.prior_correction import with_corrected_priors
from sparkimb.evaluation.threshold_tuner import ThresholdTuner
from sparkimb.over_sampling.random import RandomOverSampler
from sparkimb.params import param
from sparkimb.persistence import ConnectOverwrite
from sparkimb.strategy import Label
from sparkimb.under_sampling.random import RandomUnderSampler
from sparkimb.weights import ClassWeigher

TrainingOnly: TypeAlias = Sampler | ClassWeigher | CostSensitive  # type: ignore[type-arg]  # isinstance takes no more


class Pipeline(SparkPipeline):
    """A pyspark.ml Pipeline whose samplers and class weighers act on the training rows only.

    While fitting, a sampler's `fitResample` replaces the running dataset, and a ClassWeigher or CostSensitive adds its
    column to it.  None of them has anything to do with scoring, so none is in the fitted model: a plain
    `pyspark.ml.PipelineModel`, which loads where sparkimb is not installed.  CrossValidator and TrainValidationSplit
    therefore evaluate on untouched rows, with grids over samplers' Params too.

    Parameters
    ----------
    stages : list of Estimator and Transformer, optional
    calibrate : bool, default=False
        Whether the fitted model corrects each later classifier's probabilities, and its prediction, for what the
        samplers and weighers did to the class priors.  For RandomUnderSampler without strataCols, RandomOverSampler
        without shrinkage, ClassWeigher, and CostSensitive with numbers for costs, whose effect depends on the class
        alone; and for pyspark's classifiers.

    Raises
    ------
    SparkimbError
        In `fit`, before any job: a sampler or weigher with no estimator after it, which would train nothing; a
        calibrator or ThresholdTuner after one, which would learn the sampled class shares.  With calibrate: another
        sampler; no classifier after a sampler or weigher that trains on its rows or weights, or one without
        probabilities (LinearSVC, OneVsRest), or with another labelCol.  While fitting, with calibrate: a class of which
        no row or no weight is left.

    Notes
    -----
    Cost: that of the stages.  Nothing is cached: if several estimators follow a sampler, each reads the data again.
    With calibrate the classifier writes `uncorrectedProbability`, stages of pyspark's own behind it make the corrected
    `probability` of that (`sparkimb.evaluation.correct_priors` says how), and its `thresholds` are moved so that
    `prediction` goes by the corrected one; thresholds of your own then cut the corrected one.  rawPrediction stays.
    Class weights count where the classifier's weightCol is the weigher's; FMClassifier's is ignored by pyspark.
    calibrate concerns this pipeline's own stages: in a nested pipeline set it there.

    Examples
    --------
    >>> Pipeline(stages=[assembler, RandomUnderSampler(), classifier]).fit(train).transform(test)  # doctest: +SKIP
    """

    calibrate = param("calibrate", "whether the fitted model corrects its probabilities", TypeConverters.toBoolean)

    @keyword_only
    def __init__(self, *, stages: list[Any] | None = None, calibrate: bool = False):
        given = self._input_kwargs
        super().__init__()
        self._setDefault(calibrate=False)
        self._set(**given)

    @keyword_only
    def setParams(self, *, stages: list[Any] | None = None, calibrate: bool = False) -> Pipeline:
        """Set stages and calibrate."""
        self._set(**self._input_kwargs)
        return self

    def getCalibrate(self) -> bool:
        """Return calibrate."""
        return bool(self.getOrDefault(self.calibrate))

    def _fit(self, dataset: DataFrame) -> PipelineModel:
        stages = self.getStages()
        self._check_stages(stages)
        if self.getCalibrate():
            self._check_calibration(stages)
        last = max((i for i, stage in enumerate(stages) if isinstance(stage, Estimator)), default=-1)
        fitted: list[Transformer] = []
        shifts: list[_PriorShift] = []
        for i, stage in enumerate(stages):
            if isinstance(stage, Sampler):
                sampler = stage.fit(dataset)
                dataset = sampler.resample(dataset)
                before, after = sampler.plan.counts, sampler.plan.targets
                shifts.append((stage, {label: after[label] / rows for label, rows in before.items()}))
            elif isinstance(stage, ClassWeigher):
                weigher = stage.fit(dataset)
                dataset = weigher.transform(dataset)
                shifts.append((stage, weigher.classWeights))
            elif isinstance(stage, CostSensitive):
                dataset = stage.fit(dataset).transform(dataset)
                shifts.append((stage, {float(key): stake for key, stake in (stage.stakes() or {}).items()}))
            else:
                transformers = [stage.fit(dataset) if isinstance(stage, Estimator) else stage]
                reaching = [shift for shift in shifts if _reaches(shift[0], stage)]
                if self.getCalibrate() and reaching:
                    transformers = _corrected(transformers[0], reaching, dataset.schema[stage.getOrDefault("labelCol")])
                fitted += transformers
                if i < last:
                    for transformer in transformers:
                        dataset = transformer.transform(dataset)
        return PipelineModel(fitted)

    def _check_stages(self, stages: list[Any]) -> None:
        for i, stage in enumerate(stages):
            if not isinstance(stage, Estimator | Transformer):
                raise TypeError(f"Pipeline.stages[{i}] is a {type(stage).__name__}, not an Estimator or Transformer.")
            if not isinstance(stage, TrainingOnly):
                continue
            later = [s for s in _flat(stages[i + 1 :]) if isinstance(s, Estimator) and not isinstance(s, TrainingOnly)]
            if not later:
                raise SparkimbError(
                    f"Pipeline.stages[{i}] is a {type(stage).__name__}, and no estimator follows that would train on "
                    "its rows. Put it before the learner, or call it outside the pipeline."
                )
            misled = [type(s).__name__ for s in later if isinstance(s, Calibrator | ThresholdTuner)]
            if misled:
                raise SparkimbError(
                    f"Pipeline.stages[{i}] is a {type(stage).__name__}, and the {misled[0]} after it would learn "
                    "from training rows with changed class shares. Fit it on natural held-out rows, outside the "
                    "pipeline."
                )

    def _check_calibration(self, stages: list[Any]) -> None:
        """Check that what the samplers and weighers do can be undone."""
        for i, stage in enumerate(stages):
            if not isinstance(stage, TrainingOnly):
                continue
            name = f"Pipeline.calibrate is true and stages[{i}] is a {type(stage).__name__}"
            if reason := _not_by_class_alone(stage):
                raise SparkimbError(
                    f"{name}{reason}, so what it does to probabilities cannot be undone by the class shares. Leave "
                    "calibrate out, and fit a PlattCalibrator or IsotonicCalibrator on natural held-out rows."
                )
            reached = [later for later in stages[i + 1 :] if _reaches(stage, later)]
            if not reached:
                wanted = "" if isinstance(stage, Sampler) else f" with weightCol '{stage.getWeightCol()}'"
                raise SparkimbError(
                    f"{name}, but no classifier{wanted} follows. Put the classifier into this pipeline itself, or set "
                    "calibrate where it is."
                )
            for later in reached:
                learner = type(later).__name__
                if not isinstance(later, ProbabilisticClassifier) or not later.getOrDefault("probabilityCol"):
                    raise SparkimbError(
                        f"{name}, but the {learner} after it writes no probabilities that pyspark's own stages could "
                        "correct. Use a classifier that does, or leave calibrate out and use PriorCorrection or "
                        "PlattCalibrator on what it writes."
                    )
                if (labelCol := later.getOrDefault("labelCol")) != stage.getLabelCol():
                    raise SparkimbError(
                        f"{name} with labelCol '{stage.getLabelCol()}', but the {learner} after it has labelCol "
                        f"'{labelCol}', so the order of its classes is not known. Give both the indexed label."
                    )

    def write(self) -> MLWriter:
        """Return a writer; the stages must be writable."""
        return _Writer(self)

    @classmethod
    def read(cls) -> PipelineReader:
        """Return a reader of what `write` wrote."""
        return _Reader(cls)


# A stage, and how much more likely it made a training row of each class, up to one factor for all.
_PriorShift: TypeAlias = tuple[Any, Mapping[Label, float]]


def _flat(stages: Sequence[Any]) -> Iterator[Any]:
    """Yield the stages, of nested pipelines theirs."""
    for stage in stages:
        yield from _flat(stage.getStages()) if isinstance(stage, SparkPipeline) else [stage]


def _reaches(stage: Any, learner: Any) -> bool:
    """Say whether a classifier trains on what a sampler or weigher makes: rows always, weights if it uses them."""
    if not (isinstance(learner, Estimator) and learner.hasParam("labelCol") and learner.hasParam("rawPredictionCol")):
        return False
    if isinstance(stage, Sampler):
        return True
    takes_weights = learner.hasParam("weightCol") and not isinstance(learner, FMClassifier)
    return takes_weights and learner.isSet("weightCol") and learner.getOrDefault("weightCol") == stage.getWeightCol()


def _not_by_class_alone(stage: Any) -> str | None:
    """Return why the fate of a row depends on more than its class, if it does."""
    if isinstance(stage, RandomUnderSampler):
        return " with strataCols" if stage.getStrataCols() else None
    if isinstance(stage, RandomOverSampler):
        return " with shrinkage" if stage.getShrinkage() > 0 else None
    if isinstance(stage, CostSensitive):
        return ", whose weights may differ within a class" if stage.stakes() is None else None
    return None if isinstance(stage, ClassWeigher) else ", which looks at the features"


def _corrected(model: Any, shifts: Sequence[_PriorShift], labels: StructField) -> list[Transformer]:
    """Return a fitted classifier and the stages that undo the shifts of the priors it was trained with."""
    factors = [1.0] * _number_of_classes(labels, {label for _, by_label in shifts for label in by_label})
    for stage, by_label in shifts:
        for label, factor in by_label.items():
            if factor == 0:
                raise SparkimbError(
                    f"Pipeline.calibrate is true, but {type(stage).__name__} leaves nothing of class {label!r}, so its "
                    "probability cannot be brought back. Leave it some rows or weight, or leave calibrate out."
                )
            factors[int(label)] *= factor
    return with_corrected_priors(model, factors)


def _number_of_classes(field: StructField, labels: set[Label]) -> int:
    """Return how many classes pyspark's learners see: as the column's metadata tell, or up to the largest label.

    The fitted model knows too, but on Connect pyspark 4.0 cannot ask it from a thread of CrossValidator's.
    """
    attributes = field.metadata.get("ml_attr", {})
    told = 2 if attributes.get("type") == "binary" else len(attributes.get("vals", [])) or attributes.get("num_vals", 0)
    return max(int(told), 1 + max(int(label) for label in labels))


class _Writer(ConnectOverwrite, PipelineWriter):
    """pyspark's writer, with an `overwrite()` that works on Connect, and a Param that pyspark's leaves out."""

    def saveImpl(self, path: str) -> None:
        """Write what pyspark's writer does, and calibrate."""
        pipeline, session = self.instance, self.sparkSession
        assert isinstance(pipeline, Pipeline)
        stages: list[Any] = pipeline.getStages()
        PipelineSharedReadWrite.validateStages(stages)
        params = {
            "stageUids": [stage.uid for stage in stages],
            "language": "Python",
            "calibrate": pipeline.getCalibrate(),
        }
        DefaultParamsWriter.saveMetadata(pipeline, path, session, paramMap=params)
        for i, stage in enumerate(stages):
            place = PipelineSharedReadWrite.getStagePath(stage.uid, i, len(stages), os.path.join(path, "stages"))
            stage.write().session(session).save(place)


class _Reader(PipelineReader):
    """pyspark's reader returns pyspark's own Pipeline; this one returns ours."""

    def load(self, path: str) -> Pipeline:
        """Read what _Writer wrote, or pyspark's."""
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        uid, stages = PipelineSharedReadWrite.load(metadata, self.sparkSession, path)
        calibrate = metadata["paramMap"].get("calibrate", False)  # pipelines written before there was one have none
        return Pipeline(stages=stages, calibrate=calibrate)._resetUid(uid)
