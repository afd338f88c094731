"""The train job in process: from what the balance job wrote to a model that scores on Spark."""

from __future__ import annotations

import gc
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import train
import yaml
from balance import BalanceJob
from config import Balance, load
from feed.data import write_training_set
from pyspark.ml import PipelineModel
from pyspark.ml.functions import vector_to_array
from pyspark.sql import functions as F
from torch import nn
from train import TrainJob
from train_config import Train

from sparkimb import datasets
from sparkimb.errors import SparkimbError
from sparkimb.evaluation import RankingMetrics
from sparkimb.evaluation.folds import stratified_split
from sparkimb.feed import Manifest
from sparkimb.training.mlp import load_mlp
from sparkimb.training.scoring import probability_udf

pytestmark = pytest.mark.skipif(
    os.environ.get("SPARKIMB_SPARK") == "connect", reason="jobs run under spark-submit, on a classic session"
)

FRACTIONS = {"train": 0.6, "validation": 0.2, "test": 0.2}
RESULTS = {"checkpoints", "config.yaml", "labels.json", "metrics.json", "model.pt", "test", "train.json", "training"}


def settings(data: dict[str, Any], out: Path, **sections: Any) -> dict[str, Any]:
    """Return a config; a section given replaces the one here."""
    return {
        "data": data,
        "model": {"hidden": [8]},
        "batches": {"size": 16},
        "epochs": 3,
        "output": {"path": str(out)},
    } | sections


def run(spark: Any, given: dict[str, Any]) -> dict[str, Any]:
    return TrainJob(Train.model_validate(given), lambda: spark).run()


def no_spark() -> Any:
    raise AssertionError("Spark is not needed")


@pytest.fixture(scope="module")
def balanced(spark, tmp_path_factory):
    """Balance 400 rows of text labels with 60 positives, of which the smaller label sorts first."""
    folder = tmp_path_factory.mktemp("balanced, größer")
    rows = datasets.blobs(spark, rows=400, minority=0.15, seed=1, partitions=2)
    rows.withColumn("label", F.when(F.col("label") == 1, "fraud").otherwise("sound")).write.parquet(
        str(folder / "rows")
    )
    given = {
        "input": {"format": "parquet", "path": str(folder / "rows")},
        "columns": {"label": "label", "numeric": ["f0", "f1"], "id": ["id"]},
        "split": {"fractions": FRACTIONS},
        "treatments": [{"name": "under", "steps": ["RandomUnderSampler", "ClassWeigher"]}],
        "learner": {"class": "LogisticRegression", "params": {"maxIter": 1}},
        "output": {"path": str(folder / "out")},
    }
    BalanceJob(Balance.model_validate(given), spark).run()
    return folder / "out"


