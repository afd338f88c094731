"""Train an MLP on materialized training sets: what each process of a run does, one or many."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.optim import AdamW

from sparkimb.errors import SparkimbError
from sparkimb.feed.engine import TIMEOUT
from sparkimb.feed.loader import Loader
from sparkimb.feed.manifest import Manifest
from sparkimb.training import losses, ranks
from sparkimb.training.augment import Augmentation, Compose, FeatureDropout, GaussianNoise, Mixup, ReMix
from sparkimb.training.metrics import metrics_of, predict
from sparkimb.training.mlp import MLP, feature_moments
from sparkimb.training.trainer import device_of_rank, fit

# The feed's modules, imported when they are asked for: the second needs petastorm.
ENGINES = {"pyarrow": "sparkimb.feed.torch", "petastorm": "sparkimb.feed.petastorm"}

# Seconds that ranks wait for one another: rank 0 alone measures the validation rows.
RANKS_TIMEOUT = 3600.0
# Weights whose means by class differ by this factor correct for the classes' shares.  Where they have nothing to do
# with the class, chance makes less of a difference.
CORRECTING_WEIGHTS = 2.0

AUGMENTATIONS: Mapping[str, type[Augmentation]] = {
    "gaussian_noise": GaussianNoise,
    "feature_dropout": FeatureDropout,
    "mixup": Mixup,
    "remix": ReMix,
}


def train_mlp(
    training: str,
    *,
    validation: str | None = None,
    test: str | None = None,
    loss: str = "focal",
    loss_options: Mapping[str, Any] | None = None,
    augment: Sequence[tuple[str, Mapping[str, Any]]] = (),
    hidden: Sequence[int] = (256, 128),
    dropout: float = 0.1,
    batch_size: int = 4096,
    balance: Any = "natural",
    shuffle_rows: int = 200_000,
    engine: str = "pyarrow",
    workers: int = 1,
    timeout: float = TIMEOUT,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Train an MLP, and measure it on test rows.

    Parameters
    ----------
    training : str
        A training set of `sparkimb.feed.materialize`: a local path or URI that every rank sees.  Its weights, where it
        has any, go to the loss, unless balance is "weight": rows are drawn by them then.
    validation, test : str, optional
        Sets with natural classes, the same as the training set's.
    loss : str, default="focal"
    loss_options : dict, optional
        A loss of `sparkimb.training.losses` and its parameters, built from the training set's counts: of rows, or the
        sums of their weights, so that what weights correct for already is not corrected for again.
    augment : list of (str, dict)
        Keys of AUGMENTATIONS and their parameters, done one after the other.  The spread of noise, and what stands for
        features dropped, are those of all training rows.
    hidden, dropout
        See `MLP`.
    batch_size : int, default=4096
        Rows of a batch of each rank.
    balance, shuffle_rows, workers, timeout
        See `sparkimb.feed.torch.make_torch_loader`.
    engine : {"pyarrow", "petastorm"}, default="pyarrow"
        What reads the files.
    learning_rate, weight_decay : float
        Of AdamW.
    seed : int, default=0
        Of the parameters, the batches and dropout.
    **options
        Of `fit`: epochs, patience, checkpoint_dir, and so on.

    Returns
    -------
    dict
        Plain values and tensors.  "mlp": its options; "state": its parameters, on the CPU; "history", "best_epoch",
        "steps" and "stopped_early": as in `Fitted`; "test": metrics of the test rows, or None.

    Raises
    ------
    SparkimbError
        For sets of other classes, batches of class shares with weights that correct for these too, and what the loader
        and `fit` refuse.
    """
    if engine not in ENGINES:
        raise SparkimbError(f"engine is {engine!r}. Choose one of: {', '.join(ENGINES)}.")
    manifest = Manifest.read(training)
    for name, path in (("validation", validation), ("test", test)):
        if path is not None and (labels := Manifest.read(path).labels) != manifest.labels:
            raise SparkimbError(
                f"The {name} set has the classes {list(labels)}, and the training set {list(manifest.labels)}. Both "
                "must have rows of the same."
            )
    make = importlib.import_module(ENGINES[engine]).make_torch_loader
    with ExitStack() as opened:

        def natural(path: str, weights: bool = False) -> Loader:  # all rows, whatever the rank
            rows = max(batch_size, 4096)
            reading = {"workers": workers, "timeout": timeout, "rank": 0, "world_size": 1}
            loader: Loader = make(path, rows, shuffle_rows=0, return_weights=weights, **reading)
            return opened.enter_context(loader)

        loader = opened.enter_context(
            make(
                training,
                batch_size,
                balance=balance,
                shuffle_rows=shuffle_rows,
                seed=seed,
                return_weights=manifest.weight is not None and balance != "weight",
                workers=workers,
                timeout=timeout,
            )
        )
        mean, std = feature_moments(natural(training))
        counts: Sequence[float] = manifest.counts
        if manifest.weight is not None:
            counts = _weights_by_class(natural(training, weights=True), len(manifest.labels))
            means = {label: w / n for label, w, n in zip(manifest.labels, counts, manifest.counts, strict=True)}
            check_corrected_once(balance, manifest.weight, means)
        torch.manual_seed(seed)  # the parameters, alike on all ranks
        model = MLP(manifest.width, classes=len(manifest.labels), hidden=hidden, dropout=dropout, mean=mean, std=std)
        torch.manual_seed(seed + ranks.rank())  # dropout, each its own
        fitted = fit(
            model,
            loader,
            loss=losses.from_counts(loss, counts, **(loss_options or {})),
            optimizer=AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay),
            validation=None if validation is None else natural(validation),
            augment=Compose([augmentation(n, manifest.counts, mean=mean, std=std, **o) for n, o in augment]),
            seed=seed,
            **options,
        )
        model = model.cpu()
        tested = test is not None and ranks.rank() == 0
        return {
            "mlp": model.options,
            "state": model.state_dict(),
            "history": fitted.history,
            "best_epoch": fitted.best_epoch,
            "steps": fitted.steps,
            "stopped_early": fitted.stopped_early,
            "test": metrics_of(*predict(model, natural(test))) if tested and test is not None else None,
        }


