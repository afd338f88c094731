"""The balance job in process: its promises, recomputed with NumPy and scikit-learn from what it wrote."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from balance import BalanceJob
from config import Balance, load
from pyspark.ml import PipelineModel
from pyspark.ml.functions import vector_to_array
from pyspark.sql import functions as F
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, f1_score, roc_auc_score

from sparkimb import datasets
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.folds import stratified_split

pytestmark = pytest.mark.skipif(
    os.environ.get("SPARKIMB_SPARK") == "connect", reason="jobs run under spark-submit, on a classic session"
)

FRACTIONS = {"train": 0.6, "validation": 0.2, "test": 0.2}
RESULTS = {"config.yaml", "manifest.json", "metrics.json", "model", "report.html", "training"}
UNDER = {"name": "under", "steps": ["RandomUnderSampler"]}


def settings(source: Any, out: Any, **sections: Any) -> dict[str, Any]:
    """Return a config for the blobs below; a section given replaces the one here."""
    return {
        "input": {"format": "parquet", "path": str(source)},
        "columns": {"label": "label", "positive": 1, "numeric": ["f0", "f1"], "id": ["id"]},
        "split": {"fractions": FRACTIONS},
        "treatments": [UNDER],
        "output": {"path": str(out)},
    } | sections


def run(spark, given: dict[str, Any]) -> dict[str, Any]:
    results = BalanceJob(Balance.model_validate(given), spark).run()
    assert spark.sparkContext._jsc.sc().getPersistentRDDs().isEmpty(), "rows are released"
    return results


def refusal(spark, given: dict[str, Any]) -> str:
    with pytest.raises(SparkimbError) as caught:
        run(spark, given)
    assert not list(Path(given["output"]["path"]).parent.glob("out*")), "a refused run leaves nothing"
    return str(caught.value)


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("[!.]*")}  # Hadoop keeps checksums in hidden files


def figures(results: dict[str, Any]) -> list[Any]:
    """Return all that must not differ between two runs of one config."""
    return [{key: t[key] for key in t if key != "seconds"} for t in results["treatments"]] + [results["split"]]


@pytest.fixture(scope="module")
def blobs(spark, tmp_path_factory):
    """Write 400 rows with 40 positives, in three files."""
    path = str(tmp_path_factory.mktemp("blobs") / "rows")
    datasets.blobs(spark, rows=400, minority=0.1, seed=1, partitions=3).write.parquet(path)
    return path


@pytest.fixture(scope="module")
def patients(spark, tmp_path_factory):
    """Run the whole job on the hypothyroid table: a text label, numbers and categories with nulls."""
    out = tmp_path_factory.mktemp("patients") / "out"
    given = {
        "name": "patients",
        "input": {
            "format": "csv",
            "path": Path(datasets.path("hypothyroid")).as_uri(),
            "options": {"header": True, "inferSchema": True},
        },
        "columns": {
            "label": "diagnosis",
            "positive": "hypothyroid",
            "id": ["patient_id"],
            "numeric": ["age", "TSH", "T3", "TT4"],
            "categorical": ["sex", "on_thyroxine"],
        },
        "split": {"fractions": FRACTIONS, "seed": 3},
        "treatments": [
            {
                "name": "under, then weights",
                "steps": [
                    {"RandomUnderSampler": {"samplingStrategy": 0.25}},
                    {"ClassWeigher": {"mode": "effectiveNumber"}},
                ],
            },
            {
                "name": "smoothed",
                "steps": [{"RandomOverSampler": {"samplingStrategy": 0.5, "shrinkage": 0.3, "syntheticCol": "made"}}],
            },
        ],
        "learner": {"class": "LogisticRegression", "params": {"maxIter": 5}},
        "output": {"path": str(out), "treatment": "smoothed"},
    }
    return given, run(spark, given), out


@pytest.fixture(scope="module")
def split(spark, patients):
    """Return the patients with their part, read and split again."""
    given, _, _ = patients
    rows = spark.read.csv(given["input"]["path"], header=True, inferSchema=True)
    return stratified_split(rows, FRACTIONS, labelCol="diagnosis", idCols=["patient_id"], seed=3)


def ids(rows) -> set[int]:
    return {row[0] for row in rows.select("patient_id").where("patient_id IS NOT NULL").collect()}


def test_everything_is_written(patients):
    given, results, out = patients
    assert visible(out) == RESULTS
    assert {path.name for path in out.parent.iterdir()} == {"out"}
    on_disk = json.loads((out / "metrics.json").read_text())
    assert on_disk == json.loads(json.dumps(results))
    assert [t["name"] for t in results["treatments"]] == ["natural", "under, then weights", "smoothed"]
    assert results["profile"]["nulls"]["TSH"] > 0
    assert load(str(out / "config.yaml"), Balance) == Balance.model_validate(given)
    page = (out / "report.html").read_text()
    assert "smoothed" in page
    assert page.count("<script") == 2  # the numbers of the threshold explorer, and what moves it


def test_metrics_follow_from_the_model_that_was_written(spark, patients, split):
    _, results, out = patients
    treated = next(t for t in results["treatments"] if t["name"] == "smoothed")
    model = PipelineModel.load(str(out / "model"))
    assert type(model).__module__.startswith("pyspark.ml")
    test = model.transform(split.where("split = 'test'"))
    rows = test.select("diagnosis", vector_to_array("probability").alias("p"), "predictedLabel").toPandas()
    p = np.stack(rows["p"].to_numpy())
    truth = (rows["diagnosis"] == "hypothyroid").to_numpy()
    assert np.array_equal(p[:, 1] > 0.5, rows["predictedLabel"] == "hypothyroid")  # the model speaks in labels

    before, after = (
        np.array([treated[key][label] for label in ("negative", "hypothyroid")])
        for key in ("priorsBefore", "priorsAfter")
    )
    corrected = p * before / after
    score = corrected[:, 1] / corrected.sum(axis=1)
    called = score >= treated["threshold"]
    metrics, confusion = treated["metrics"], treated["confusion"]
    assert metrics["averagePrecision"] == pytest.approx(average_precision_score(truth, score), rel=1e-9)
    assert metrics["areaUnderROC"] == pytest.approx(roc_auc_score(truth, score), rel=1e-9)
    assert metrics["brier"] == pytest.approx(brier_score_loss(truth, score), rel=1e-9)
    assert metrics["f1"] == pytest.approx(f1_score(truth, called), rel=1e-9)
    assert [confusion[key] for key in ("trueNegative", "falsePositive", "falseNegative", "truePositive")] == (
        confusion_matrix(truth, called).ravel().tolist()
    )


def test_the_threshold_is_the_best_on_the_validation_rows(patients, split):
    _, results, out = patients
    treated = next(t for t in results["treatments"] if t["name"] == "smoothed")
    scored = PipelineModel.load(str(out / "model")).transform(split.where("split = 'validation'"))
    rows = scored.select("diagnosis", vector_to_array("probability")[1].alias("p")).toPandas()
    truth = (rows["diagnosis"] == "hypothyroid").to_numpy()
    odds = treated["priorsBefore"]["hypothyroid"] / treated["priorsAfter"]["hypothyroid"]
    others = treated["priorsBefore"]["negative"] / treated["priorsAfter"]["negative"]
    score = rows["p"] * odds / (rows["p"] * odds + (1 - rows["p"]) * others)
    best = max(f1_score(truth, score >= cut) for cut in np.unique(score))
    # Scores recomputed may differ in the last bit from the threshold, which is one of them.
    assert f1_score(truth, score >= treated["threshold"] - 1e-12) == pytest.approx(best)


def test_only_training_rows_are_balanced(spark, patients, split):
    _, results, out = patients
    parts = {name: ids(split.where(F.col("split") == name)) for name in FRACTIONS}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == results["data"]["rows"] == 3163
    training = spark.read.parquet(str(out / "training"))
    assert ids(training) == parts["train"]  # over-sampling keeps every row, and adds none of the other parts
    assert training.where("made").where("patient_id IS NOT NULL").count() == 0
    originals = training.where("NOT made").drop("made")
    assert originals.exceptAll(split.where("split = 'train'").drop("split")).count() == 0


def test_the_manifest_says_what_was_written(spark, patients):
    _, results, out = patients
    manifest = json.loads((out / "manifest.json").read_text())
    training = spark.read.parquet(str(out / "training"))
    counted = dict(training.groupBy("diagnosis").count().collect())
    assert manifest["rowsPerClass"]["after"] == counted
    assert manifest["rowsPerClass"]["before"] == results["split"]["train"]
    assert counted["hypothyroid"] == int(counted["negative"] * 0.5)
    assert manifest["priors"]["after"] == pytest.approx({c: n / sum(counted.values()) for c, n in counted.items()})
    assert [field["name"] for field in manifest["schema"]["fields"]] == training.columns
    assert manifest["versions"]["spark"] == spark.version
    assert manifest["seed"] == 3
    treated = next(t for t in results["treatments"] if t["name"] == "smoothed")
    assert manifest["threshold"] == treated["threshold"]


def test_priors_count_weights(patients):
    _, results, _ = patients
    weighed = results["treatments"][1]
    mass = {label: rows * weighed["weights"][label] for label, rows in weighed["rows"].items()}
    assert weighed["priorsAfter"] == pytest.approx({label: m / sum(mass.values()) for label, m in mass.items()})
    assert weighed["priorsAfter"]["hypothyroid"] > weighed["rows"]["hypothyroid"] / sum(weighed["rows"].values())


@pytest.mark.slow  # the job is run three times; samplers' own tests tell sooner
def test_partitions_and_repetition_change_nothing(spark, blobs, tmp_path):
    one, seven = str(tmp_path / "one"), str(tmp_path / "seven")
    rows = spark.read.parquet(blobs)
    rows.coalesce(1).write.parquet(one)
    rows.repartition(7).write.parquet(seven)
    treatment = {"name": "over", "steps": [{"RandomOverSampler": {"shrinkage": 0.5}}]}
    learner = {"class": "LogisticRegression", "params": {"maxIter": 2}}
    written, measured = [], []
    for i, source in enumerate((one, one, seven)):
        out = tmp_path / f"out{i}"
        sections = {"learner": learner} if i < 2 else {}  # sums of a learner's gradients move with the partitions
        measured.append(figures(run(spark, settings(source, out, treatments=[treatment], **sections))))
        written.append(Counter(map(tuple, spark.read.parquet(str(out / "training")).collect())))
    assert measured[0] == measured[1]
    assert written[0] == written[1] == written[2]
    assert measured[2][-1] == measured[0][-1]


SCRIPT = "<script>alert(1)</script>"
LABELS = {  # an expression, its positive value, and the text of that
    "boolean": ("label = 1", True, "true"),
    "string": (f"IF(label = 1, '{SCRIPT}', '[/b]')", SCRIPT, SCRIPT),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["string", "boolean"])
def test_labels_of_any_type(spark, blobs, tmp_path, kind):
    value, positive, text = LABELS[kind]
    source, out = str(tmp_path / "my rows"), tmp_path / "my out"
    rows = spark.read.parquet(blobs)
    rows.withColumn("what happened?.v2", F.expr(value)).drop("label").write.parquet(source)
    given = settings(
        source,
        f"{out}/",
        columns={"label": "what happened?.v2", "positive": positive, "numeric": ["f0"], "id": ["id"]},
        treatments=[{"name": "[/under]", "steps": ["RandomUnderSampler", "ClassWeigher"]}],
        learner={"class": "LogisticRegression", "params": {"maxIter": 2}},
    )
    results = run(spark, given)
    assert results["data"]["positive"] == (text)
    total = sum(part[text] for part in results["split"].values())
    assert abs(results["split"]["test"][text] - 0.2 * total) < 1
    assert visible(out) == RESULTS
    page = (out / "report.html").read_text()
    assert page.count("<script") == 2
    assert SCRIPT not in page
    assert ("&lt;script&gt;" in page) == (kind == "string")
    predicted = PipelineModel.load(str(out / "model")).transform(spark.read.parquet(source))
    assert {row[0] for row in predicted.select("predictedLabel").distinct().collect()} <= set(results["split"]["train"])


@pytest.mark.slow
def test_three_classes_with_a_tiny_one_and_numbers_as_labels(spark, tmp_path):
    source, out = str(tmp_path / "rows"), tmp_path / "out"
    rows = datasets.blobs(spark, rows=300, minority=[0.2, 0.2], partitions=2)
    rows = rows.where("label < 2").union(rows.where("label = 2").orderBy("id").limit(12))
    rows.withColumn("label", F.col("label") + 0.5).write.parquet(source)
    given = settings(
        source,
        out,
        columns={"label": "label", "numeric": ["f0", "f1"], "id": ["id"]},
        treatments=[{"name": "over", "steps": ["RandomOverSampler"]}],
        learner={"class": "LogisticRegression", "params": {"maxIter": 3}},
    )
    results = run(spark, given)
    assert [results["split"][part]["2.5"] for part in FRACTIONS] == [7, 3, 2]  # 12 rows at 0.6, 0.2 and 0.2
    assert results["data"]["positive"] == "2.5"
    predicted = PipelineModel.load(str(out / "model")).transform(spark.read.parquet(source))
    assert {row[0] for row in predicted.select("predictedLabel").distinct().collect()} <= {"0.5", "1.5", "2.5"}
    assert len(set(results["treatments"][1]["rows"].values())) == 1
    confusion = results["treatments"][1]["confusion"]
    assert confusion["truePositive"] + confusion["falseNegative"] == 2
    assert sum(confusion.values()) == sum(results["split"]["test"].values())


def test_a_column_may_say_the_split_and_there_need_be_no_learner(spark, blobs, tmp_path):
    source, out = str(tmp_path / "rows"), tmp_path / "out"
    part = F.when(F.col("id") % 2 == 0, "train").otherwise(F.when(F.col("id") % 4 == 1, "validation").otherwise("test"))
    spark.read.parquet(blobs).withColumn("my.part", part).write.parquet(source)
    results = run(spark, settings(source, out, split={"column": "my.part"}))
    assert "learner" not in results
    assert visible(out) == RESULTS - {"model"}
    training = spark.read.parquet(str(out / "training"))
    assert training.where("id % 2 = 1").count() == 0
    assert "my.part" not in training.columns
    assert load(str(out / "config.yaml"), Balance).split.column == "my.part"


@pytest.mark.slow
def test_tables_and_columns_of_every_kind(spark, blobs, tmp_path):
    view = spark.read.parquet(blobs).select(
        (F.col("label") == 1).alias("y"),
        F.col("f0").cast("decimal(12,4)").alias("price in €"),
        F.when(F.col("id") % 3 != 0, F.col("f1")).alias("sparse.number"),
        F.lit(1).alias("constant"),
        (F.col("f1") > 0).alias("flag"),
        F.when(F.col("id") % 5 != 0, F.date_add(F.lit("2024-01-01").cast("date"), (F.col("id") % 4).cast("int"))).alias(
            "day"
        ),
        F.when(F.col("id") % 2 == 0, "").alias("maybe empty"),
    )
    view.createOrReplaceTempView("balance_input")
    given = settings(
        "",
        tmp_path / "out",
        input={"format": "table", "table": "balance_input"},
        columns={
            "label": "y",
            "positive": True,
            "numeric": ["price in €", "sparse.number", "constant"],
            "categorical": ["flag", "day", "maybe empty"],
        },
        treatments=[{"name": "over", "steps": [{"RandomOverSampler": {"samplingStrategy": 0.5, "shrinkage": 0.5}}]}],
        learner={"class": "LogisticRegression", "params": {"maxIter": 2}},
    )
    try:
        results = run(spark, given)
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        training = spark.read.parquet(str(tmp_path / "out" / "training"))
        assert sum(manifest["rowsPerClass"]["after"].values()) == training.count()
        assert training.schema["price in €"].dataType == view.schema["price in €"].dataType
        assert results["data"]["categorical"] == ["flag", "day", "maybe empty"]
        scored = PipelineModel.load(str(tmp_path / "out" / "model")).transform(view)
        # 3 numbers; 2 flags, 4 days and no text at all, each with one place for nulls, empty texts and the unknown.
        assert scored.first()["features"].size == 3 + 3 + 5 + 1
    finally:
        spark.catalog.dropTempView("balance_input")


def test_existing_output(spark, blobs, tmp_path):
    out = tmp_path / "out"
    given = settings(blobs, out)
    run(spark, given)
    before = (out / "metrics.json").read_bytes()
    with pytest.raises(SparkimbError, match=r"exists\. Name another, or set output\.overwrite"):
        run(spark, given)
    assert (out / "metrics.json").read_bytes() == before
    given["output"]["overwrite"] = True
    run(spark, given)
    assert (out / "metrics.json").read_bytes() != before  # it holds the time
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_run_that_dies_leaves_the_older_result(spark, blobs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    given = settings(blobs, out, output={"path": str(out), "overwrite": True})
    run(spark, given)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(BalanceJob, "write_texts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(spark, given)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    run(spark, given)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.slow
def test_rows_are_released(spark, blobs, tmp_path):
    run(spark, settings(blobs, tmp_path / "out", learner={"class": "NaiveBayes"}, columns=POSITIVE_NUMBERS))
    assert spark.sparkContext._jsc.sc().getPersistentRDDs().isEmpty()


POSITIVE_NUMBERS = {"label": "label", "positive": 1, "categorical": ["id"]}


@pytest.fixture(scope="module")
def odd(spark, tmp_path_factory):
    """Write rows that make trouble, one column for each kind of it."""
    path = str(tmp_path_factory.mktemp("odd") / "rows")
    datasets.blobs(spark, rows=60, minority=0.3, partitions=1).select(
        "*",
        F.lit("one").alias("one"),
        F.when(F.col("id") > 6, F.col("label")).alias("holes"),
        F.lit(None).cast("double").alias("nothing"),
        F.lit("text").alias("text"),
        F.array(F.lit(1)).alias("list"),
        F.when(F.col("id") % 3 == 0, "train").otherwise(F.when(F.col("id") == 4, "dev")).alias("part"),
        F.col("label").cast("decimal(3,1)").alias("decimal"),
        F.lit(1.0).alias("weight"),
        F.lit(1.0).alias("Prediction"),
        F.when(F.col("label") == 0, "train").otherwise("test").alias("lopsided"),
    ).write.parquet(path)
    return path


NO_OUTPUTS = {"label": "label", "positive": 1, "numeric": ["f0"], "id": ["id"]}
LOGISTIC = {"class": "LogisticRegression"}
REFUSED = {
    "missing columns": (
        {
            "columns": {"label": "lable", "numeric": ["f0", "f9"], "categorical": ["txt"], "id": ["idd"]},
            "treatments": [{"name": "s", "steps": [{"RandomUnderSampler": {"strataCols": ["city"]}}]}],
        },
        ["columns.label 'lable' (did you mean 'label'?)", "'f9'", "'txt'", "'idd'", "strataCols 'city'", "not found"],
    ),
    "one class": ({"columns": {"label": "one", "numeric": ["f0"]}}, ["one class only: 'one' in all 60 rows"]),
    "null labels": ({"columns": {"label": "holes", "numeric": ["f0"]}}, ["'holes' has 7 null labels in 60 rows"]),
    "decimal label": ({"columns": {"label": "decimal", "numeric": ["f0"]}}, ["decimal(3,1)", "cast it"]),
    "text for a number": (
        {"columns": {"label": "label", "numeric": ["f0", "text"]}},
        ["columns.numeric 'text' (string) are not numeric"],
    ),
    "list for a category": (
        {"columns": {"label": "label", "categorical": ["list"]}},
        ["columns.categorical 'list' (array<int>) are not single values"],
    ),
    "nothing in a column": (
        {"columns": {"label": "label", "numeric": ["f0", "nothing"]}},
        ["['nothing'] are null in all 60 rows"],
    ),
    "unknown positive": (
        {"columns": {"label": "label", "positive": "yes", "numeric": ["f0"]}},
        ["columns.positive is 'yes'", "Labels are: 0, 1"],
    ),
    "unknown parts": ({"split": {"column": "part"}}, ["split.column 'part' holds 'dev', None. It must say train"]),
    "no positives in a part": ({"split": {"column": "lopsided"}}, ["The train part has 0 rows of class 1 and"]),
    "weights on a column": (
        {"treatments": [{"name": "w", "steps": ["ClassWeigher"]}]},
        ["has a column 'weight'", "ClassWeigher.weightCol"],
    ),
    "the model's columns": (
        {"columns": NO_OUTPUTS, "learner": LOGISTIC},
        ["Columns ['Prediction']", "names that the model writes"],
    ),
    "more rows than there are": (
        {"treatments": [{"name": "u", "steps": [{"RandomUnderSampler": {"samplingStrategy": {"1": 99}}}]}]},
        ["99 for class 1"],
    ),
    "a class left out": (
        {"treatments": [{"name": "u", "steps": [{"RandomUnderSampler": {"samplingStrategy": {"1": 0}}}]}]},
        ["Treatment 'u' leaves nothing of the classes [1]"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_one_sentence(spark, odd, tmp_path, case):
    sections, said = REFUSED[case]
    message = refusal(spark, settings(odd, tmp_path / "out", **sections))
    assert all(part in message for part in said), message
    assert "\n" not in message


def test_unreadable_inputs(spark, blobs, tmp_path):
    (tmp_path / "notes.txt").write_text("no parquet")
    for path, said in (
        (tmp_path / "nothing", "PATH_NOT_FOUND"),
        (tmp_path / "notes.txt", "cannot be read as parquet"),
        ("nosuch://bucket/rows", "nosuch"),
    ):
        message = refusal(spark, settings(path, tmp_path / "out"))
        assert message.startswith(f"input '{path}' cannot be read as parquet: ")
        assert said in message
        assert "\n" not in message
    table = {"format": "table", "table": "no_such_table"}
    assert "TABLE_OR_VIEW_NOT_FOUND" in refusal(spark, settings("", tmp_path / "out", input=table))


def test_outputs_that_cannot_be(spark, blobs, tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for path, said in (
        (f"{tmp_path}/file/result", "cannot be written"),
        ("nosuch://bucket/result", "nosuch"),
        (f"{tmp_path}/mine", "no earlier result to overwrite"),
        (blobs, "lie one in the other"),
        (f"{blobs}/result", "lie one in the other"),
        (str(Path(blobs).parent), "lie one in the other"),
    ):
        with pytest.raises(SparkimbError, match=said):
            run(spark, settings(blobs, path, output={"path": path, "overwrite": True}))
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_learners_that_fail_say_why(spark, blobs, tmp_path):
    learner = {"class": "NaiveBayes", "params": {"smoothing": 1.0}}
    message = refusal(spark, settings(blobs, tmp_path / "out", learner=learner))
    assert message.startswith("learner NaiveBayes failed on treatment 'natural': ")
    assert "egative" in message
    assert "\n" not in message


def test_learners_that_do_not_fit_the_data(spark, blobs, tmp_path):
    layers = {"class": "MultilayerPerceptronClassifier", "params": {"layers": [5, 2]}}
    assert "begin with 2 and end with 2" in refusal(spark, settings(blobs, tmp_path / "out", learner=layers))
    source = str(tmp_path / "three")
    spark.read.parquet(blobs).withColumn("label", F.expr("label + id % 2")).write.parquet(source)
    given = settings(source, tmp_path / "out", learner={"class": "GBTClassifier"})
    assert "'GBTClassifier' learns two classes, but 'label' has 3" in refusal(spark, given)


def test_a_column_that_is_empty_in_the_training_rows(spark, blobs, tmp_path):
    source = str(tmp_path / "rows")
    part = F.expr("CASE WHEN id % 2 = 0 THEN 'train' WHEN id % 4 = 1 THEN 'validation' ELSE 'test' END")
    late = F.when(part != "train", F.col("f0"))
    spark.read.parquet(blobs).select("*", part.alias("part"), late.alias("late")).write.parquet(source)
    columns = {"label": "label", "positive": 1, "numeric": ["f0", "late"]}
    given = settings(source, tmp_path / "out", columns=columns, split={"column": "part"}, learner=LOGISTIC)
    message = refusal(spark, given)
    assert message.startswith("The training rows cannot be made into features: ")
    assert "late__number" in message


@pytest.mark.parametrize(
    "learner",
    [
        pytest.param({"class": "FMClassifier", "params": {"maxIter": 2}}, marks=pytest.mark.slow),
        {"class": "MultilayerPerceptronClassifier", "params": {"maxIter": 2, "layers": [2, 2]}},
    ],
    ids=lambda learner: learner["class"],
)
def test_learners_that_cannot_weigh(spark, blobs, tmp_path, learner):
    results = run(spark, settings(blobs, tmp_path / "out", learner=learner))
    assert results["learner"] == learner["class"]
    assert 0 < results["treatments"][1]["metrics"]["averagePrecision"] <= 1


def test_secrets_are_not_written(spark, blobs, tmp_path):
    secret = "correct horse"
    given = settings(
        blobs, tmp_path / "out", spark={"spark.hadoop.fs.s3a.secret.key": secret, "spark.app.name": "mine"}
    )
    run(spark, given)
    texts = {path.name: path.read_text() for path in (tmp_path / "out").glob("[!.]*") if path.is_file()}
    assert set(texts) == RESULTS - {"model", "training"}
    assert not any(secret in text for text in texts.values())
    assert yaml.safe_load(texts["config.yaml"])["spark"]["spark.app.name"] == "mine"