@pytest.fixture(scope="module")
def trained(spark, balanced, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained, später") / "out"
    return run(spark, settings({"balanced": str(balanced), "shards": 2}, out)), out


def test_results(trained, balanced):
    results, out = trained
    assert {path.name for path in out.iterdir()} == RESULTS | {"validation"}
    assert results == json.loads((out / "metrics.json").read_text())
    before = json.loads((balanced / "manifest.json").read_text())["rowsPerClass"]
    assert results["rows"]["training"] == {"sound": before["after"]["sound"], "fraud": before["after"]["fraud"]}
    assert results["rows"]["test"] == json.loads((balanced / "metrics.json").read_text())["split"]["test"]
    assert len(results["history"]) == 3
    assert Manifest.read(str(out / "training")).weight == "weight"
    model, labels = load_mlp(out / "model.pt")
    assert labels == ["sound", "fraud"], "the positive class is the last"
    assert model.options["width"] == 2
    again = Train.model_validate(yaml.safe_load((out / "config.yaml").read_text()))
    assert again.data.balanced == str(balanced)


def test_the_model_scores_the_untouched_rows_on_spark(spark, trained, balanced):
    results, out = trained
    given = Balance.model_validate(yaml.safe_load((balanced / "config.yaml").read_text()))
    rows = spark.read.parquet(given.input.path)
    split = stratified_split(rows, FRACTIONS, labelCol="label", idCols=["id"], splitCol="part").where("part = 'test'")
    features = PipelineModel(PipelineModel.load(str(balanced / "model")).stages[:-2]).transform(split)
    model, _ = load_mlp(out / "model.pt")
    score = probability_udf(model, width=2, batch_size=7)
    scored = features.withColumn("score", score(vector_to_array("features"))).select("features", "label", "score")
    found = RankingMetrics(scored, labelCol="label", positiveLabel="fraud")
    assert found.averagePrecision == pytest.approx(results["test"]["averagePrecision"], abs=1e-9)
    assert found.areaUnderROC == pytest.approx(results["test"]["areaUnderROC"], abs=1e-9)
    table = scored.toPandas()
    expected = torch.sigmoid(model(torch.tensor([list(x) for x in table["features"]]).float())).tolist()
    assert table["score"].tolist() == pytest.approx(expected, abs=1e-6)


def test_scores_of_more_classes(spark):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    rows = spark.createDataFrame([([0.5, -1.0],), ([2.0, 3.0],), ([0.0, 0.0],)], "x array<double>").coalesce(1)
    found = rows.select("x", probability_udf(model, width=2, classes=3)("x").alias("p")).toPandas()
    expected = torch.softmax(model.eval()(torch.tensor([list(x) for x in found["x"]]).float()), 1)
    torch.testing.assert_close(torch.tensor([list(p) for p in found["p"]]).float(), expected.detach())
    with pytest.raises(SparkimbError, match="classes 1"):
        probability_udf(model, width=2, classes=1)


def test_a_stopped_run_goes_on_without_spark(trained, balanced, tmp_path, monkeypatch):
    results, out = trained
    given = settings({"balanced": str(balanced), "shards": 2}, out)
    stopped = tmp_path / "out"
    stopped.mkdir()
    for name in ("training", "validation", "test"):  # as they were made
        (stopped / name).symlink_to(out / name)
    for name in ("labels.json", "train.json"):
        (stopped / name).write_text((out / name).read_text())
    given["output"] = {"path": str(stopped)}
    steps = 0
    original = train.train_mlp

    def dies(**options: Any) -> dict[str, Any]:
        nonlocal steps
        steps += 1
        original(**(options | {"epochs": 1}))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_mlp", dies)
        job = TrainJob(Train.model_validate(given), no_spark)
        with pytest.raises(KeyboardInterrupt):
            job.run()
    assert steps == 1
    resumed = TrainJob(Train.model_validate(given), no_spark).run()
    assert resumed["history"] == results["history"]
    assert resumed["test"] == results["test"]
    with pytest.raises(SparkimbError, match="holds a result"):
        TrainJob(Train.model_validate(given), no_spark).run()


def test_a_source_that_changed_is_refused(spark, balanced, tmp_path, monkeypatch):
    read = BalanceJob.read
    monkeypatch.setattr(BalanceJob, "read", lambda job: read(job).where("id <> 3"))
    message = r"has other rows than when it was balanced: \w+ has \d+ rows of '\w+' instead of \d+"
    with pytest.raises(SparkimbError, match=message):
        run(spark, settings({"balanced": str(balanced)}, tmp_path / "out"))


def test_weights_and_batches_do_not_both_correct(spark, balanced, tmp_path, monkeypatch):
    about = TrainJob.balanced_json

    def weighted(job: TrainJob, name: str) -> dict[str, Any]:
        found = about(job, name)
        for treatment in found.get("treatments", ()):
            treatment["weights"] = {"sound": 0.6, "fraud": 3.3}
        return found

    monkeypatch.setattr(TrainJob, "balanced_json", weighted)
    given = settings({"balanced": str(balanced)}, tmp_path / "out", loss="asymmetric", batches={"balance": "sqrt"})
    with pytest.raises(SparkimbError, match=r"'sqrt', and the weights of column 'weight' .* 0.6 of 'sound', 3.3 of 'f"):
        run(spark, given)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("training", "validation", "test")):
        write_training_set(folder / name, (180, 20), seed=seed)
    return {name: str(folder / name) for name in ("training", "validation", "test")}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # TorchDistributor's own, of its child's output
