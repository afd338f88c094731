"""Hugging Face's Trainer with a loss for imbalanced classes and class-balanced batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from sparkimb.errors import SparkimbError
from sparkimb.feed.loader import Batch
from sparkimb.training import ranks

try:
    from transformers import Trainer, TrainerCallback
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
except ImportError as error:
    raise ImportError("Hugging Face's Trainer needs transformers: pip install 'sparkimb[transformers]'.") from error

# Labels that do not count, as in all of transformers.
IGNORED = -100
# The key of row weights in a batch; models never see it.
WEIGHT = "weight"

ToInputs = Callable[[Batch], dict[str, Any]]


def imbalanced_trainer(
    base: type[Trainer] = Trainer,
    *,
    loss: nn.Module,
    loader: Any = None,
    to_inputs: ToInputs | None = None,
) -> type[Trainer]:
    """Make a Trainer class that trains with a loss for imbalanced classes, and on the batches of a loader.

    For models that classify sequences, tokens or images.  Everything else is as in the class given: evaluation,
    checkpoints and resuming, logging, gradient accumulation, mixed precision, distributed runs.

    Parameters
    ----------
    base : type, default=transformers.Trainer
        Trainer, or a class of yours made from it.
    loss : nn.Module
        Called with logits [n, C] (or [n, 1]), labels [n] and, where the batch has a "weight", weights [n]; it returns
        the mean.  Of `sparkimb.training.losses`, or `torch.nn.CrossEntropyLoss`.  It replaces the model's own loss, in
        evaluation too.  Its `set_epoch` is called where it has one.
    loader : iterable of Batch, with a length, optional
        Training batches in place of `train_dataset`: of `sparkimb.feed.torch.make_torch_loader`, class-balanced or not.
        It divides the rows over the ranks itself, so make it after the TrainingArguments, which start the process
        group; and it has its own batch size: per_device_train_batch_size has no effect.
    to_inputs : callable, optional
        Makes the model's inputs from a Batch of the loader, with the key "labels", and "weight" where rows have
        weights.  By default the features are the model's `main_input_name`.

    Returns
    -------
    type
        A subclass of base.

    Raises
    ------
    SparkimbError
        For a loss with a reduction other than "mean".  When the Trainer is made: for a compute_loss_func besides this
        loss, a train_dataset besides the loader, a loader of the feed that was made for other ranks, and for models
        that predict the next token.

    Notes
    -----
    With gradient accumulation, and on several devices, rows count alike: the mean of each batch is weighted by its
    share of the labels in the step (num_items_in_batch), those of -100 left out.
    label_smoothing_factor e makes labels soft, 1 - e for the class and e / C for all, as it does in the Trainer.
    A resumed training passes over the batches of its epoch that it has had, as the Trainer does: exact, and as costly
    as reading them.

    Examples
    --------
    >>> loss = losses.from_manifest(path, "logit_adjusted")  # doctest: +SKIP
    >>> imbalanced_trainer(loss=loss)(model, args, train_dataset=train).train()  # doctest: +SKIP
    """
    if getattr(loss, "reduction", "mean") != "mean":
        raise SparkimbError(f"The loss's reduction is {loss.reduction!r}. The Trainer needs 'mean'.")

    class ImbalancedTrainer(base):  # type: ignore[misc, valid-type]
        """See `imbalanced_trainer`."""

        def __init__(self, *args: Any, **options: Any) -> None:
            if options.get("compute_loss_func") is not None:
                raise SparkimbError(
                    "compute_loss_func is given, but the class has a loss already. Give one of the two."
                )
            super().__init__(*args, **options, compute_loss_func=self._loss_of_batch)
            name = type(self.model).__name__
            if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
                raise SparkimbError(
                    f"{name} predicts the next token. Use a model that classifies sequences, tokens or images."
                )
            if loader is not None and self.train_dataset is not None:
                raise SparkimbError("train_dataset is given, but the class has a loader already. Give one of the two.")
            ranks.check_loader(loader)
            loss.to(self.args.device)
            self._weight: Tensor | None = None
            self.add_callback(_TellsEpoch(loss, loader))

        def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
            """Keep the weights of the rows from the model, and compute the loss as the Trainer does."""
            self._weight = inputs.get(WEIGHT)
            inputs = {name: value for name, value in inputs.items() if name != WEIGHT}
            return super().compute_loss(model, inputs, *args, **options)

        def _loss_of_batch(
            self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
        ) -> Tensor:
            logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
            mean = _mean_loss(loss, logits, labels, self._weight, self.args.label_smoothing_factor)
            if num_items_in_batch is None:
                return mean
            # As the Trainer counts them.  Where it repeats the number for each GPU of DataParallel (from transformers
            # 4.57), it adds up losses of as many, and this one is of all their rows.
            items = torch.as_tensor(num_items_in_batch, device=mean.device).sum()
            share: Tensor = labels.ne(IGNORED).sum() / items
            return mean * share

        def get_train_dataloader(self) -> DataLoader[Any]:
            """Return the loader's batches, or those of train_dataset."""
            if loader is None:
                return cast("DataLoader[Any]", super().get_train_dataloader())
            inputs = to_inputs or _MainInput(self.model.main_input_name)
            return DataLoader(_Batches(loader, inputs), batch_size=None)

        def num_examples(self, dataloader: DataLoader[Any]) -> int:
            """Return the rows of an epoch; those of all ranks, where the loader knows them."""
            manifest = getattr(loader, "manifest", None)
            if manifest is None or not isinstance(dataloader.dataset, _Batches):
                return int(super().num_examples(dataloader))
            return int(manifest.rows)

    return ImbalancedTrainer