def augmentation(
    name: str, counts: Sequence[int], *, mean: Tensor | None = None, std: Tensor | None = None, **options: Any
) -> Augmentation:
    """Build an augmentation of AUGMENTATIONS for training rows of these classes.

    Parameters
    ----------
    counts : sequence of int
        Rows of each class, by code.
    mean, std : Tensor [features], optional
        Of the training rows' features.
    **options
        Parameters of the augmentation.
    """
    known: dict[str, dict[str, Any]] = {
        "gaussian_noise": {"std": std},
        "feature_dropout": {"fill": 0.0 if mean is None else mean},
        "mixup": {"classes": len(counts)},
        "remix": {"counts": counts},
    }
    return AUGMENTATIONS[name](**{**known[name], **options})


def check_corrected_once(balance: Any, weight: str, means: Mapping[Any, float]) -> None:
    """Refuse weights, of these means by class, that make up for the classes' shares where batches do so too."""
    if balance in ("natural", "weight") or max(means.values()) < CORRECTING_WEIGHTS * min(means.values()):
        return
    shown = ", ".join(f"{mean:.3g} of {label!r}" for label, mean in means.items())
    raise SparkimbError(
        f"balance is {balance!r}, and the weights of column '{weight}' make up for the classes' shares too: their "
        f"means are {shown}. Use balance 'natural' or 'weight', or rows without weights."
    )


def _weights_by_class(loader: Loader, classes: int) -> list[float]:
    sums = torch.zeros(classes, dtype=torch.float64)
    for batch in loader:
        assert batch.weights is not None
        sums.index_add_(0, batch.labels, batch.weights.double())
    return [float(total) for total in sums]


def train_mlp_rank(
    *,
    device: str | None = None,
    ranks_timeout: float = RANKS_TIMEOUT,
    failure: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Do `train_mlp` as one rank of those that torchrun, or pyspark's TorchDistributor, started.

    Parameters
    ----------
    device : {"cuda", "cpu"}, optional
        See `fit`.  Ranks meet over NCCL on GPUs, and over gloo on CPUs.
    ranks_timeout : float, default=3600
        The longest wait of ranks for one another, in seconds; rank 0 alone measures the validation rows meanwhile.
    failure : str, optional
        A file that does not exist: the first rank to raise a SparkimbError writes its sentence there, for who started
        the ranks and learns of their exit status only.
    **options
        Of `train_mlp`.
    """
    where = device_of_rank(device)
    distributed.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=timedelta(seconds=ranks_timeout))
    try:
        return train_mlp(device=where, **options)
    except SparkimbError as error:
        if failure is not None and not Path(failure).exists():
            Path(failure).write_text(str(error), encoding="utf-8")
        raise
    finally:
        distributed.destroy_process_group()
