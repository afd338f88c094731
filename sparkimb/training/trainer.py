"""`fit`: a plain training loop for imbalanced classes, that goes on exactly where it was stopped."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sparkimb.errors import SparkimbError
from sparkimb.feed.device import DevicePrefetcher
from sparkimb.feed.loader import Batch, Loader
from sparkimb.training import checkpoints, ranks
from sparkimb.training.metrics import metrics_of, predict
from sparkimb.training.progress import progress_bar

AMP = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What `fit` did.

    Attributes
    ----------
    model : nn.Module
        The model that was given, with the parameters of the best epoch where there was validation, else the last.
    history : list of dict
        One per epoch: "epoch", from 0; "loss", the mean over the steps of all ranks; and the metrics of the validation.
    best_epoch : int or None
        The one with the highest average precision; the first of those alike.
    steps : int
        Steps of the optimizer.
    stopped_early : bool
        Whether patience ended it.
    """

    model: nn.Module
    history: list[dict[str, float]]
    best_epoch: int | None
    steps: int
    stopped_early: bool


def fit(
    model: nn.Module,
    loader: Any,
    *,
    loss: nn.Module,
    epochs: int,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    validation: Iterable[Batch] | None = None,
    patience: int | None = None,
    augment: Callable[[Batch, torch.Generator], Batch] | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_steps: int | None = None,
    resume: bool = True,
    device: torch.device | str | None = None,
    amp: Literal["bfloat16", "float16"] | None = None,
    clip_norm: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Fitted:
    """Train a model.

    Parameters
    ----------
    model : nn.Module
        Called with the features of a batch, it returns logits: [b] or [b, 1] for two classes, [b, C] for C.  It is
        trained in place.
    loader : iterable of Batch, with a length
        One pass is an epoch: of `sparkimb.feed.torch.make_torch_loader`, or batches of features and labels, and perhaps
        weights, of your own.  Its `set_epoch(epoch)` is called where it has one.  Distributed, each rank has its own
        rows in the same number of batches.
    loss : nn.Module
        Called with logits, labels and, where the batch has any, weights; of `sparkimb.training.losses` or your own.
        Its `set_epoch(epoch)` is called where it has one.
    epochs : int in [1, inf)
    optimizer : Optimizer, optional
        By default AdamW with a learning rate of 1e-3, of the parameters that take a gradient.
    scheduler : LRScheduler, optional
        Stepped with the optimizer, at every batch.
    validation : iterable of Batch, optional
        Looked at after each epoch, by rank 0: all rows of one pass, with the natural classes (never resampled ones).
        A loader of the feed is made for it with rank=0 and world_size=1.
        Fitted.model is that of the epoch with the highest average precision.
    patience : int in [1, inf), optional
        End after so many epochs without a higher average precision.
    augment : callable, optional
        Of `sparkimb.training.augment`: called with a batch on the device and a generator.
    checkpoint_dir : str or Path, optional
        A local directory, of this training alone.  After every epoch a checkpoint is written there, by rank 0.
    checkpoint_steps : int in [1, inf), optional
        A checkpoint also after so many steps.  The loader must have `state_dict` and `load_state_dict` then.
    resume : bool, default=True
        Go on from the checkpoint in checkpoint_dir, where there is one: from the next batch, with the parameters, the
        optimizer's and random generators' states of that moment, so that the outcome is the same as without the stop,
        bit for bit on the CPU.  From a GPU to the CPU, or back, the device's generators and the augmentation's start
        anew.  A training that had ended is not repeated.
    device : torch.device or str, optional
        By default "cuda", or "cpu" where there is no GPU.  "cuda" is the GPU of number LOCAL_RANK.
    amp : {"bfloat16", "float16"}, optional
        Autocast the model; the loss is computed in float32.  float16 on a GPU alone, with a scaled loss.
    clip_norm : float in (0, inf), optional
        The largest norm of the gradient.
    seed : int, default=0
        Of the augmentation.  Dropout draws from torch's own generator: call `torch.manual_seed` before.
    progress : bool, optional
        Show a bar; by default where rich is installed and the output is a terminal, on rank 0.

    Returns
    -------
    Fitted

    Raises
    ------
    SparkimbError
        Values out of range; ranks with different numbers of batches, or a loader of the feed that was made for other
        ranks; a loss that is not finite; a checkpoint that is damaged, or of another model or number of ranks, or, with
        a loader of the feed, of another training set or other batches; validation rows without some class.

    Notes
    -----
    Where torch.distributed is initialised, the model is wrapped in DistributedDataParallel: gradients are means over
    the ranks, and all end at the same step, as rank 0 decides.
    A checkpoint holds the model, its best parameters so far and the optimizer.

    Examples
    --------
    >>> loader = make_torch_loader(path, 4096, balance="uniform")  # doctest: +SKIP
    >>> fit(MLP(32), loader, loss=FocalLoss(), epochs=10, validation=held_out).history[-1]  # doctest: +SKIP
    """
    for name, number in (("epochs", epochs), ("patience", patience), ("checkpoint_steps", checkpoint_steps)):
        if number is not None and number < 1:
            raise SparkimbError(f"{name} is {number}. It must be 1 or more.")
    if patience is not None and validation is None:
        raise SparkimbError(f"patience is {patience}, but there is no validation. Give rows to measure on.")
    if amp not in AMP:
        raise SparkimbError(f"amp is {amp!r}. Choose 'bfloat16' or 'float16', or None.")
    if checkpoint_steps is not None and not (checkpoint_dir is not None and hasattr(loader, "load_state_dict")):
        raise SparkimbError(
            f"checkpoint_steps is {checkpoint_steps}: it needs checkpoint_dir, and a loader with state_dict and "
            "load_state_dict. Leave it out, and checkpoints are written after each epoch."
        )
    where = device_of_rank(device)
    if amp == "float16" and where.type != "cuda":
        raise SparkimbError(f"amp is 'float16' on {where.type}. Use 'bfloat16' there.")
    if where.type == "cuda" and ranks.is_distributed():
        torch.cuda.set_device(where)  # NCCL's collectives of plain values take the current device
    ranks.check_loader(loader)
    model.to(where)
    run = _Training(
        model=model,
        loader=DevicePrefetcher(loader, where) if isinstance(loader, Loader) else loader,
        loss=loss.to(where),
        epochs=epochs,
        optimizer=optimizer or AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3),
        scheduler=scheduler,
        validation=validation,
        patience=patience,
        augment=augment,
        path=None if checkpoint_dir is None else Path(checkpoint_dir) / checkpoints.NAME,
        checkpoint_steps=checkpoint_steps,
        device=where,
        amp=AMP[amp],
        clip_norm=clip_norm,
        seed=seed,
        progress=progress,
    )
    run.check_ranks()
    if resume:
        run.resume()
    run.train()
    return run.fitted()


