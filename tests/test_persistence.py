"""What is saved is JSON, and what is loaded is checked: its class and the version of its format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from sparkimb import RandomOverSampler, RandomUnderSampler, RandomUnderSamplerModel
from sparkimb.errors import SparkimbError
from sparkimb.testing import example


def metadata(path: Path) -> Path:
    return next(file for file in (path / "metadata").iterdir() if file.name.startswith("part-"))


def test_what_is_saved_is_json_only(spark: SparkSession, tmp_path: Path) -> None:
    model = RandomUnderSampler(idCols=["id"], samplingStrategy={"common": 30}).fit(example(spark))
    model.write().save(str(tmp_path / "model"))
    data = [file for file in tmp_path.rglob("*") if file.is_file() and file.name[0] not in "._"]
    assert data == [metadata(tmp_path / "model")]
    saved = json.loads(data[0].read_text())
    assert saved["formatVersion"] == 1
    assert saved["state"]["plan"] == model.plan.to_json()


def test_a_path_that_exists_is_kept_unless_overwritten(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "sampler")
    RandomUnderSampler(seed=1).write().save(path)
    with pytest.raises(Exception, match="exist"):
        RandomUnderSampler(seed=2).write().save(path)
    assert RandomUnderSampler.load(path).getSeed() == 1
    RandomUnderSampler(seed=2).write().overwrite().save(path)
    assert RandomUnderSampler.load(path).getSeed() == 2


def test_another_class_and_another_version_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "sampler"
    RandomOverSampler().write().save(str(path))
    with pytest.raises(SparkimbError, match=r"RandomOverSampler, not a .*RandomUnderSamplerModel"):
        RandomUnderSamplerModel.load(str(path))
    saved = json.loads(metadata(path).read_text())
    metadata(path).write_text(json.dumps({**saved, "formatVersion": 99}) + "\n")
    (metadata(path).parent / f".{metadata(path).name}.crc").unlink()
    with pytest.raises(SparkimbError, match="format version 99, and this sparkimb reads version 1"):
        RandomOverSampler.load(str(path))
