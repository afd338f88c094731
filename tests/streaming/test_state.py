"""StateTable: what was written comes back, versions follow one another, and what is not so is told with its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from sparkimb.errors import SparkimbError
from sparkimb.streaming.state import StateTable


@pytest.fixture
def table(tmp_path: Path) -> StateTable:
    return StateTable(path=str(tmp_path / "state"), versions=2)


def only_file(table: StateTable, batchId: int) -> Path:
    return next(Path(table.slot(batchId)).glob("part-*"))


def test_versions_come_back_and_take_turns(spark: SparkSession, table: StateTable) -> None:
    assert table.before(spark, 0) is None
    states = [{"n": n, "text": 'é "\n', "numbers": [0.1 + n, 1e-300]} for n in range(4)]
    for batchId, state in enumerate(states):
        table.write(spark, batchId, state)
        assert table.before(spark, batchId + 1) == state
    assert table.before(spark, 3) == states[2]
    assert len(list(Path(table.path).iterdir())) == 2
    with pytest.raises(SparkimbError, match="is of batch 3, but the checkpoint goes on from batch 1"):
        table.before(spark, 2)


def test_a_batch_written_again_leaves_the_same_bytes(spark: SparkSession, table: StateTable) -> None:
    state = {"b": 1, "a": [1.5, None]}
    table.write(spark, 5, state)
    first = only_file(table, 5).read_bytes()
    table.write(spark, 5, dict(reversed(state.items())))
    assert only_file(table, 5).read_bytes() == first


def test_a_state_that_is_not_there_is_told(spark: SparkSession, table: StateTable) -> None:
    with pytest.raises(SparkimbError, match=rf"state after batch 6 is not in '{table.slot(6)}'.*empty checkpoint"):
        table.before(spark, 7)


@pytest.mark.parametrize("with_crc", [True, False])
def test_a_damaged_file_is_told_by_name(spark: SparkSession, table: StateTable, with_crc: bool) -> None:
    table.write(spark, 0, {"sizes": [["a", 0.25]]})
    file = only_file(table, 0)
    file.write_bytes(file.read_bytes().replace(b"0.25", b"0.26"))
    if not with_crc:  # Hadoop's own checksum beside the file finds the damage first where it is there
        file.with_name(f".{file.name}.crc").unlink()
    with pytest.raises(SparkimbError, match=r"slot=0.*Put the file back from a copy") as caught:
        table.before(spark, 1)
    assert file.name in str(caught.value)


@pytest.mark.parametrize("content", ["", "no state at all", "00 {}"])
def test_files_that_hold_no_state_are_told_by_name(spark: SparkSession, table: StateTable, content: str) -> None:
    slot = Path(table.slot(0))
    slot.mkdir(parents=True)
    (slot / "part-0").write_text(content)
    with pytest.raises(SparkimbError, match="slot=0"):
        table.before(spark, 1)


def test_a_newer_format_is_not_read(spark: SparkSession, table: StateTable, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sparkimb.streaming.state.FORMAT_VERSION", 2)
        table.write(spark, 0, {})
    with pytest.raises(SparkimbError, match="format version 2, and this sparkimb reads version 1"):
        table.before(spark, 1)


def test_a_table_of_another_number_of_versions_is_told(spark: SparkSession, table: StateTable) -> None:
    for batchId in (4, 5):
        StateTable(path=table.path, versions=8).write(spark, batchId, {"n": batchId})
    with pytest.raises(SparkimbError, match=r"state after batch 5 is in '.*slot=5/part-.*versions.*Set it as it was"):
        table.before(spark, 6)  # in slot 1, where nothing is
    StateTable(path=table.path, versions=8).write(spark, 9, {"n": 9})
    with pytest.raises(SparkimbError, match=r"state after batch 5 is in '.*slot=5/"):
        table.before(spark, 6)  # in slot 1, where the state of batch 9 is
    assert table.read(spark, 4 + 5) == {"n": 9}
