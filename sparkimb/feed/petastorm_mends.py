"""petastorm's pools, worker and results where they lose or change data.  Imported by `install_compat` alone."""

from __future__ import annotations

import queue
from collections.abc import Collection
from time import monotonic, sleep
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from petastorm.arrow_reader_worker import ArrowReaderWorker, ArrowReaderWorkerResultsQueueReader
from petastorm.cache import NullCache
from petastorm.fs_utils import get_filesystem_and_path_or_paths
from petastorm.workers_pool import EmptyResultError, TimeoutWaitingForResultError, VentilatedItemProcessedMessage
from petastorm.workers_pool.dummy_pool import DummyPool
from petastorm.workers_pool.thread_pool import ThreadPool

from sparkimb.errors import SparkimbError
from sparkimb.feed.petastorm_dataset import ParquetDatasetPiece

# Seconds between looks at whether an epoch has ended.
POLL_S = 0.1
# Seconds to wait for a thread to end.  One that is stuck in a read is left behind: it is a daemon.
JOIN_S = 10.0


class MendedThreadPool(ThreadPool):  # type: ignore[misc]
    """A pool of threads that ends an epoch only when all its row groups have come.

    petastorm looks first whether work is left, and then whether more will come: work that came in between was dropped,
    and the epoch ended early without an error.  Asked the other way round, the answer is final.

    Reading starts with the first result asked for, so that an order can be set before.

    Attributes
    ----------
    timeout_s : float
        The longest wait for a row group, of whose rows a predicate may leave none.
    """

    timeout_s = 600.0

    def start(self, worker_class: Any, worker_args: Any = None, ventilator: Any = None) -> None:
        """Start the threads."""
        super().start(worker_class, worker_args)
        self._waiting_ventilator = ventilator

    def get_results(self) -> Any:
        """Return what a worker published next."""
        if self._waiting_ventilator:
            self._ventilator, self._waiting_ventilator = self._waiting_ventilator, None
            self._ventilator.start()
        deadline = monotonic() + self.timeout_s
        while True:
            all_ventilated = self._ventilator is None or self._ventilator.completed()
            if all_ventilated and self._ventilated_items == self._ventilated_items_processed:
                raise EmptyResultError
            try:
                result = self._results_queue.get(timeout=POLL_S)
            except queue.Empty:
                if monotonic() > deadline:
                    raise TimeoutWaitingForResultError(f"no row group was read in {self.timeout_s:g} seconds") from None
                continue
            if isinstance(result, Exception):
                self.stop()
                raise result
            if not isinstance(result, VentilatedItemProcessedMessage):
                return result
            deadline = monotonic() + self.timeout_s
            self._ventilated_items_processed += 1
            if self._ventilator:
                self._ventilator.processed_item()

    def join(self) -> None:
        """Wait for the threads to end, but not for ever."""
        deadline = monotonic() + JOIN_S
        for worker in self._workers:
            worker.join(max(deadline - monotonic(), 0))


class MendedDummyPool(DummyPool):  # type: ignore[misc]
    """A pool that reads in the caller's thread, and ends an epoch as `MendedThreadPool` does.

    petastorm's could also wait for ever, where the ventilator had handed out its last row group but not said so yet.
    """

    def get_results(self) -> Any:
        """Return what the worker published next."""
        while not self._results_queue:
            all_ventilated = self._ventilator is None or self._ventilator.completed()
            if self._ventilator_queue:
                args, kwargs = self._ventilator_queue.pop(0)
                self._worker.process(*args, **kwargs)
                if self._ventilator:
                    self._ventilator.processed_item()
            elif all_ventilated:
                raise EmptyResultError
            else:
                sleep(0.001)
        return self._results_queue.pop(0)


