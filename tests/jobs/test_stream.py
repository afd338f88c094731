"""The stream job: what it writes, how it stops and goes on, and the sentence for each mistake."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from config import load
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import SQLTransformer, VectorAssembler
from pyspark.sql import functions as F
from stream import StreamJob, status_line
from stream_config import Stream

from sparkimb import datasets
from sparkimb.errors import SparkimbError

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEMO = yaml.safe_load((ROOT / "conf" / "stream" / "demo.yaml").read_text())
# Of one stream: how many rows go out of which batch hangs on the batches before it.
BALANCE = {"method": "under", "ratio": 0.5, "halfLife": 2000.0, "warmUpRows": 100}
COLUMNS = {"label": "label", "positive": 1, "numeric": ["f0", "f1"], "id": ["id"], "time": "event_time"}
SCHEMA = "id bigint, event_time timestamp, label int, f0 double, f1 double, f2 double"

classic = pytest.mark.skipif(
    os.environ.get("SPARKIMB_SPARK") == "connect", reason="jobs run under spark-submit, on a classic session"
)


def settings(source: Path, out: Path, **sections: Any) -> dict[str, Any]:
    return {
        "name": "test",
        "source": {"format": "parquet", "path": str(source), "schema": SCHEMA, "options": {"maxFilesPerTrigger": 1}},
        "columns": COLUMNS,
        "balance": BALANCE,
        "output": {"path": str(out)},
    } | sections


def run(spark, given: dict[str, Any]) -> dict[str, Any]:
    return StreamJob(Stream.model_validate(given), spark).run()


def refusal(spark, given: dict[str, Any]) -> str:
    with pytest.raises(SparkimbError) as caught:
        run(spark, given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def add_file(spark, folder: Path, number: int, **columns: str) -> None:
    """Add file `number` of a source, of 200 rows; a source takes its files by their time."""
    rows = datasets.drifting(spark, 2000, minority=0.2, partitions=1)
    rows = rows.where((F.col("id") >= 200 * number) & (F.col("id") < 200 * number + 200))
    changed = rows.selectExpr(*(columns.get(name, name) for name in rows.columns))
    changed.coalesce(1).write.parquet(f"{folder}.aside", mode="overwrite")
    (file,) = Path(f"{folder}.aside").glob("part-*.parquet")
    os.utime(file, (1_700_000_000 + number,) * 2)
    folder.mkdir(exist_ok=True)
    shutil.move(file, folder / f"{number}.parquet")


def batches(spark, folder: Path) -> dict[int, Counter[str]]:
    """Return the rows of each batch."""
    found = {}
    for batch in sorted(folder.glob("batch=*"), key=lambda path: path.name):
        assert (batch / "_SUCCESS").exists()
        rows = spark.read.parquet(str(batch)).collect()
        found[int(batch.name.removeprefix("batch="))] = Counter(map(repr, rows))
    return found


# ---- what a run leaves


@pytest.mark.slow
@classic
def test_the_demo(spark, tmp_path, capsys):
    given = deepcopy(DEMO)
    given["source"]["generate"] |= {"rows": 12_000, "files": 4}
    given["output"] = {"path": str(tmp_path / "out")}
    results = run(spark, given)
    out = tmp_path / "out"

    assert {path.name for path in out.glob("[!.]*")} == {
        *("checkpoint", "config.yaml", "dead_letters", "events", "metrics", "report.html", "rows", "source"),
        *("state", "status", "stream.json"),
    }
    dead = {row["id"]: row["reason"] for row in spark.read.parquet(f"{out}/dead_letters").collect()}
    assert dead == {
        **dict.fromkeys((77, 5077, 10077), "label 'label' is null"),
        **dict.fromkeys((99, 7099), "feature 'f2' is null, NaN or infinite"),
    }
    status = sorted(results["batches"], key=lambda row: row["batchId"])
    assert [row["batchId"] for row in status] == [0, 1, 2, 3]
    assert sum(n for row in status for n in row["rowsIn"].values()) == 12_000 - len(dead)
    written = spark.read.parquet(f"{out}/rows")
    assert {(r["batch"], str(r["label"])): r["count"] for r in written.groupBy("batch", "label").count().collect()} == {
        (row["batchId"], label): n for row in status for label, n in row["rowsOut"].items()
    }
    assert written.count() == written.select("id").distinct().count()
    last = status[-1]["rowsOut"]
    assert last["1"] == pytest.approx(0.5 * last["0"], rel=0.35)

    metrics = sorted(results["metrics"], key=lambda row: (row["batchId"], row["step"]))
    assert metrics[0]["gMean"] > 0.95  # the model knows the concept before the drift
    assert metrics[-1]["gMean"] < 0.9
    alarms = [event for event in results["events"] if event["level"] == "alarm"]
    assert alarms, "the drift is told"
    assert min(event["batchId"] for event in alarms) == 2

    page = (out / "report.html").read_text()
    assert "ddmOci" in page
    assert "label &#39;label&#39; is null" in page
    printed = capsys.readouterr().out
    assert len(re.findall(r"^batch \d \| in 0: [\d,]+, 1: \d+ \| out .* \| lag [\d,]+ days \|", printed, re.M)) == 4
    assert "alarm: " in printed

    assert len(run(spark, given)["batches"]) == 4  # nothing is new
    assert "Goes on after batch 3." in capsys.readouterr().out
    assert "balance.ratio was 0.5 and is 0.4" in refusal(
        spark, {**given, "balance": {**given["balance"], "ratio": 0.4}}
    )
    given["output"]["overwrite"] = True
    given["source"]["generate"]["rows"] = 1_000
    assert sum(n for row in run(spark, given)["batches"] for n in row["rowsIn"].values()) == 998


# ---- sources that change


@classic
def test_a_column_of_another_type_ends_the_stream_and_loses_nothing(spark, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for number in (0, 1):
        add_file(spark, source, number)
    add_file(spark, source, 2, f1="concat('x', f1) as f1")

    said = refusal(spark, settings(source, out))
    assert said.startswith("The stream stopped after batch 1: ")
    assert "2.parquet" in said or "f1" in said
    assert "Nothing is lost" in said
    assert set(batches(spark, out / "rows")) == {0, 1}

    (source / "2.parquet").unlink()
    add_file(spark, source, 2)
    run(spark, settings(source, out))
    ids = {row["id"] for row in spark.read.parquet(f"{out}/rows").where("label = 1").collect()}
    given = datasets.drifting(spark, 2000, minority=0.2).where("label = 1 and id < 600")
    assert ids == {row["id"] for row in given.collect()}, "the minority passes whole"


@classic
def test_a_column_of_another_name_ends_the_stream_and_loses_nothing(spark, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    add_file(spark, source, 0)
    add_file(spark, source, 1, f1="f1 as amount")
    given = settings(source, out)
    said = refusal(spark, given)
    assert said.startswith("Batch 1 has 200 rows, of which 200 cannot be used: feature 'f1' is null, NaN or infinite")
    assert "Has the source changed?" in said

    given["source"] = {**given["source"], "schema": f"{SCHEMA}, amount double"}
    given["select"] = {"f1": "coalesce(f1, amount)"}
    results = run(spark, given)
    assert {row["batchId"]: sum(row["rowsIn"].values()) for row in results["batches"]} == {0: 200, 1: 200}
    assert not list((out / "dead_letters").glob("batch=*")), "of a batch that was not committed"


@classic
def test_a_poison_row_is_buried_and_the_stream_goes_on(spark, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    add_file(spark, source, 0)
    add_file(spark, source, 1)
    given = settings(
        source, out, select={"label": "if(id in (3, 205), null, label)", "f0": "if(id = 4, double('nan'), f0)"}
    )
    results = run(spark, given)
    assert sum(n for row in results["batches"] for n in row["rowsIn"].values()) == 397
    dead = spark.read.parquet(f"{out}/dead_letters").select("batch", "id", "reason").collect()
    assert sorted(dead) == [
        (0, 3, "label 'label' is null"),
        (0, 4, "feature 'f0' is null, NaN or infinite"),
        (1, 205, "label 'label' is null"),
    ]


# ---- what is there already


@classic
def test_directories_that_are_no_stream_s_are_spared(spark, tmp_path):
    add_file(spark, tmp_path / "in", 0)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters").touch()
    for overwrite in (False, True):
        given = settings(tmp_path / "in", tmp_path, output={"path": str(tmp_path / "home"), "overwrite": overwrite})
        assert "holds no stream.json" in refusal(spark, given)
    (tmp_path / "file").touch()
    given = settings(tmp_path / "in", tmp_path / "file" / "out")
    assert re.match(r"output\.path '.*' cannot be written: .*\. Name another\.$", refusal(spark, given))


@classic
def test_what_batches_wrote_is_deleted_only_when_told(spark, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    add_file(spark, source, 0)
    given = settings(source, out)
    StreamJob(Stream.model_validate(given), spark).open_output()  # as if it had died there
    (out / "checkpoint" / "offsets").mkdir(parents=True)
    run(spark, given)
    expected = batches(spark, out / "rows")
    shutil.rmtree(out / "checkpoint")
    said = refusal(spark, given)
    assert re.search(r"holds no checkpoint to go on from, but what batches wrote: state, status, .*/rows\. Put", said)
    assert batches(spark, out / "rows") == expected
    given["output"] = {"path": str(out), "overwrite": True}
    run(spark, given)
    assert batches(spark, out / "rows") == expected


@classic
def test_rows_outside_the_output_directory_are_replaced_with_it_and_spared_where_they_are_another_s(spark, tmp_path):
    for number in (0, 1):
        add_file(spark, tmp_path / "in", number)
    add_file(spark, tmp_path / "less", 0)
    sink = {"format": "parquet", "path": str(tmp_path / "rows")}
    given = settings(tmp_path / "in", tmp_path / "out", sink=sink)
    run(spark, given)
    assert set(batches(spark, tmp_path / "rows")) == {0, 1}
    (tmp_path / "rows" / "letters").touch()
    other = settings(tmp_path / "in", tmp_path / "other", sink=sink)
    for overwrite in (False, True):
        other["output"]["overwrite"] = overwrite
        assert "/rows' holds 'batch=0', and no stream.json in '" in refusal(spark, other)
    shutil.rmtree(tmp_path / "out" / "checkpoint")
    assert "holds no checkpoint to go on from" in refusal(spark, given)
    assert set(batches(spark, tmp_path / "rows")) == {0, 1}
    again = settings(tmp_path / "less", tmp_path / "out", sink=sink)
    again["output"]["overwrite"] = True
    run(spark, again)
    assert set(batches(spark, tmp_path / "rows")) == {0}
    assert (tmp_path / "rows" / "letters").exists()


@classic
def test_damage_is_told_in_a_sentence(spark, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    add_file(spark, source, 0)
    given = settings(source, out)
    run(spark, given)
    add_file(spark, source, 1)
    (state,) = (out / "state" / "slot=0").glob("part-*")
    kept = state.read_text()
    (out / "state" / "slot=0" / f".{state.name}.crc").unlink()
    state.write_text(kept[:-9])
    assert "is damaged: its checksum does not match" in refusal(spark, given)
    state.write_text(kept)
    offsets = out / "checkpoint" / "offsets" / "1"
    written = offsets.read_text()
    (offsets.parent / f".{offsets.name}.crc").unlink(missing_ok=True)
    offsets.write_text("v9\n{}")
    said = refusal(spark, given)
    assert said.startswith("The stream stopped after batch 0: ")
    offsets.write_text(written)
    assert len(run(spark, given)["batches"]) == 2
    (out / "stream.json").write_text("{")
    (out / ".stream.json.crc").unlink(missing_ok=True)
    assert "stream.json' is damaged" in refusal(spark, given)


# ---- other sources, and a model


@classic
def test_a_fitted_model_judges_the_rows(spark, tmp_path):
    add_file(spark, tmp_path / "in", 0)
    training = datasets.drifting(spark, 2000, minority=0.2)
    assembler = VectorAssembler(inputCols=["f0", "f1"], outputCol="features", handleInvalid="keep")
    model = Pipeline(stages=[assembler, LogisticRegression(maxIter=5)]).fit(training)
    model.write().save(f"{tmp_path}/model")
    given = settings(
        tmp_path / "in",
        tmp_path / "out",
        model={"path": f"{tmp_path}/model"},
        metrics={"score": "score"},
    )
    (measured,) = run(spark, given)["metrics"]
    assert measured["areaUnderROC"] > 0.95
    rows = spark.read.parquet(f"{tmp_path}/out/rows")
    assert set(rows.columns) == {*(field.split()[0] for field in SCHEMA.split(", ")), "prediction", "score", "batch"}
    given["model"] = {"path": f"{tmp_path}/none"}
    assert "model.path" in refusal(spark, {**given, "output": {"path": f"{tmp_path}/other"}})


@classic
def test_rows_that_wait_are_judged_with_their_features(spark, tmp_path):
    add_file(spark, tmp_path / "in", 0, label="cast(null as int) label")
    lacking = {name: f"cast(null as double) {name}" for name in ("f0", "f1", "f2")}
    add_file(spark, tmp_path / "in", 1, id="id - 200 as id", **lacking)
    said = "SELECT *, coalesce(cast(f0 + f1 <= 7 AS int), -1) AS prediction FROM __THIS__"
    PipelineModel([SQLTransformer(statement=said)]).write().save(f"{tmp_path}/model")
    given = settings(
        tmp_path / "in",
        tmp_path / "out",
        model={"path": f"{tmp_path}/model"},
        balance={"method": "weigh", "unlabelled": "wait"},
    )
    results = run(spark, given)
    assert sorted(row["waiting"] for row in results["batches"]) == [0, 200]
    rows = spark.read.parquet(f"{tmp_path}/out/rows")
    assert rows.where("prediction = cast(f0 + f1 <= 7 as int)").count() == 200


@classic
@pytest.mark.parametrize("form", ["csv", "json"])
def test_files_of_text(spark, tmp_path, form):
    fields = [field.split()[0] for field in SCHEMA.split(", ")]
    rows = datasets.drifting(spark, 200, minority=0.2, partitions=1)
    rows.select(fields).write.format(form).option("header", True).save(f"{tmp_path}/in")
    (tmp_path / "in" / f"torn.{form}").write_text(f"{','.join(fields)}\ntorn," if form == "csv" else '{"id": 7, "la')
    source = {"format": form, "path": f"{tmp_path}/in", "schema": SCHEMA}
    source["options"] = {"header": True} if form == "csv" else {}
    given = settings(tmp_path / "in", tmp_path / "out") | {"source": source}
    results = run(spark, given)
    assert sum(n for row in results["batches"] for n in row["rowsIn"].values()) == 200
    dead = spark.read.parquet(f"{tmp_path}/out/dead_letters").collect()
    assert [row["reason"] for row in dead] == ["label 'label' is null"]
    assert sorted(spark.read.parquet(f"{tmp_path}/out/rows").select(fields).collect()) == sorted(
        rows.select(fields).collect()
    )


@classic
def test_rows_that_spark_makes(spark, tmp_path):
    select = {"id": "value", "event_time": "timestamp", "label": "cast(value % 5 = 0 as int)"}
    select |= {"f0": "cast(value as double)", "f1": "sqrt(value)"}
    source = {"format": "rate-micro-batch", "options": {"rowsPerBatch": 300}}
    results = run(spark, settings(tmp_path, tmp_path / "out", select=select) | {"source": source})
    assert results["batches"][0]["rowsIn"] == {"0": 240, "1": 60}


@classic
def test_sources_and_expressions_that_spark_refuses(spark, tmp_path):
    given = settings(tmp_path / "in", tmp_path / "out")
    rate = {"format": "rate", "options": {"rowsPerSecond": 1}}
    for sections, said in (
        ({"source": {"format": "sheet"}}, "source 'sheet' cannot be read as sheet: "),
        ({"source": {**given["source"], "schema": "id bigint label"}}, "cannot be read as parquet: "),
        ({"source": rate, "select": {"label": "valu % 2"}}, "select.label is 'valu % 2', which Spark refuses: "),
        ({"source": rate, "select": {"label": "value % 2"}}, "timeCol 'event_time'"),
    ):
        assert said in refusal(spark, {**given, **sections})
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"stream.json", "config.yaml"}
    add_file(spark, tmp_path / "in", 0)
    assert len(run(spark, given)["batches"]) == 1  # as no batch had begun, the config may have been another


# ---- stop and go on

SESSION = {
    "spark.master": "local[2]",
    "spark.sql.shuffle.partitions": 2,
    "spark.ui.enabled": False,
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}


@pytest.mark.slow  # it starts drivers of its own
@classic
def test_sigterm_lets_the_batch_end_and_the_next_run_goes_on(spark, tmp_path):
    for number in range(6):
        add_file(spark, tmp_path / "in", number)
    given = settings(tmp_path / "in", tmp_path / "out", trigger={"processingTime": "0 seconds"}, spark=SESSION)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYSPARK_", "SPARK_"))}
    environment |= {"PATH": f"{BIN}{os.pathsep}{environment['PATH']}", "SPARK_LOCAL_IP": "127.0.0.1"}
    environment["PYTHONUNBUFFERED"] = "1"
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [str(BIN / "sparkimb"), "stream", "--config", f"{tmp_path}/config.yaml"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
        assert job.stdout is not None
        lines = []
        for line in job.stdout:
            lines.append(line)
            if line.startswith("batch 1 "):  # which is not committed yet
                job.send_signal(signal.SIGTERM)
        job.stdout.close()
        assert job.wait(120) == 0, "".join(lines) + (tmp_path / "log").read_text()
    assert any("Told to stop" in line for line in lines)
    assert any(line.startswith("Stopped after batch ") for line in lines)
    assert "Traceback" not in (tmp_path / "log").read_text()
    out = tmp_path / "out"
    stopped_after = max(int(path.name) for path in (out / "checkpoint" / "commits").glob("[0-9]*"))
    assert 1 <= stopped_after < 5
    assert "<html" in (out / "report.html").read_text()

    del given["trigger"]
    run(spark, given)
    run(spark, settings(tmp_path / "in", tmp_path / "whole"))
    expected = batches(spark, tmp_path / "whole" / "rows")
    assert len(expected) == 6
    assert batches(spark, out / "rows") == expected


# ---- configs


def test_a_status_line_of_many_classes():
    figures = {
        "batchId": 3,
        "rowsIn": {str(c): 2000 - c for c in range(9)},
        "rowsOut": {},
        "rates": {"0": 0.25, "8": 1.0},
        "rejected": {"x": 2, "y": 1},
        "unlabelled": 0,
        "waiting": None,
        "lagSeconds": 7300.0,
        "seconds": 1.234,
    }
    assert status_line(figures) == (
        "batch 3 | in 0: 2,000, 1: 1,999, 2: 1,998, 3: 1,997, 4: 1,996, 5: 1,995 and 3 classes more | out nothing | "
        "rates 0: 0.25, 8: 1 | rejected 3 | lag 2 h | 1.2 s"
    )


@pytest.mark.parametrize("name", ["demo", "kafka", "delta"])
def test_the_configs_in_conf(name):
    given = load(str(ROOT / "conf" / "stream" / f"{name}.yaml"), Stream)
    assert given.identity["name"] == given.name
    assert not [key for key in given.identity if key.startswith(("spark", "trigger"))]


GOOD: dict[str, Any] = {
    "source": {"format": "parquet", "path": "in", "schema": "id bigint, y int, x double"},
    "columns": {"label": "y", "positive": 1, "numeric": ["x"], "id": ["id"]},
    "metrics": {"score": "score"},
    "drift": {"detectors": ["ddmOci"]},
    "sink": {"format": "parquet"},
    "output": {"path": "out"},
}
KAFKA = {
    "format": "kafka",
    "options": {"kafka.bootstrap.servers": "b:1", "subscribe": "t"},
    "value": {"schema": "x int"},
}
MISTAKES: list[tuple[str, Any, list[str]]] = [
    ("sauce", {}, ["sauce is not a known key"]),
    ("source/shema", "", ["source.shema is not a known key (did you mean 'schema'?)"]),
    ("source", {"format": "parquet", "path": "in"}, ["'parquet' wants path and schema"]),
    ("source", {"path": "in"}, ["source: format is missing"]),
    ("source", {"format": "table"}, ["'table' goes with table"]),
    ("source", {"format": "delta", "path": "a", "schema": "x int"}, ["'delta' wants path, and takes the schema from"]),
    ("source", {k: KAFKA[k] for k in ("format", "options")}, ["'kafka' wants value"]),
    ("source", {**KAFKA, "options": {}}, ["wants the options kafka.bootstrap.servers, subscribe"]),
    ("source", {"format": "rate", "value": {"schema": "x int"}}, ["value says how Kafka's messages are read"]),
    ("source", {"generate": {"rows": 9}, "path": "in"}, ["generate writes and reads its own files"]),
    ("source", {"generate": {"rows": 0}}, ["source.generate.rows is 0"]),
    ("columns/time", "x", ["['x'] have more than one role"]),
    ("columns/features", "v", ["features and numeric are both given"]),
    ("columns/positive", None, ["columns.positive is missing"]),
    ("balance", {"methods": "under"}, ["StreamingBalancer has no field 'methods' (did you mean 'method'?)"]),
    ("balance", {"method": "smite"}, ["StreamingBalancer.method is 'smite'"]),
    ("balance", {"labelCol": "y"}, ["StreamingBalancer.labelCol is set by the job"]),
    ("balance", {"ratio": "much"}, ["StreamingBalancer.ratio must be a number"]),
    ("metrics", {"fading": 2.0}, ["StreamingMetrics.fading is 2.0"]),
    ("metrics", None, ["drift looks at what metrics counts"]),
    ("drift", {"detectors": ["ddm"]}, ["'ddm' is no detector", "ddmOci, linearFourRates"]),
    ("drift", {"detectors": [{"ddmOci": {"fadin": 1}}]}, ["DdmOci has no field 'fadin' (did you mean 'fading'?)"]),
    ("drift", {"detectors": ["ddmOci", {"ddmOci": {}}]}, ["has two of 'ddmOci'"]),
    ("maxRejected", 0, ["maxRejected is 0"]),
    ("sink", {"format": "kafka", "path": "x"}, ["'kafka' wants topic, and not path"]),
    ("sink", {"format": "kafka", "topic": "x"}, ["wants the option kafka.bootstrap.servers"]),
    ("sink", {"format": "delta"}, ["'delta' wants path"]),
    ("sink", {"format": "parquet", "topic": "x"}, ["'parquet' wants path, and not topic"]),
    ("sink", {"options": {"a": 1}}, ["'parquet' takes no options"]),
    ("trigger", {}, ["give either availableNow: true or processingTime"]),
    ("trigger", {"availableNow": False}, ["trigger.availableNow is False"]),
]


@pytest.mark.parametrize(("place", "value", "said"), MISTAKES, ids=[f"{i}-{m[0]}" for i, m in enumerate(MISTAKES)])
def test_a_mistake_is_one_sentence(tmp_path, place, value, said):
    given = deepcopy(GOOD)
    *parents, last = place.split("/")
    at = given
    for parent in parents:
        at = at[parent]
    at[last] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(SparkimbError) as caught:
        load(str(tmp_path / "config.yaml"), Stream)
    head, *sentences = str(caught.value).split("\n")
    assert head.endswith("has 1 mistake:")
    assert len(sentences) == 1
    assert all(part in sentences[0] for part in said), sentences[0]


def test_what_a_stream_may_go_on_with():
    first = Stream.model_validate(GOOD | {"source": KAFKA}).identity
    later = deepcopy(GOOD) | {"source": deepcopy(KAFKA), "select": {"a": "1"}, "maxRejected": 1.0}
    later["source"]["options"]["maxOffsetsPerTrigger"] = 10  # type: ignore[index]
    assert Stream.model_validate(later).identity == first
    later["source"]["options"]["subscribe"] = "u"  # type: ignore[index]
    assert {k for k, v in Stream.model_validate(later).identity.items() if first[k] != v} == {
        "source.options.subscribe"
    }


def test_metrics_may_go_on_with_other_steps():
    given = deepcopy(GOOD)
    given["columns"]["time"] = "at"
    first = Stream.model_validate(given).identity
    given["metrics"] |= {"stepSeconds": 60.0, "fading": 0.9}
    assert Stream.model_validate(given).identity == first
    given["metrics"] |= {"window": 10}
    assert Stream.model_validate(given).identity != first


def test_no_secret_is_written(spark, tmp_path):
    if os.environ.get("SPARKIMB_SPARK") == "connect":
        pytest.skip("jobs run under spark-submit, on a classic session")
    add_file(spark, tmp_path / "in", 0)
    given = settings(tmp_path / "in", tmp_path / "out", spark={"spark.some.password": "hush"})
    given["source"]["options"] |= {"kafka.sasl.jaas.config": "hush"}
    run(spark, given)
    for name in ("config.yaml", "stream.json", "report.html"):
        assert "hush" not in (tmp_path / "out" / name).read_text()
    assert json.loads((tmp_path / "out" / "stream.json").read_text())["formatVersion"] == 1
