"""The loader: every row once, the classes as asked, the same batches again, from any step on."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from feed.data import write_training_set
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparkimb.errors import NotEnoughSamplesError, SparkimbError
from sparkimb.feed.loader import Batch, Loader
from sparkimb.feed.manifest import DIRECTORY, Manifest
from sparkimb.feed.torch import make_torch_loader

COUNTS = (900, 95, 5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32], NDArray[np.int32]]:
    path: Path = tmp_path_factory.mktemp("loader") / "set"
    return path, *write_training_set(path, COUNTS, weights=True)


@pytest.fixture(scope="module")
def path(data: tuple[Path, Any, Any]) -> str:
    return str(data[0])


@pytest.fixture(scope="module")
def array_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("loader") / "array"
    write_training_set(path, COUNTS, layout="array")
    return str(path)


@pytest.fixture(scope="module")
def bytes_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rows as the bytes of their four floats."""
    path: Path = tmp_path_factory.mktemp("loader") / "bytes"
    write_training_set(path, COUNTS, layout="array")
    content = json.loads((path / DIRECTORY / "part-00000.txt").read_text())
    for shard in content["shards"]:
        table = pq.read_table(path / shard["file"])
        rows = [np.array(row, np.float32).tobytes() for row in table.column("features").to_pylist()]
        pq.write_table(table.set_column(0, "features", pa.array(rows)), path / shard["file"], row_group_size=50)
        shard["bytes"] = (path / shard["file"]).stat().st_size
    content |= {"layout": "bytes", "width": 0}
    (path / DIRECTORY / "part-00000.txt").write_text(json.dumps(content))
    return str(path)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    left = [thread for thread in threading.enumerate() if thread.name == "sparkimb-feed"]
    assert not left


def rows_in(batches: list[Batch]) -> NDArray[np.int64]:
    return torch.cat([batch.features[:, 0] for batch in batches]).long().numpy()


def equal(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a.features, b.features) and torch.equal(a.labels, b.labels)
        for a, b in zip(left, right, strict=True)
    )