class NoProcessPool:
    """What stands for petastorm's pool of processes: they would start without the layer, and be waited for in vain."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise SparkimbError(
            "reader_pool_type is 'process', which sparkimb's petastorm layer does not reach into. Use 'thread': it is "
            "faster, as Parquet is decoded without the interpreter's lock."
        )


class MendedWorker(ArrowReaderWorker):  # type: ignore[misc]
    """`make_batch_reader`'s worker: one read of a row group, whose rows are chosen and shuffled whole, in Arrow.

    petastorm's read the columns of a predicate and the others apart, shuffled each in its own order, and took both
    through pandas, where integers became floats.  With shuffle_row_drop_partitions it shuffled before it divided the
    rows, anew for each part, so that parts had rows in common and lacked others.

    Attributes
    ----------
    finish : callable
        What is made of a row group, of its piece and its table, to be published; nothing is where it is None.
    """

    finish = staticmethod(lambda piece, table: table if len(table) else None)

    @staticmethod
    def new_results_queue_reader() -> MendedResults:
        """Return what makes arrays of the published tables."""
        return MendedResults()

    def process(self, piece_index: int, worker_predicate: Any, shuffle_row_drop_partition: tuple[int, int]) -> None:
        """Publish the index of a row group, and what is made of it."""
        piece = self._split_pieces[piece_index]
        columns = {field.name for field in self._schema.fields.values()}

        def rows() -> pa.Table:
            table = self._read(piece, columns, worker_predicate, shuffle_row_drop_partition)
            return self._load_rows(table, piece, shuffle_row_drop_partition) if len(table) else table

        if isinstance(self._local_cache, NullCache):
            table = rows()
        elif worker_predicate is not None or shuffle_row_drop_partition[1] != 1:
            raise SparkimbError(
                "cache_type is set together with a predicate or shuffle_row_drop_partitions, and the cache keeps whole "
                "row groups. Leave out one of them."
            )
        else:
            # The columns too: another reader of the same cache may want others.
            table = self._local_cache.get(f"{piece.path}:{piece.row_group}:{','.join(sorted(columns))}", rows)
        if (finished := self.finish(piece, table)) is not None:
            self.publish_func((piece_index, finished))

    def _read(
        self, piece: ParquetDatasetPiece, columns: Collection[str], predicate: Any, drop_partition: tuple[int, int]
    ) -> pa.Table:
        table = piece.read(columns)
        part, parts = drop_partition
        start, stop = -(-part * len(table) // parts), -(-(part + 1) * len(table) // parts)
        table = table.slice(start, stop - start)
        if predicate is not None:
            table = table.filter(_included(predicate, table))
        return table.take(self._random_state.permutation(len(table))) if self._shuffle_rows else table

    def _read_with_shuffle_row_drop(self, piece: Any, pq_file: pa.Table, column_names: Any, drop_partition: Any) -> Any:
        """Return the rows already read, which `_load_rows` is given in place of a file: it only transforms them."""
        return pq_file


def _included(predicate: Any, table: pa.Table) -> NDArray[np.bool_]:
    names = sorted(predicate.get_fields())
    if not names or not set(names) <= set(table.column_names):
        raise SparkimbError(
            f"The predicate is of columns {', '.join(names) or '(none)'}, and those read are: "
            f"{', '.join(table.column_names)}. Read the predicate's columns too, by schema_fields."
        )
    mask: NDArray[np.bool_] = np.asarray(predicate.do_include(table.select(names).to_pandas()))
    if mask.dtype != bool or mask.shape != (len(table),):
        raise TypeError(
            f"The predicate gave {mask.dtype} of shape {mask.shape} for a row group of {len(table)} rows. It is handed "
            "a pandas DataFrame and must give one bool for each row."
        )
    return mask


class MendedResults(ArrowReaderWorkerResultsQueueReader):  # type: ignore[misc]
    """Published tables as named tuples of NumPy arrays; lists of one length become a matrix at once, not row by row."""

    def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> Any:
        """Return the next row group."""
        try:
            _, table = workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None
        arrays = {name: _to_numpy(name, table.column(name)) for name in table.column_names}
        for name, values in arrays.items():
            if len(shape := schema.fields[name].shape) > 1:
                arrays[name] = values.reshape(len(values), *shape)
        return schema.make_namedtuple(**arrays)


def _to_numpy(name: str, column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_list(column.type):
        return _to_matrix(name, column.combine_chunks())
    values: NDArray[Any]
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        # The same as by pandas, which takes 5 % of the time that the read of a table of numbers takes.
        values = column.to_numpy()
    else:
        values = column.to_pandas().to_numpy()
    return values.astype(np.str_) if pa.types.is_string(column.type) else values


def _to_matrix(name: str, lists: pa.ListArray) -> NDArray[Any]:
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
        raise SparkimbError(
            f"Column '{name}' has lists of lengths {', '.join(str(n) for n in lengths)}, which make no matrix. Write "
            "lists of one length, or leave the column out by schema_fields."
        )
    values: NDArray[Any] = lists.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(lists), lengths[0])


def paths_as_given(
    url_or_urls: Any, hdfs_driver: str = "libhdfs3", storage_options: Any = None, filesystem: Any = None
) -> Any:
    """Return the file system and paths of URLs; paths without a scheme are those of the file system given.

    petastorm takes them for local ones and makes them absolute.
    """
    urls = url_or_urls if isinstance(url_or_urls, list) else [url_or_urls]
    if filesystem is not None and not any("://" in url for url in urls):
        return filesystem, url_or_urls
    return get_filesystem_and_path_or_paths(url_or_urls, hdfs_driver, storage_options, filesystem)