def test_two_processes_of_torch_distributor(spark, sets, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = settings(sets, tmp_path / "out", distributed={"processes": 2, "local": True})
    results = run(spark, given)
    gc.collect()
    assert results["steps"] == 3 * 7  # 100 rows each, 16 at a time
    assert set(results["test"]) >= {"averagePrecision", "gMean"}
    assert load_mlp(tmp_path / "out" / "model.pt")[1] == ["0", "1"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_what_a_process_of_torch_distributor_refuses_is_said(spark, sets, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(sets["training"], tmp_path / "training")
    (tmp_path / "training" / "part-00001.parquet").unlink()
    given = {**sets, "training": str(tmp_path / "training")}
    with pytest.raises(SparkimbError, match=r"^Files are not as they were written: .*part-00001.parquet' is missing"):
        run(spark, settings(given, tmp_path / "out", distributed={"processes": 2, "local": True}))
    gc.collect()


@pytest.mark.parametrize(("sentence", "said"), [("No rows.", "^No rows.$"), (None, "TorchDistributor failed: exit 1")])
def test_processes_that_fail(sets, tmp_path, monkeypatch, sentence, said):
    asked: list[Any] = []

    class Fails:
        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def run(self, train: Any, **options: Any) -> None:
            asked.append({name: options[name] for name in ("device", "ranks_timeout", "workers", "timeout")})
            if sentence is not None:
                Path(options["failure"]).write_text(sentence)
            raise RuntimeError("exit 1")

    monkeypatch.setattr("pyspark.ml.torch.distributor.TorchDistributor", Fails)
    for gpu, device in ((False, "cpu"), (True, "cuda")):
        spread = {"processes": 2, "local": True, "gpu": gpu, "timeout": 90}
        given = settings(sets, tmp_path / "out", distributed=spread, batches={"size": 16, "workers": 3, "timeout": 40})
        with pytest.raises(SparkimbError, match=said):
            TrainJob(Train.model_validate(given), lambda: None).run()
        assert asked[-2:] == [
            {"num_processes": 2, "local_mode": True, "use_gpu": gpu},
            {"device": device, "ranks_timeout": 90, "workers": 3, "timeout": 40},
        ]
    with pytest.raises(SparkimbError, match=r"another config or other rows \(processes\)"):
        TrainJob(Train.model_validate(settings(sets, tmp_path / "out")), no_spark).run()
    anew = settings(sets, tmp_path / "out", output={"path": str(tmp_path / "out"), "overwrite": True})
    assert TrainJob(Train.model_validate(anew), no_spark).run()["steps"] == 3 * 13


def test_a_set_written_anew_is_not_continued(sets, tmp_path, monkeypatch):
    copied = {name: shutil.copytree(path, tmp_path / name) for name, path in sets.items()}
    given = settings({name: str(path) for name, path in copied.items()}, tmp_path / "out")

    def stop(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_mlp", stop)
    with pytest.raises(KeyboardInterrupt):
        TrainJob(Train.model_validate(given), no_spark).run()
    shutil.rmtree(copied["training"])
    write_training_set(copied["training"], (180, 20), seed=9)
    with pytest.raises(SparkimbError, match=r"another config or other rows \(sets\)"):
        TrainJob(Train.model_validate(given), no_spark).run()


def test_how_rows_are_read_may_change(sets, tmp_path):
    one, other = (
        Train.model_validate(settings(sets, tmp_path / "out", batches={"size": 16, "workers": n, "timeout": 10 * n}))
        for n in (1, 2)
    )
    assert one.identity == other.identity


def test_sets_that_are_there_need_no_spark(sets, tmp_path):
    results = TrainJob(Train.model_validate(settings(sets, tmp_path / "out")), no_spark).run()
    assert results["rows"]["test"] == {"0": 180, "1": 20}
    changed = settings(sets, tmp_path / "out", output={"path": str(tmp_path / "out"), "overwrite": True}, seed=1)
    assert TrainJob(Train.model_validate(changed), no_spark).run()["history"] != results["history"]


def test_augmentation_of_rows_by_label(sets, tmp_path):
    steps = [{"gaussian_noise": {"probability": {1: 0.5}}}, {"feature_dropout": {"rate": 0.5}}, "remix", "mixup"]
    plain = TrainJob(Train.model_validate(settings(sets, tmp_path / "plain")), no_spark).run()
    histories = [plain["history"]]
    for i, step in enumerate(steps):
        given = settings(sets, tmp_path / f"{i}", augment=[step])
        histories.append(TrainJob(Train.model_validate(given), no_spark).run()["history"])
    losses = {tuple(epoch["loss"] for epoch in history) for history in histories}
    assert len(losses) == len(histories)
    given = settings(sets, tmp_path / "never", augment=[{"gaussian_noise": {"probability": {1: 0.0}}}])
    assert TrainJob(Train.model_validate(given), no_spark).run()["history"] == plain["history"]
    given = settings(sets, tmp_path / "unknown", augment=[{"gaussian_noise": {"probability": {"fraud": 1}}}])
    with pytest.raises(SparkimbError, match=r"augment.gaussian_noise.probability names \['fraud'\]. Labels are: 0, 1"):
        TrainJob(Train.model_validate(given), no_spark).run()


def test_outputs_that_are_not_ours_are_left_alone(sets, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    for overwrite in (False, True):
        given = settings(sets, tmp_path / "out", output={"path": str(tmp_path / "out"), "overwrite": overwrite})
        with pytest.raises(SparkimbError, match="no training's"):
            TrainJob(Train.model_validate(given), no_spark).run()
    assert (tmp_path / "out" / "thesis.tex").exists()
    given = settings({"balanced": str(tmp_path)}, tmp_path / "new")
    with pytest.raises(SparkimbError, match="is no result of jobs"):
        TrainJob(Train.model_validate(given), no_spark).run()


def test_the_configs_that_are_shipped_are_sound():
    for path in sorted((Path(__file__).parents[2] / "conf" / "train").glob("*.yaml")):
        load(str(path), Train)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {}}, "data: give either balanced, or training with validation"),
        ({"data": {"training": "a"}}, "data: training goes with validation"),
        ({"data": {"balanced": "a", "test": "b"}}, "data: validation and test are those of balanced"),
        ({"loss": "focl"}, "loss: 'focl' is no loss (did you mean 'focal'?)"),
        ({"loss": {"focal": {"gama": 1}}}, "loss: focal: got an unexpected keyword argument 'gama'"),
        ({"loss": {"focal": {"gamma": -1}}}, "loss: gamma is -1"),
        ({"loss": {"focal": {}, "dice": {}}}, "loss: the loss is one name"),
        ({"loss": {"focal": {"reduction": "sum"}}}, "loss: focal: reduction is set by the job"),
        ({"augment": ["mixupp"]}, "'mixupp' is no augmentation (did you mean 'mixup'?)"),
        ({"augment": [{"remix": {"counts": [1, 2]}}]}, "remix: counts is set by the job"),
        ({"augment": [{"mixup": {"alpha": 0}}]}, "Mixup.alpha is 0"),
        ({"augment": [{"mixup": {"beta": 1}}]}, "mixup: got an unexpected keyword argument 'beta'"),
        ({"augment": [{"mixup": {"probability": {"fraud": 2}}}]}, "Mixup.probability is"),
        ({"batches": {"balance": "uniform"}}, "loss 'focal' corrects for the classes' shares"),
        ({"epochs": 0}, "epochs is 0"),
        ({"optimiser": {}}, "optimiser is not a known key (did you mean 'optimizer'?)"),
    ],
)
def test_mistakes_are_said_before_anything_starts(tmp_path, changes, sentence):
    given = settings({"training": "a", "validation": "b"}, tmp_path / "out") | changes
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(SparkimbError) as caught:
        load(str(tmp_path / "config.yaml"), Train)
    assert sentence in str(caught.value)


def test_balanced_batches_go_with_losses_that_do_not_correct(tmp_path):
    for loss in ("asymmetric", {"focal": {"class_weights": None}}, "ldam"):
        given = settings({"training": "a", "validation": "b"}, tmp_path, batches={"balance": "uniform"}, loss=loss)
        assert Train.model_validate(given).loss_and_options[0] in ("asymmetric", "focal", "ldam")