@given(
    batch_size=st.integers(1, 400),
    shuffle_rows=st.integers(0, 1200),
    world_size=st.integers(1, 5),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_a_natural_epoch_has_every_row_once(
    data: tuple[Path, NDArray[np.float32], NDArray[np.int32]],
    batch_size: int,
    shuffle_rows: int,
    world_size: int,
    drop_last: bool,
    epoch: int,
) -> None:
    path, features, codes = data
    drop_last = drop_last and batch_size <= 1000 // world_size
    seen = []
    for rank in range(world_size):
        loader = make_torch_loader(
            str(path), batch_size, shuffle_rows=shuffle_rows, rank=rank, world_size=world_size, drop_last=drop_last
        )
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert {len(batch.labels) for batch in batches[:-1]} <= {batch_size}
        rows = rows_in(batches)
        assert (torch.cat([batch.features for batch in batches]).numpy() == features[rows]).all()
        assert (torch.cat([batch.labels for batch in batches]).numpy() == codes[rows]).all()
        due = 1000 // world_size
        assert len(rows) == (due // batch_size * batch_size if drop_last else due)
        seen.append(rows)
    assert len(np.unique(np.concatenate(seen))) == sum(len(rows) for rows in seen)


@pytest.mark.parametrize("balance", ["natural", "uniform", "weight"])
def test_batches_are_plain_tensors(balance: Any, path: str) -> None:
    batch = next(iter(make_torch_loader(path, 64, balance=balance, return_weights=True, shuffle_rows=300)))
    assert (batch.features.dtype, batch.labels.dtype) == (torch.float32, torch.int64)
    assert batch.features.is_contiguous()
    assert batch.features.shape == (64, 4)
    assert batch.weights is not None
    assert torch.equal(batch.weights, 1 + batch.features[:, 0] % 3)


@pytest.mark.parametrize("balance", ["natural", "uniform", "sqrt", "weight", {0: 0.2, 1: 0.3, 2: 0.5}])
@pytest.mark.parametrize("shuffle_rows", [0, 170])
def test_resuming_at_any_step_gives_the_uninterrupted_run(balance: Any, shuffle_rows: int, path: str) -> None:
    def loader(workers: int) -> Loader:
        settings = {"shuffle_rows": shuffle_rows, "rank": 1, "world_size": 2}
        return make_torch_loader(path, 60, balance=balance, workers=workers, **settings)  # type: ignore[arg-type]

    first = loader(1)
    states, batches = [first.state_dict()], []
    for _ in range(2):
        for batch in first:
            batches.append(batch)
            states.append(json.loads(json.dumps(first.state_dict())))
    assert len(batches) == 2 * len(first) == 18
    for step, state in enumerate(states[:-1]):
        again = loader(1 + step % 4)
        again.load_state_dict(state)
        rest = list(again)
        if step < 9:
            rest += list(again)
        assert equal(rest, batches[step:])


@pytest.mark.parametrize("balance", ["natural", "uniform", "weight"])
def test_workers_change_nothing_and_epochs_and_seeds_do(balance: Any, path: str) -> None:
    def epoch(number: int = 0, **kwargs: Any) -> list[Batch]:
        with make_torch_loader(path, 64, balance=balance, shuffle_rows=300, **kwargs) as loader:
            loader.set_epoch(number)
            return list(loader)

    assert equal(epoch(), epoch(workers=4))
    for other in (epoch(1), epoch(seed=1)):
        assert not equal(epoch()[:1], other[:1])


def test_layouts_give_the_same_batches(path: str, array_path: str, bytes_path: str) -> None:
    def decode(row: bytes) -> torch.Tensor:
        return torch.tensor(np.frombuffer(row, np.float32).copy())

    for balance in ("natural", "uniform"):
        expected = list(make_torch_loader(path, 64, balance=balance, shuffle_rows=300))  # type: ignore[arg-type]
        array = list(make_torch_loader(array_path, 64, balance=balance, shuffle_rows=300))  # type: ignore[arg-type]
        encoded = make_torch_loader(
            bytes_path,
            64,
            balance=balance,  # type: ignore[arg-type]
            shuffle_rows=300,
            decode=decode,
            workers=3,
        )
        assert equal(array, expected)
        assert equal(list(encoded), expected)


def test_an_error_in_decode_is_the_users(bytes_path: str) -> None:
    def decode(row: bytes) -> torch.Tensor:
        raise OSError("no image")

    with pytest.raises(OSError, match="no image"):
        list(make_torch_loader(bytes_path, 64, decode=decode))


@given(
    share=st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
    batch_size=st.integers(8, 200),
    shuffle_rows=st.integers(0, 1200),
    rank=st.integers(0, 1),
)
@settings(max_examples=30, deadline=None)
def test_every_batch_has_its_classes(
    path: str, share: list[float], batch_size: int, shuffle_rows: int, rank: int
) -> None:
    balance = {code: weight / sum(share) for code, weight in enumerate(share)}
    loader = make_torch_loader(path, batch_size, balance=balance, shuffle_rows=shuffle_rows, rank=rank, world_size=2)
    batches = list(loader)
    assert len(batches) == len(loader) == -(-500 // batch_size)
    assert sum(len(batch.labels) for batch in batches) == 500
    for batch in batches:
        counts = np.bincount(batch.labels, minlength=3)
        due = np.array(list(balance.values())) * len(batch.labels)
        assert (np.abs(counts - due) < 1 + 1e-6).all()


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shuffle_rows", [0, 200, 2000])
def test_rows_are_drawn_by_one_rank_and_rare_ones_equally_often(
    data: tuple[Path, NDArray[np.float32], NDArray[np.int32]], world_size: int, shuffle_rows: int
) -> None:
    path, _, codes = data
    ranks = [
        rows_in(list(make_torch_loader(str(path), 50, balance="uniform", shuffle_rows=shuffle_rows, **place)))
        for place in ({"rank": rank, "world_size": world_size} for rank in range(world_size))
    ]
    times = np.stack([np.bincount(rows, minlength=1000) for rows in ranks])
    assert ((times > 0).sum(axis=0) <= 1).all()
    # Class 2 has five rows, fewer than windows of 200 rows: all are drawn, though some windows have none.
    assert (times[:, codes == 2].sum(axis=0) > 0).all()
    for drawn in times[:, codes == 2]:
        assert np.ptp(drawn[drawn > 0]) <= 1


def test_a_windows_rows_are_drawn_equally_often(
    data: tuple[Path, NDArray[np.float32], NDArray[np.int32]],
) -> None:
    path, _, codes = data
    times = np.bincount(rows_in(list(make_torch_loader(str(path), 50, balance="uniform"))), minlength=1000)
    assert (times[codes == 0] <= 1).all()
    assert np.ptp(times[codes == 1]) <= 1
    assert times[codes == 1].sum() == pytest.approx(1000 / 3, abs=5)


def test_weights_are_probabilities(path: str) -> None:
    """Rows have the weights 1, 2 and 3 in turn."""
    loader = make_torch_loader(path, 100, balance="weight", shuffle_rows=400)
    drawn = np.concatenate([rows_in(list(loader)) for _ in range(20)])
    found = np.bincount(drawn % 3, minlength=3) / len(drawn)
    assert np.allclose(found, np.array([1, 2, 3]) / 6, atol=0.015)  # four standard errors of 20,000 draws


def test_leaving_a_loop_begins_the_epoch_again_and_ends_its_threads(path: str) -> None:
    loader = make_torch_loader(path, 64, shuffle_rows=100, workers=2)
    first = list(loader)
    loader.set_epoch(0)
    for _ in loader:
        assert any(thread.name == "sparkimb-feed" for thread in threading.enumerate())
        break
    assert not any(thread.name == "sparkimb-feed" for thread in threading.enumerate())
    older = iter(loader)
    next(older)
    assert equal(list(loader), first)
    assert list(older) == []  # ended by the newer one


def test_set_epoch_of_the_current_epoch_keeps_the_position(path: str) -> None:
    loader = make_torch_loader(path, 64)
    iterator = iter(loader)
    head = [next(iterator) for _ in range(3)]
    state = loader.state_dict()
    again = make_torch_loader(path, 64)
    again.load_state_dict(state)
    again.set_epoch(0)
    assert equal(head + list(again), head + list(iterator))
    assert loader.epoch == again.epoch == 1


def test_states_of_other_data_or_settings_are_refused(path: str, array_path: str) -> None:
    state = make_torch_loader(path, 64, shuffle_rows=100).state_dict()
    with pytest.raises(SparkimbError, match="batch_size was 64 and is 32, shuffle_rows was 100 and is 200000"):
        make_torch_loader(path, 32).load_state_dict(state)
    with pytest.raises(SparkimbError, match="another training set"):
        make_torch_loader(array_path, 64, shuffle_rows=100).load_state_dict(state)
    with pytest.raises(SparkimbError, match="format version 9"):
        make_torch_loader(path, 64, shuffle_rows=100).load_state_dict({**state, "format_version": 9})
    uniform = make_torch_loader(path, 64, shuffle_rows=100, balance="uniform")
    with pytest.raises(SparkimbError, match="balance was 'natural' and is 'uniform'"):
        uniform.load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 0}, SparkimbError, "batch_size is 0. It must be 1 or more"),
        ({"batch_size": 64.0}, TypeError, "batch_size is 64.0. It must be an integer"),
        ({"shuffle_rows": -1}, SparkimbError, "shuffle_rows is -1"),
        ({"seed": 1 << 32}, SparkimbError, "seed is 4294967296"),
        ({"workers": 0}, SparkimbError, "workers is 0"),
        ({"rank": 2, "world_size": 2}, SparkimbError, "rank is 2, and world_size is 2"),
        ({"rank": 2}, SparkimbError, "Pass both or neither"),
        ({"rank": 0, "world_size": 21}, SparkimbError, "world_size is 21, but .* only 20 row groups"),
        ({"batch_size": 1001, "drop_last": True}, SparkimbError, "only 1000 rows, and drop_last is True"),
        ({"decode": bytes}, SparkimbError, "layout is 'scalars', and decode is"),
    ],
)
def test_settings_that_cannot_be_met(settings: dict[str, Any], error: Any, message: str, path: str) -> None:
    with pytest.raises(error, match=message):
        make_torch_loader(path, **{"batch_size": 64, **settings})


