"""Delta tables as source and sink: what Spark wrote, as the other implementation of Delta reads it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from stream import StreamJob
from stream_config import Stream

from sparkimb.datasets import drifting
from sparkimb.errors import SparkimbError
from sparkimb.streaming.sinks import DeltaSink

pytest_plugins = ["connected"]


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = DeltaTable(str(path)).to_pyarrow_table().to_pylist()
    return rows


def contents(path: Path) -> Counter[str]:
    return Counter(map(repr, rows_of(path)))


def test_a_batch_is_appended_once(connected: SparkSession, tmp_path: Path) -> None:
    sink = DeltaSink(path=f"{tmp_path}/rows", application="one")
    sink.write(connected.range(3), 0)
    sink.write(connected.range(3, 5), 1)
    sink.write(connected.range(3, 5).repartition(2), 1)
    sink.write(connected.range(3), 0)
    assert contents(tmp_path / "rows") == Counter(f"{{'id': {i}}}" for i in range(5))
    table = DeltaTable(f"{tmp_path}/rows")
    assert table.version() == 1
    assert table.transaction_version("one") == 1
    DeltaSink(path=f"{tmp_path}/rows", application="two").write(connected.range(2), 0)
    assert sum(contents(tmp_path / "rows").values()) == 7


def append(connected: SparkSession, source: Path, number: int, *more: str) -> None:
    rows = drifting(connected, 2000, minority=0.2, partitions=1).where(f"id div 200 = {number}").selectExpr("*", *more)
    rows.coalesce(1).write.format("delta").mode("append").option("mergeSchema", True).save(str(source))


def test_from_table_to_table(connected: SparkSession, tmp_path: Path) -> None:
    source, sink = tmp_path / "in", tmp_path / "weighted"
    given: dict[str, Any] = {
        "name": "weigh",
        "source": {"format": "delta", "path": str(source), "options": {"maxFilesPerTrigger": 1}},
        "columns": {"label": "label", "numeric": ["f0", "f1"], "id": ["id"]},
        "balance": {"method": "weigh", "warmUpRows": 100},
        "sink": {"format": "delta", "path": str(sink)},
        "output": {"path": f"{tmp_path}/out"},
    }

    def run() -> list[dict[str, Any]]:
        return sorted(
            StreamJob(Stream.model_validate(given), connected).run()["batches"], key=lambda figures: figures["batchId"]
        )

    for number in range(3):
        append(connected, source, number)
    figures = run()
    assert len(figures) == 3
    once = contents(sink)
    assert sorted(row["id"] for row in rows_of(sink)) == list(range(600))
    weights = {(row["label"], row["weight"]) for row in rows_of(sink) if row["id"] >= 400}
    assert {str(label): weight for label, weight in weights} == pytest.approx(figures[2]["rates"])

    for name in ("2", ".2.crc"):  # as if the driver had died before the last batch was committed
        (tmp_path / "out" / "checkpoint" / "commits" / name).unlink()
    run()
    assert contents(sink) == once
    assert DeltaTable(str(sink)).version() == 2

    append(connected, source, 3, "'x' as channel")  # a column more: the stream reads it, the sink does not know it
    with pytest.raises(SparkimbError, match=r"^The stream stopped after batch 2: .*Nothing is lost"):
        run()
    assert contents(sink) == once
    given["sink"]["options"] = {"mergeSchema": True}
    assert sum(sum(row["rowsIn"].values()) for row in run()) == 800
    later = [row for row in rows_of(sink) if row["id"] >= 600]
    assert [row["channel"] for row in later] == ["x"] * 200
