"""The config of jobs/train.py."""

from __future__ import annotations

from typing import Any, Literal

from config import Config, nearest
from pydantic import Field, field_validator, model_validator

from sparkimb.training.losses import LOSSES, from_counts

# Losses that correct for the prior of the rows they are built from, which class-balanced batches do too.
CORRECTING = ("cross_entropy", "focal", "class_balanced", "logit_adjusted", "balanced_softmax")
# What an output may be continued with, though it was begun otherwise.
MAY_CHANGE = {"epochs", "patience", "spark", "distributed"}


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


class Optimizer(Config):
    """AdamW."""

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)


class Distributed(Config):
    """Processes that pyspark's TorchDistributor starts: on the executors, or on the driver's machine."""

    processes: int = Field(ge=1)
    local: bool = False
    gpu: bool = False  # one for each process


class TrainOutput(Config):
    """A directory of this machine, or mounted on all machines where processes run on executors."""

    path: str
    overwrite: bool = False  # of a result that is there


class Train(Config):
    """jobs/train.py."""

    name: str = Field(default="train", min_length=1)
    data: Data
    model: Model = Model()
    loss: str | dict[str, dict[str, Any]] = "focal"  # by its name or with parameters: {focal: {gamma: 1}}
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
    def _known_loss(cls, loss: str | dict[str, dict[str, Any]]) -> str | dict[str, dict[str, Any]]:
        if isinstance(loss, dict) and len(loss) != 1:
            raise ValueError(f"the loss is one name with its parameters; found {list(loss)}")
        name, options = (loss, {}) if isinstance(loss, str) else next(iter(loss.items()))
        if name not in LOSSES:
            raise ValueError(f"'{name}' is no loss{nearest(name, LOSSES)}; use one of {', '.join(LOSSES)}")
        if {"reduction", "ignore_index"} & set(options):
            raise ValueError("reduction and ignore_index are set by the job; leave them out")
        try:
            from_counts(name, [1, 1], **options)
        except TypeError as error:
            raise ValueError(f"{name}: {str(error).split('() ')[-1]}") from None
        return loss

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
        if isinstance(self.loss, str):
            return self.loss, {}
        ((name, options),) = self.loss.items()
        return name, options

    @property
    def identity(self) -> dict[str, Any]:
        """What must be as it was for a training to go on where it stopped."""
        given = self.model_dump(mode="json", exclude={*MAY_CHANGE, "output"})
        return dict(given)
