"""petastorm's reader, told what to read, in which order, and what to make of it.  Imported after `install_compat`."""

from __future__ import annotations

import re
import warnings
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

import pyarrow as pa
from petastorm import make_batch_reader
from petastorm.etl.dataset_metadata import load_row_groups
from petastorm.workers_pool import EmptyResultError, TimeoutWaitingForResultError
from pyarrow import fs

from sparkimb.errors import SparkimbError

T = TypeVar("T")


class OrderedReader(Generic[T]):
    """A `make_batch_reader` of some files, read any number of times.

    Parameters
    ----------
    files : list of str
        Paths of the file system.
    filesystem : pyarrow.fs.FileSystem
    columns : list of str
    finish : callable
        What is made of a row group, in the thread that read it: of its file, its place there and its table.
    workers : int
        Threads.
    timeout : float
        The longest wait for a row group, in seconds.

    Attributes
    ----------
    reading : bool
        Whether a read has begun and not come to its end; another one then needs another reader.
    stop : callable
        Ends the threads.
    """

    def __init__(
        self,
        files: Sequence[str],
        filesystem: fs.FileSystem,
        columns: Sequence[str],
        finish: Callable[[str, int, pa.Table], T],
        *,
        workers: int,
        timeout: float,
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of columns that are not asked for; the others are looked at below
            self._reader = make_batch_reader(
                list(files),
                # One pattern for all: petastorm tries each on each column.
                schema_fields=[f"(?:{'|'.join(map(re.escape, columns))})$"],
                reader_pool_type="thread",
                workers_count=workers,
                shuffle_row_groups=False,
                num_epochs=1,
                filesystem=filesystem,
            )
        self.stop = weakref.finalize(self, _stop, self._reader)  # threads that nobody stops go on for ever
        if unread := [name for name in columns if name not in self._reader.schema.fields]:
            raise SparkimbError(
                f"petastorm cannot read {', '.join(unread)}, whose types it does not know. Use the loader of "
                "sparkimb.feed.torch."
            )
        self._reader._results_queue_reader = _AsPublished()
        pool = self._reader._workers_pool
        pool.timeout_s = timeout
        for thread in pool._workers:
            thread._worker_impl.finish = lambda piece, table: finish(piece.path, piece.row_group, table)
        ventilator = self._reader.ventilator
        items = {item["piece_index"]: item for item in ventilator._items_to_ventilate}
        pieces = load_row_groups(self._reader.dataset)
        self._items = {(piece.path, piece.row_group): items[i] for i, piece in enumerate(pieces)}
        # The ventilator keeps at most workers + 2 row groups on their way.  Those that came before their turn count as
        # well: one is off the way when it is handed on, and not, as petastorm has it, when it came.
        self._handed_on, ventilator.processed_item = ventilator.processed_item, _nothing
        self.reading = False

    def read(self, row_groups: Sequence[tuple[str, int]]) -> Generator[T, None, None]:
        """Yield what was made of row groups, given by their files and places there, each once and in this order."""
        self.reading = len(row_groups) > 0  # already now, before the first is asked for
        return self._read(row_groups)

    def _read(self, row_groups: Sequence[tuple[str, int]]) -> Generator[T, None, None]:
        if not row_groups:
            return
        items = [self._items[row_group] for row_group in row_groups]
        self._reader.ventilator._items_to_ventilate = items
        if self._reader.last_row_consumed:
            self._reader.reset()
        came: dict[int, T] = {}
        try:
            for item, row_group in zip(items, row_groups, strict=True):
                while item["piece_index"] not in came:
                    came.update([self._next(*row_group)])
                self._handed_on()
                yield came.pop(item["piece_index"])
            self.reading = next(self._reader, None) is not None  # the end, which petastorm must have seen
        finally:
            if self.reading:
                self.stop()

    def _next(self, file: str, place: int) -> tuple[int, T]:
        """Return the row group that comes next and its index, while waiting for one."""
        try:
            found: tuple[int, T] = next(self._reader)
        except StopIteration:
            raise SparkimbError(
                f"petastorm's read ended before row group {place} of '{file}' came. Start it again."
            ) from None
        except TimeoutWaitingForResultError as error:
            raise SparkimbError(
                f"petastorm waited for row group {place} of '{file}', and {error}. See whether the file system "
                "answers, or pass a longer timeout."
            ) from error
        return found


class _AsPublished:
    """What the workers published, in place of petastorm's named tuples of arrays."""

    batched_output = True

    def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> Any:
        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


def _stop(reader: Any) -> None:
    reader.stop()
    reader.join()


def _nothing() -> None:
    pass
