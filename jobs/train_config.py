"""The config of jobs/train.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

from config import Config, nearest
from pydantic import Field, field_validator, model_validator

from sparkimb.feed.engine import TIMEOUT
from sparkimb.training.losses import LOSSES, from_counts
from sparkimb.training.tabular import AUGMENTATIONS, RANKS_TIMEOUT, augmentation

# Losses that correct for the prior of the rows they are built from, which class-balanced batches do too.
CORRECTING = ("cross_entropy", "focal", "class_balanced", "logit_adjusted", "balanced_softmax")
# What an output may be continued with, though it was begun otherwise; the number of processes stays.
MAY_CHANGE = {"epochs", "patience", "spark", "distributed"}

Named: TypeAlias = str | dict[str, dict[str, Any]]  # a name, or one with parameters: {focal: {gamma: 1}}


class Data(Config):
    """The rows: a result of jobs/balance.py, or training sets of sparkimb.feed.materialize."""

    balanced: str | None = None  # a directory; validation and test rows are those of its split, with natural classes
    training: str | None = None
    validation: str | None = None
    test: str | None = None
    shards: int | None = Field(default=None, ge=1)  # of the sets made from `balanced`
    rows_per_group: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.balanced is None) == (self.training is None):
            raise ValueError("give either balanced, or training with validation and perhaps test")
        if self.balanced is not None and (self.validation or self.test):
            raise ValueError("validation and test are those of balanced; leave them out")
        if self.training is not None and (self.validation is None or self.shards or self.rows_per_group):
            raise ValueError("training goes with validation, and without shards and rows_per_group")
        return self


class Model(Config):
    """A multilayer perceptron."""

    hidden: list[int] = Field(default=[256, 128], min_length=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Batches(Config):
    """How the training rows come to the model."""

    size: int = Field(default=4096, ge=1)  # of each process
    balance: Literal["natural", "uniform", "sqrt", "weight"] | dict[str | int | float | bool, float] = "natural"
    shuffle_rows: int = Field(default=200_000, ge=0)
    engine: Literal["pyarrow", "petastorm"] = "pyarrow"
    workers: int = Field(default=1, ge=1)  # threads that read
    timeout: float = Field(default=TIMEOUT, gt=0)  # seconds that a row group may take


class Optimizer(Config):
    """AdamW."""

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)


class Distributed(Config):
    """Processes that pyspark's TorchDistributor starts: on the executors, or on the driver's machine."""

    processes: int = Field(ge=1)
    local: bool = False
    gpu: bool = False  # one for each process; else all train on CPUs, whatever the machine has
    timeout: float = Field(default=RANKS_TIMEOUT, gt=0)  # seconds that processes wait for one that validates


class TrainOutput(Config):
    """A directory of this machine, or mounted on all machines where processes run on executors."""

    path: str
    overwrite: bool = False  # of a result that is there


class Train(Config):
    """jobs/train.py."""

    name: str = Field(default="train", min_length=1)
    data: Data
    model: Model = Model()
    loss: Named = "focal"
    augment: list[Named] = Field(default_factory=list)  # of the rows of each batch, one after the other
    batches: Batches = Batches()
    optimizer: Optimizer = Optimizer()
    epochs: int = Field(default=20, ge=1)
    patience: int | None = Field(default=None, ge=1)
    amp: Literal["bfloat16", "float16"] | None = None
    checkpoint_steps: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    distributed: Distributed | None = None
    output: TrainOutput
    spark: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, loss: Named) -> Named:
        name, options = _known(loss, "loss", LOSSES, set_by_job=("reduction", "ignore_index"))
        _try(name, partial(from_counts, name, [1, 1], **options))
        return loss

    @field_validator("augment")
    @classmethod
    def _known_augmentations(cls, augment: list[Named]) -> list[Named]:
        for given in augment:
            name, options = _known(given, "augmentation", AUGMENTATIONS, set_by_job=("classes", "counts", "std"))
            chances = options.get("probability")
            if isinstance(chances, dict):  # by label, of which nothing is known yet
                options = {**options, "probability": dict(enumerate(chances.values()))}
            _try(name, partial(augmentation, name, [1, 1], **options))
        return augment

    @model_validator(mode="after")
    def _corrected_once(self) -> Train:
        name, options = self.loss_and_options
        corrects = name in CORRECTING and options.get("class_weights", 1) is not None
        if corrects and self.batches.balance not in ("natural", "weight"):
            advice = f"{{{name}: {{class_weights: null}}}}" if name in ("cross_entropy", "focal") else "another loss"
            raise ValueError(
                f"loss '{name}' corrects for the classes' shares, and batches.balance does too; use balance natural, "
                f"or {advice}"
            )
        return self

    @property
    def loss_and_options(self) -> tuple[str, dict[str, Any]]:
        """The loss's name and its parameters."""
        return _name_and_options(self.loss)

    @property
    def augmentations(self) -> list[tuple[str, dict[str, Any]]]:
        """The augmentations' names and their parameters."""
        return [_name_and_options(given) for given in self.augment]

    @property
    def identity(self) -> dict[str, Any]:
        """What must be as it was for a training to go on where it stopped."""
        apart = dict.fromkeys([*MAY_CHANGE, "output"], True)
        given = self.model_dump(mode="json", exclude={**apart, "batches": {"workers", "timeout"}})
        # Each process has its own rows, and its own part of a checkpoint.
        return {**given, "processes": 1 if self.distributed is None else self.distributed.processes}


def _name_and_options(given: Named) -> tuple[str, dict[str, Any]]:
    return (given, {}) if isinstance(given, str) else next(iter(given.items()))


def _known(
    given: Named, what: str, known: Mapping[str, Any], *, set_by_job: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Return the name and the parameters of what there is one of."""
    if isinstance(given, dict) and len(given) != 1:
        raise ValueError(f"the {what} is one name with its parameters; found {list(given)}")
    name, options = _name_and_options(given)
    if name not in known:
        raise ValueError(f"'{name}' is no {what}{nearest(name, known)}; use one of {', '.join(known)}")
    if taken := [option for option in set_by_job if option in options]:
        raise ValueError(f"{name}: {' and '.join(taken)} is set by the job; leave it out")
    return name, options


def _try(name: str, make: Callable[[], Any]) -> None:
    """Say what is wrong with the parameters."""
    try:
        make()
    except TypeError as error:
        raise ValueError(f"{name}: {str(error).split('() ')[-1]}") from None