class _Batches(IterableDataset[dict[str, Any]]):
    """The batches of a loader, as a model takes them."""

    def __init__(self, loader: Sized, to_inputs: ToInputs) -> None:
        self.loader, self.to_inputs = loader, to_inputs

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in cast("Any", self.loader):
            yield self.to_inputs(batch)


class _MainInput:
    """Gives the features to a model's main input."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, batch: Batch) -> dict[str, Any]:
        weight = {} if batch.weights is None else {WEIGHT: batch.weights}
        return {self.name: batch.features, "labels": batch.labels, **weight}


class _TellsEpoch(TrainerCallback):
    """Tells the loss and the loader which epoch begins."""

    def __init__(self, *told: Any) -> None:
        self.told = [each for each in told if hasattr(each, "set_epoch")]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell it.  A resumed epoch begins at a fraction."""
        for each in self.told:
            each.set_epoch(int(state.epoch + 1e-6))


def _mean_loss(loss: nn.Module, logits: Tensor, labels: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """Return the mean loss of the rows that count; of none, 0 with a gradient."""
    logits = logits.reshape(-1, logits.shape[-1])
    if not torch.is_floating_point(labels):
        kept = labels.reshape(-1) != IGNORED
        if weight is not None:  # of rows; their tokens have it too
            weight = weight.reshape(-1, *[1] * (labels.dim() - 1)).expand(labels.shape).reshape(-1)[kept]
        logits, labels = logits[kept], labels.reshape(-1)[kept]
        if not len(labels):
            return logits.sum() * 0
    if smoothing:
        labels = _smoothed(labels, max(2, logits.shape[-1]), smoothing)
        labels = labels[:, 1] if logits.shape[-1] == 1 else labels
    mean: Tensor = loss(logits, labels) if weight is None else loss(logits, labels, weight)
    return mean


def _smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    if not torch.is_floating_point(labels):
        labels = F.one_hot(labels, classes).float()
    elif labels.dim() == 1:
        labels = torch.stack([1 - labels, labels], 1)
    return (1 - smoothing) * labels + smoothing / classes
