"""Batches for training and evaluation, on grain.

The order is a position: global batch s holds the shuffled examples number s * batch_size and up,
and an example's augmentation is drawn from (seed, position). So a batch is a pure function of
(seed, step): it doesn't depend on where the run was resumed, on the number of hosts or of worker
processes, and a checkpoint needs no more than the step. Grain shuffles the positions and prefetches
whole batches.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator

import grain
import numpy as np
from absl import flags

from imgen.data.source import BadExample, Source, attempt
from imgen.errors import UserError

log = logging.getLogger(__name__)
Transform = Callable[[dict, np.random.Generator | None], dict]
Failed = list[tuple[str, str]]  # name of an example, reason

# A share of bad examples means little before this many reads (or one epoch of a smaller set).
MIN_READS = 1000
# After this many unreadable neighbours in a row an example is not replaced any more.
MAX_REPLACEMENTS = 1000
_STEPS = 2**48  # the length that grain is told: training never gets there
# One thread: on small images a second one only fights for the interpreter's lock.
_READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
_READ_IN_WORKER = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)


def _host_batch(batch_size: int, process_count: int, source: Source) -> int:
    if not len(source):
        raise UserError(f"the data set {source.name} is empty")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"the global batch size {batch_size} is no multiple of the {process_count} processes"
        )
    return batch_size // process_count


def _stack(examples: list[dict]) -> dict[str, np.ndarray]:
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def _item(batch: dict, failed: Failed, reads: int = 0, error: str = "") -> dict:
    """What a reader gives. Errors travel as text beside the batch: an exception would lose its type
    between processes."""
    return {"batch": batch, "failed": failed, "reads": reads, "error": error}


class _TrainReader:
    """Item i is this host's part of global batch start_step + i, with the reads that failed."""

    def __init__(
        self,
        source: Source,
        transform: Transform,
        batch_size: int,
        seed: int,
        start_step: int,
        process_index: int,
        process_count: int,
    ):
        self.source, self.transform, self.batch_size = source, transform, batch_size
        self.seed, self.start_step = seed, start_step
        self.host_batch = _host_batch(batch_size, process_count, source)
        self.offset = process_index * self.host_batch
        self.pass_length = len(source)
        # Grain shuffles epoch e with seed + e: unmixed, consecutive seeds would share their orders.
        mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self.order = grain.MapDataset.range(len(source)).shuffle(seed=mixed).repeat(None)

    def __len__(self) -> int:
        return _STEPS

    def __getitem__(self, item: int) -> dict:
        first = (self.start_step + item) * self.batch_size + self.offset
        positions = range(first, first + self.host_batch)
        indices = [self.order[position] for position in positions]
        failed: Failed = []
        examples = []
        try:
            found = self.source.read_many(indices)
            for position, index, example in zip(positions, indices, found, strict=True):
                if isinstance(example, BadExample):
                    example = self._next_readable(index, example, failed)
                rng = np.random.default_rng((self.seed, position))
                examples.append(self.transform(example, rng))
        except UserError as error:
            return _item({}, failed, error=str(error))
        return _item(_stack(examples), failed, reads=len(examples) + len(failed))

    def _next_readable(self, index: int, bad: BadExample, failed: Failed) -> dict:
        """The first example after the bad one at `index` that can be read."""
        tries = min(len(self.source), MAX_REPLACEMENTS)
        for candidate in range(index + 1, index + 1 + tries):
            failed.append((bad.name, bad.reason))
            example = attempt(self.source.__getitem__, candidate % len(self.source))
            if not isinstance(example, BadExample):
                return example
            bad = example
        raise UserError(
            f"{self.source.name}: none of {tries} examples in a row can be read, "
            f"the last being {bad.name}: {bad.reason}"
        )


class _EvalReader:
    """Item i is this host's part of global batch i, with the reads that failed."""

    def __init__(
        self,
        source: Source,
        transform: Transform,
        batch_size: int,
        num_examples: int | None,
        process_index: int,
        process_count: int,
    ):
        self.source, self.transform, self.batch_size = source, transform, batch_size
        self.host_batch = _host_batch(batch_size, process_count, source)
        self.num_examples = min(num_examples or len(source), len(source))
        self.pass_length = self.num_examples // process_count
        self.offset = process_index * self.host_batch

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def __getitem__(self, item: int) -> dict:
        first = item * self.batch_size + self.offset
        indices = range(first, first + self.host_batch)
        indices = [index for index in indices if index < self.num_examples]
        failed: Failed = []
        try:
            examples = [self._transformed(e, failed) for e in self.source.read_many(indices)]
            examples += [None] * (self.host_batch - len(examples))
            # Any readable example tells what the padding looks like.
            known = [e for e in examples if e is not None]
            template = known[0] if known else self._any_example(failed)
        except UserError as error:
            return _item({}, failed, error=str(error))
        padding = {key: np.zeros_like(value) for key, value in template.items()}
        batch = _stack([padding if e is None else e for e in examples])
        batch["mask"] = np.array([e is not None for e in examples], np.float32)
        return _item(batch, failed, reads=len(indices))

    def _transformed(self, example: dict | BadExample, failed: Failed) -> dict | None:
        if isinstance(example, BadExample):
            failed.append((example.name, example.reason))
            return None
        return self.transform(example, None)

    def _any_example(self, failed: Failed) -> dict:
        for index in range(self.num_examples):
            example = self._transformed(attempt(self.source.__getitem__, index), failed)
            if example is not None:
                return example
        raise UserError(f"{self.source.name}: none of its {self.num_examples} examples can be read")