def test_a_class_of_fewer_rows_than_ranks_is_refused(path: str) -> None:
    with pytest.raises(NotEnoughSamplesError, match="Class 2 has 5 rows, fewer than the 6 ranks"):
        make_torch_loader(path, 20, balance="uniform", rank=0, world_size=6)


def test_a_class_that_a_window_lacks_is_an_error(tmp_path: Path) -> None:
    """Rows sorted by class: the first files have class 0 alone."""
    write_training_set(tmp_path / "set", (900, 100))
    file = tmp_path / "set" / DIRECTORY / "part-00000.txt"
    content = json.loads(file.read_text())
    for i, shard in enumerate(content["shards"]):
        table = pq.read_table(tmp_path / "set" / shard["file"])
        codes = np.zeros(250, np.int32)
        codes[150:] = i == 3
        pq.write_table(
            table.set_column(4, "label", pa.array(codes)), tmp_path / "set" / shard["file"], row_group_size=50
        )
        shard |= {
            "bytes": (tmp_path / "set" / shard["file"]).stat().st_size,
            "counts": np.bincount(codes, minlength=2).tolist(),
        }
    file.write_text(json.dumps(content))
    loader = make_torch_loader(str(tmp_path / "set"), 20, balance="uniform", shuffle_rows=400)
    with pytest.raises(SparkimbError, match=r"Class 1 is due in every batch, but none of the .* rows of a window"):
        list(loader)