@dataclass(kw_only=True)
class _Training:
    """A training and how far it is."""

    model: nn.Module
    loader: Any
    loss: nn.Module
    epochs: int
    optimizer: Optimizer
    scheduler: LRScheduler | None
    validation: Iterable[Batch] | None
    patience: int | None
    augment: Callable[[Batch, torch.Generator], Batch] | None
    path: Path | None
    checkpoint_steps: int | None
    device: torch.device
    amp: torch.dtype | None
    clip_norm: float | None
    seed: int
    progress: bool | None

    epoch: int = 0
    step_of_epoch: int = 0
    step: int = 0
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))  # of the epoch's steps
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] | None = None  # epoch, value, model

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp is torch.float16)
        self.generator = torch.Generator(self.device).manual_seed(self.seed * ranks.world_size() + ranks.rank())
        self.parallel = self.model
        if ranks.is_distributed():
            devices = [self.device] if self.device.type == "cuda" else None
            self.parallel = DistributedDataParallel(self.model, device_ids=devices)

    # ---- the loop

    def train(self) -> None:
        """Train until the last epoch, or until patience is at its end."""
        while self.epoch < self.epochs and not self.out_of_patience():
            self.train_epoch()
            figures = {"epoch": self.epoch, "loss": self.mean_loss()}
            if self.validation is not None:
                figures |= ranks.on_first(self.measure)
                value = figures["averagePrecision"]
                if self.best is None or value > self.best["value"]:
                    parameters = {name: tensor.cpu().clone() for name, tensor in self.model.state_dict().items()}
                    self.best = {"epoch": self.epoch, "value": value, "model": parameters}
            self.history.append(figures)
            self.epoch, self.step_of_epoch = self.epoch + 1, 0
            self.loss_sum = torch.zeros_like(self.loss_sum)
            self.save()

    def train_epoch(self) -> None:
        """Make the steps of an epoch that are still to be made."""
        _set_epoch(self.loss, self.epoch)
        if self.step_of_epoch == 0:
            _set_epoch(self.loader, self.epoch)
        self.parallel.train()
        loss_sum = self.loss_sum.to(self.device)
        steps, shown = len(self.loader), self.progress if ranks.rank() == 0 else False
        with progress_bar(f"epoch {self.epoch}", done=self.step_of_epoch, steps=steps, shown=shown) as advance:
            for batch in self.loader:
                loss = self.make_step(batch)
                loss_sum += loss
                self.step, self.step_of_epoch = self.step + 1, self.step_of_epoch + 1
                advance(lambda loss=loss: f"loss {float(loss):.4f}")  # type: ignore[misc]
                if self.checkpoint_steps and self.step % self.checkpoint_steps == 0 and self.step_of_epoch < steps:
                    self.loss_sum = loss_sum.cpu()
                    self.mean_loss()
                    self.save()
        self.loss_sum = loss_sum.cpu()
        if self.step_of_epoch == 0:
            raise SparkimbError("The loader gave no batches. Give one with rows, that can be iterated anew each epoch.")

    def make_step(self, batch: Batch) -> Tensor:
        """Make a step of the optimizer; return the batch's loss."""
        batch = _moved(self.device, *batch)
        if self.augment is not None:
            batch = self.augment(batch, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            logits = self.parallel(batch.features)
        weights = () if batch.weights is None else (batch.weights,)
        loss: Tensor = self.loss(logits.float() if self.amp else logits, batch.labels, *weights)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()
        return loss.detach()

    def mean_loss(self) -> float:
        """Return the mean loss of the epoch's steps so far, of all ranks."""
        both = torch.stack([self.loss_sum, torch.tensor(self.step_of_epoch, dtype=self.loss_sum.dtype)])
        loss, steps = ranks.total(both.to(self.device)).tolist()
        if not math.isfinite(loss):
            raise SparkimbError(
                f"The loss of epoch {self.epoch} is {loss} after {self.step_of_epoch} steps. Lower the learning rate "
                "or set clip_norm, and look for NaN or huge values in the features."
            )
        return float(loss / steps)

    def measure(self) -> dict[str, float]:
        """Return the metrics of the validation."""
        assert self.validation is not None
        return metrics_of(*predict(self.model, self.validation, device=self.device, amp=self.amp))

    def out_of_patience(self) -> bool:
        """Say whether the last epochs brought nothing."""
        if self.patience is None or self.best is None:
            return False
        return self.epoch - 1 - int(self.best["epoch"]) >= self.patience

    def fitted(self) -> Fitted:
        """Return the model with its best parameters."""
        if self.best is not None:
            self.model.load_state_dict(self.best["model"])
        self.model.eval()
        return Fitted(
            model=self.model,
            history=copy.deepcopy(self.history),
            best_epoch=None if self.best is None else int(self.best["epoch"]),
            steps=self.step,
            stopped_early=self.out_of_patience(),
        )

    # ---- ranks and checkpoints

    def check_ranks(self) -> None:
        """Check that no rank would wait for another that has no batch left."""
        lengths = ranks.of_all(len(self.loader))
        if len(set(lengths)) > 1:
            raise SparkimbError(
                f"The ranks have {lengths} batches. Give each as many, as make_torch_loader does with world_size."
            )

    def save(self) -> None:
        """Write a checkpoint, if they are wanted."""
        if self.path is None:
            return
        path = self.path
        # The feed's state says of what data and settings it is.  Another loader's may be no beginning of an epoch.
        known = self.step_of_epoch > 0 or isinstance(self.loader, DevicePrefetcher)
        own = {
            "loader": self.loader.state_dict() if known else None,
            "lossSum": self.loss_sum,
            "random": checkpoints.random_states(self.device),
            "augment": self.generator.get_state(),
        }
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "stepOfEpoch": self.step_of_epoch,
            "step": self.step,
            "history": self.history,
            "best": self.best,
            "ranks": ranks.of_all(own),
        }
        ranks.on_first(lambda: checkpoints.save(path, content))

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        found = None if self.path is None else checkpoints.load(self.path)
        if any(there != (found is not None) for there in ranks.of_all(found is not None)):
            raise SparkimbError(
                f"Some ranks see the checkpoint '{self.path}' and some do not. Put it where all see it."
            )
        if found is None:
            return
        if len(found["ranks"]) != ranks.world_size():
            raise SparkimbError(
                f"The checkpoint '{self.path}' is of {len(found['ranks'])} ranks, and there are {ranks.world_size()} "
                "now. Go on with as many, or start anew with resume=False or another checkpoint_dir."
            )
        try:
            own = found["ranks"][ranks.rank()]
            if own["loader"] is not None:
                self.loader.load_state_dict(own["loader"])
            self.scaler.load_state_dict(found["scaler"])
            self.model.load_state_dict(found["model"])
            self.optimizer.load_state_dict(found["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(found["scheduler"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            said = " ".join(str(error).split())[:300].rstrip(".")
            raise SparkimbError(
                f"The checkpoint '{self.path}' is of another training: {said}. Go on with the same model, optimizer "
                "and data, or start anew with resume=False or another checkpoint_dir."
            ) from error
        checkpoints.set_random_states(own["random"], self.device)
        if (own["random"]["cuda"] is not None) == (self.device.type == "cuda"):  # else its state is of another kind
            self.generator.set_state(own["augment"])
        self.epoch, self.step_of_epoch, self.step = found["epoch"], found["stepOfEpoch"], found["step"]
        self.loss_sum = own["lossSum"]
        self.history, self.best = found["history"], found["best"]


def _moved(device: torch.device, features: Tensor, labels: Tensor, weights: Tensor | None = None) -> Batch:
    features, labels = features.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    return Batch(features, labels, None if weights is None else weights.to(device, non_blocking=True))


def _set_epoch(schedule: Any, epoch: int) -> None:
    if hasattr(schedule, "set_epoch"):
        schedule.set_epoch(epoch)


def device_of_rank(device: torch.device | str | None = None) -> torch.device:
    """Return where this process trains: see `fit`."""
    found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if found.type != "cuda" or found.index is not None:
        return found
    if not torch.cuda.is_available():
        raise SparkimbError("device is 'cuda', and torch finds no GPU. Train on 'cpu', or install torch with CUDA.")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