def _follow_parent(worker_index: int, worker_count: int) -> None:
    """Makes this worker process live as long as its parent: through a signal sent to the
    whole group, which the parent answers with a checkpoint, but not after the parent was killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Batches:
    """The batches of a reader one after another; names, counts and limits what could not be read.

    skipped: reads that failed on this host since it was made.
    """

    def __init__(self, reader, num_workers: int, max_bad_share: float):
        self._reader, self._max_bad_share = reader, max_bad_share
        self._names: dict[str, None] = {}  # of what failed, in order of appearance
        self.skipped, self._reads, self._closed = 0, 0, False
        batches = grain.MapDataset.source(reader)
        if num_workers:
            if not flags.FLAGS.is_parsed():  # in a notebook or a test; grain reads its own flags
                flags.FLAGS.mark_as_parsed()
            dataset = batches.to_iter_dataset(_READ_IN_WORKER).mp_prefetch(
                grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=2),
                worker_init_fn=_follow_parent,
            )
        else:
            dataset = batches.to_iter_dataset(_READ)
        self._iterator = iter(dataset)

    def close(self) -> None:
        """Ends the worker processes and threads. Calling it again does nothing."""
        self._closed = True
        self._iterator.close()

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        item = next(self._iterator)
        self._reads += item["reads"]
        for name, reason in item["failed"]:
            self.skipped += 1
            if name not in self._names:
                self._names[name] = None
                log.warning("skipping %s: %s", name, reason)
        if error := item["error"] or self._too_many_bad():
            self.close()
            raise UserError(error)
        return item["batch"]

    def _too_many_bad(self) -> str:
        enough = self._reads >= min(MIN_READS, self._reader.pass_length)
        if not enough or self.skipped <= self._max_bad_share * self._reads:
            return ""
        return (
            f"{self._reader.source.name}: {self.skipped} of {self._reads} reads failed, more than "
            f"max_bad_share={self._max_bad_share:g} allows; mend or remove files such as "
            + ", ".join([*self._names][:3])
        )


class TrainBatches(_Batches):
    """Endless iterator of dict[str, np.ndarray] with this host's rows; see `train_batches`."""

    def __init__(self, reader: _TrainReader, num_workers: int, max_bad_share: float):
        super().__init__(reader, num_workers, max_bad_share)
        self._next_step = reader.start_step

    def state(self) -> dict[str, int]:
        """next_index: global position of the next example, next step * batch_size; and skipped."""
        return {"next_index": self._next_step * self._reader.batch_size, "skipped": self.skipped}

    def close(self) -> None:
        if self.skipped and not self._closed:
            log.warning("%d of %d reads failed", self.skipped, self._reads)
        super().close()

    def __next__(self) -> dict[str, np.ndarray]:
        batch = super().__next__()
        self._next_step += 1
        return batch


def train_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    max_bad_share: float = 0.01,
) -> TrainBatches:
    """Shuffled batches without end, every epoch in a new order, from step `start_step` on.

    batch_size: of all processes together; each gets its consecutive rows of the same global batch.
    num_workers: processes that read and transform; with 0, a thread of this one does.
    max_bad_share: an example that can't be read is replaced by the next one in the source; if more
    than this share of the reads fail, next() raises UserError.
    """
    reader = _TrainReader(
        source, transform, batch_size, seed, start_step, process_index, process_count
    )
    return TrainBatches(reader, num_workers, max_bad_share)


def eval_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    num_examples: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    max_bad_share: float = 0.01,
) -> Iterator[dict[str, np.ndarray]]:
    """The first `num_examples` (all) in order, once, with "mask" float32 [B].

    The mask is 0 on rows that fill up the last batch and on examples that can't be read; their
    arrays are zeros. Every process gets the same number of batches. `transform` gets no rng.
    num_workers, max_bad_share: see `train_batches`.
    """
    reader = _EvalReader(source, transform, batch_size, num_examples, process_index, process_count)
    return _closing(_Batches(reader, num_workers, max_bad_share))


def _closing(batches: _Batches) -> Iterator[dict[str, np.ndarray]]:
    try:
        yield from batches
    finally:
        batches.close()
