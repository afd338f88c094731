"""The loader gives the same batches whichever engine reads its rows."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feed.data import write_training_set

from sparkimb.errors import SparkimbError
from sparkimb.feed.manifest import DIRECTORY, Manifest

torch = pytest.importorskip("torch")
if find_spec("petastorm") is None:
    pytest.skip("petastorm is not installed", allow_module_level=True)

from sparkimb.feed import petastorm as by_petastorm  # noqa: E402
from sparkimb.feed import torch as by_pyarrow  # noqa: E402

BALANCES = ["natural", "uniform", "sqrt", "weight", {0: 0.7, 1: 0.3}]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("loader") / "set"
    write_training_set(path, weights=True)
    return str(path)


def same(ours: Iterator[Any], theirs: Iterator[Any]) -> int:
    """Return how many batches there were, all alike."""
    n = 0
    for one, other in zip(ours, theirs, strict=True):
        for x, y in zip(one, other, strict=True):
            assert x is y is None or (x.dtype == y.dtype and torch.equal(x, y))
        n += 1
    return n


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("balance", BALANCES, ids=str)
@pytest.mark.parametrize("shuffle_rows", [0, 300])
def test_batches_are_those_of_the_pyarrow_engine(path: str, balance: Any, workers: int, shuffle_rows: int) -> None:
    settings = {"balance": balance, "shuffle_rows": shuffle_rows, "seed": 7, "return_weights": True}
    with (
        by_petastorm.make_torch_loader(path, 64, workers=workers, **settings) as ours,
        by_pyarrow.make_torch_loader(path, 64, **settings) as theirs,
    ):
        for _ in range(3):
            assert same(iter(ours), iter(theirs)) == len(ours)


@pytest.mark.parametrize("balance", ["natural", "uniform"])
def test_ranks(path: str, balance: str) -> None:
    for rank in range(3):
        settings = {"balance": balance, "shuffle_rows": 100, "rank": rank, "world_size": 3, "drop_last": True}
        with (
            by_petastorm.make_torch_loader(path, 32, workers=2, **settings) as ours,
            by_pyarrow.make_torch_loader(path, 32, **settings) as theirs,
        ):
            assert same(iter(ours), iter(theirs)) == len(ours)


@pytest.mark.parametrize("balance", ["natural", "uniform"])
def test_a_state_of_one_engine_is_gone_on_with_by_the_other(path: str, balance: str) -> None:
    make = by_petastorm.make_torch_loader, by_pyarrow.make_torch_loader
    for first, second in (make, make[::-1]):
        with first(path, 64, balance=balance) as loader, second(path, 64, balance=balance) as resumed:
            batches = iter(loader)
            list(islice(batches, 5))
            resumed.load_state_dict(loader.state_dict())
            assert same(batches, iter(resumed)) == len(loader) - 5
            assert same(iter(loader), iter(resumed)) == len(loader)


def test_an_iteration_left_early_begins_again(path: str) -> None:
    with by_petastorm.make_torch_loader(path, 64) as loader, by_petastorm.make_torch_loader(path, 64) as other:
        for _ in range(3):
            next(iter(loader))
        assert same(iter(loader), iter(other)) == len(loader)


def test_arrays_and_encoded_bytes(tmp_path: Path) -> None:
    write_training_set(tmp_path / "array", layout="array")
    write_training_set(tmp_path / "bytes", layout="array", width=3)
    manifest = Manifest.read(str(tmp_path / "bytes"))
    shards = []
    for shard in manifest.shards:
        file = tmp_path / "bytes" / shard.file
        table = pq.read_table(file)
        rows = [np.array(row, np.float32).tobytes() for row in table["features"].to_pylist()]
        table = table.set_column(0, "features", pa.array(rows, pa.binary()))
        pq.write_table(table, file, row_group_size=50)
        shards.append(replace(shard, bytes=file.stat().st_size))
    manifest = replace(manifest, layout="bytes", width=0, shards=tuple(shards))
    next((tmp_path / "bytes" / DIRECTORY).iterdir()).write_text(manifest.to_json())

    def decode(row: bytes) -> Any:
        return torch.frombuffer(bytearray(row), dtype=torch.float32)

    for layout in ("array", "bytes"):
        settings = {"decode": decode if layout == "bytes" else None, "workers": 2, "balance": "uniform"}
        with (
            by_petastorm.make_torch_loader(str(tmp_path / layout), 64, **settings) as ours,
            by_pyarrow.make_torch_loader(str(tmp_path / layout), 64, **settings) as theirs,
        ):
            assert same(iter(ours), iter(theirs)) == len(ours)


def test_both_have_one_signature_and_refuse_alike(path: str, tmp_path: Path) -> None:
    makers = by_petastorm.make_torch_loader, by_pyarrow.make_torch_loader
    assert inspect.signature(makers[0]) == inspect.signature(makers[1])
    for where, settings in ((path, {"balance": "none"}), (str(tmp_path), {}), (path, {"decode": bytes})):
        messages = []
        for make in makers:
            with pytest.raises(SparkimbError) as refusal:
                make(where, 64, **settings)
            messages.append(str(refusal.value))
        assert messages[0] == messages[1]
