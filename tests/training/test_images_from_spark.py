"""Real images from Spark's files to scores on Spark: training set, loader, augmentation, two stages, scoring."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONNECT
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.optim import AdamW

from sparkimb.feed import materialize
from sparkimb.feed.torch import make_torch_loader
from sparkimb.training import augment, fit, losses, transfer
from sparkimb.training.scoring import probability_udf

Image = pytest.importorskip("PIL.Image")

RARE = 8  # the digit that is made rare
KEPT = 24  # images of it that are trained on


def decode(content: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)), dtype=np.float32))[None] / 255


def network() -> nn.Sequential:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(backbone, nn.Linear(16 * 4 * 4, 2))


@pytest.mark.slow
@pytest.mark.skipif(CONNECT, reason="what reads and writes images is tested on Connect in test_feed_parquet.py")
def test_a_rare_digit_is_found(spark: SparkSession, tmp_path: Path) -> None:
    digits = load_digits()
    rare = digits.target == RARE
    order = np.random.default_rng(0).permutation(len(rare))
    held_out, rest = order[:500], order[500:]
    trained = np.concatenate([rest[~rare[rest]][:500], rest[rare[rest]][:KEPT]])
    pixels = (digits.images * 15).astype(np.uint8)
    for i in trained:
        folder = tmp_path / "images" / f"rare={int(rare[i])}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(folder / f"{i}.png")
    rows = spark.read.format("binaryFile").load(str(tmp_path / "images"))
    manifest = materialize(
        rows,
        str(tmp_path / "train"),
        imageCol="content",
        labelCol="rare",
        idCols=["path"],
        shards=2,
        rows_per_group=300,
    )
    assert manifest.counts == (len(trained) - KEPT, KEPT)

    def loader(**settings: object) -> object:
        return make_torch_loader(str(tmp_path / "train"), 64, shuffle_rows=1_000, decode=decode, **settings)  # type: ignore[arg-type]

    def train(epochs: int, **settings: object) -> None:
        fit(
            model,
            loader(**settings),
            loss=losses.from_counts("cross_entropy", [1, 1]),
            epochs=epochs,
            optimizer=AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01),
            augment=augment.RandomCrop(padding=1, probability={0: 0.2, 1: 0.8}),
        )

    model = network()
    train(16)
    transfer.retrain_classifier(model, model[1])
    train(8, balance="uniform")

    flat = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), model)
    score = probability_udf(flat, width=64)
    test = spark.createDataFrame(
        [(int(i), (pixels[i] / 255).ravel().tolist()) for i in held_out], "id int, pixels array<double>"
    )
    found = {row["id"]: row["score"] for row in test.select("id", score(F.col("pixels")).alias("score")).collect()}
    assert average_precision_score(rare[held_out], [found[i] for i in held_out]) > 0.8  # by chance: a tenth