def test_it_is_an_iterable_dataset_of_one_process(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make_torch_loader(path, 64)
    expected = list(loader)
    loader.set_epoch(0)
    assert equal(list(torch.utils.data.DataLoader(loader, batch_size=None)), expected)
    monkeypatch.setattr("sparkimb.feed.loader.get_worker_info", lambda: object())
    with pytest.raises(SparkimbError, match="Pass num_workers=0"):
        iter(loader)


def test_a_missing_torch_is_named_with_its_extra() -> None:
    code = "import sys; sys.modules['torch'] = None; import sparkimb.feed.torch"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'ImportError: PyTorch is not installed. Install it with: pip install "sparkimb[torch]"' in process.stderr


def test_rows_that_are_not_the_manifests_are_an_error(tmp_path: Path) -> None:
    write_training_set(tmp_path / "set", (900, 100))
    file = tmp_path / "set" / DIRECTORY / "part-00000.txt"
    content = json.loads(file.read_text())
    content["shards"][2]["counts"] = [224, 26]
    file.write_text(json.dumps(content))
    with pytest.raises(
        SparkimbError, match=r"'part-00002.parquet' gave 225 rows of 0, 25 rows of 1, and written were 224 rows of 0"
    ):
        list(make_torch_loader(str(tmp_path / "set"), 64))
    assert Manifest.read(str(tmp_path / "set")).rows == 1000


def test_files_that_a_rank_reads_whole_are_counted_on_several_ranks_too(tmp_path: Path) -> None:
    """Of files of one row group, each is read whole by one rank or by two."""
    write_training_set(tmp_path / "set", (900, 100), rows_per_group=250)
    file = tmp_path / "set" / DIRECTORY / "part-00000.txt"
    content = json.loads(file.read_text())
    content["shards"][2]["counts"] = [224, 26]
    file.write_text(json.dumps(content))
    said = []
    for rank in range(3):
        try:
            list(make_torch_loader(str(tmp_path / "set"), 64, rank=rank, world_size=3))
        except SparkimbError as error:
            said.append(str(error))
    assert said
    assert all("'part-00002.parquet' gave 225 rows of 0, 25 rows of 1" in sentence for sentence in said)
