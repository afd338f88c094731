"""The state of a stream as of each batch, in a directory of any file system that Spark knows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.params import column_name, integer

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StateTable:
    """A table of states by batch id: what a replayed batch starts from is what it started from the first time.

    Parameters
    ----------
    path : str
        A directory of this stream alone.  Beside the checkpoint is a good place; the two belong together.
    versions : int in [2, ∞), default=8
        States kept.  Batch b overwrites the one of batch b - versions.  Spark repeats the last batch at most, so two
        would do; more allow a checkpoint to be set back by hand.  Of a stream it stays as it is.

    Notes
    -----
    A state is one line of JSON in one text file, with a checksum.  Reading and writing are a small Spark job each.  A
    driver that dies while it writes the state of batch b leaves that of b - 1 as it was, and batch b is run again.
    """

    path: str
    versions: int = 8

    def __post_init__(self) -> None:
        column_name("StateTable.path")(self.path)
        integer("StateTable.versions", 2)(self.versions)

    def slot(self, batchId: int) -> str:
        """Return the directory that holds the state after a batch, until a later batch takes its place."""
        return f"{self.path}/slot={batchId % self.versions}"

    def before(self, spark: SparkSession, batchId: int) -> dict[str, Any] | None:
        """Return the state that a batch starts from, or None for batch 0: one small job.

        Raises
        ------
        SparkimbError
            If the state after the batch before is not there, is damaged, or is of another format.
        """
        return None if batchId == 0 else self.read(spark, batchId - 1)

    def read(self, spark: SparkSession, batchId: int) -> dict[str, Any]:
        """Return the state after a batch."""
        slot = self.slot(batchId)
        try:
            files = (
                spark.read.option("wholetext", True).text(slot).select("value", F.col("_metadata.file_path")).head(2)
            )
        except AnalysisException as error:
            if error.getCondition() != "PATH_NOT_FOUND":
                raise
            files = []
        except Exception as error:  # of a task: on a classic session py4j's, which Spark Connect need not have
            raise self._damaged(slot, f"cannot be read: {_about(slot, error)}") from error
        if not files:
            self._check_slots(spark, batchId)
            raise SparkimbError(
                f"The state after batch {batchId} is not in '{slot}', but the checkpoint goes on from there. Put "
                f"'{self.path}' back as it was, or start anew: with an empty checkpoint."
            )
        if len(files) > 1:
            raise self._damaged(slot, "holds more than one file")
        text, name = files[0]
        checksum, _, body = text.strip("\n").partition(" ")
        if checksum != _checksum(body):
            raise self._damaged(name, "is damaged: its checksum does not match")
        content = json.loads(body)
        if content["formatVersion"] != FORMAT_VERSION:
            raise SparkimbError(
                f"The state in '{name}' is of format version {content['formatVersion']}, and this sparkimb reads "
                f"version {FORMAT_VERSION}. Go on with the release that wrote it."
            )
        if content["batchId"] != batchId:
            self._check_slots(spark, batchId)
            raise SparkimbError(
                f"The state in '{name}' is of batch {content['batchId']}, but the checkpoint goes on from batch "
                f"{batchId}. The two do not belong together, or the checkpoint was set back by more than "
                f"{self.versions} batches. Put them back as they were, or start anew: with an empty checkpoint."
            )
        state: dict[str, Any] = content["state"]
        return state

    def write(self, spark: SparkSession, batchId: int, state: dict[str, Any]) -> None:
        """Keep the state after a batch: one small job."""
        content = {"formatVersion": FORMAT_VERSION, "batchId": batchId, "state": state}
        body = json.dumps(content, separators=(",", ":"), sort_keys=True)
        line = spark.createDataFrame([(f"{_checksum(body)} {body}",)], "value string")
        line.coalesce(1).write.mode("overwrite").text(self.slot(batchId))

    def _check_slots(self, spark: SparkSession, batchId: int) -> None:
        """Raise if the state after a batch is in another slot, as that of a table with other `versions`: one job."""
        wanted = F.col("value").contains(f' {{"batchId":{batchId},')
        try:
            states = spark.read.option("wholetext", True).text(f"{self.path}/slot=*")
            found = states.where(wanted).select("_metadata.file_path").head()
        except AnalysisException:  # there is no slot
            return
        if found is not None:
            raise SparkimbError(
                f"The state after batch {batchId} is in '{found[0]}', where StateTable.versions (stateVersions) of "
                f"{self.versions} does not look for it: the stream was begun with another number. Set it as it was."
            )

    def _damaged(self, name: str, how: str) -> SparkimbError:
        return SparkimbError(
            f"The state '{name}' {how}. Nothing was read from it. Put the file back from a copy, or start anew: with "
            "an empty checkpoint."
        )


def _checksum(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _about(slot: str, error: Exception) -> str:
    """Return the line of an error that names the file."""
    lines = str(error).strip().splitlines()
    return next((line for line in lines if slot in line), lines[0]).strip().rstrip(".")
