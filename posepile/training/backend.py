"""Setting up the Keras backend for training: seeds, determinism, precision, and the stream of batches that suits it."""

import contextlib
from collections.abc import Callable, Iterator

import keras

from posepile.data.batches import BatchPlan
from posepile.data.part_workers import PartWorkers, processes_can_share_memory
from posepile.data.prefetch import prefetched_batches, start_workers
from posepile.data.queue_statistics import QueueStatistics
from posepile.data.worker_processes import available_cores
from posepile.training.step_inputs import step_inputs

MAX_DEFAULT_WORKERS = 16  # one core of a server CPU makes some 850 crops per second


def configure(seed: int, precision: str) -> None:
    """Seeds every random generator, asks for repeatable operations, sets the precision of layers made from now on."""
    keras.utils.set_random_seed(seed)
    keras.mixed_precision.set_dtype_policy(precision)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        tf.config.experimental.enable_op_determinism()


def default_data_workers() -> int:
    """How many processes make training crops: one per core but one, at most MAX_DEFAULT_WORKERS; none on a machine with few
    cores, which training itself keeps busy."""
    num_cores = available_cores()
    return min(num_cores - 1, MAX_DEFAULT_WORKERS) if num_cores >= 4 and processes_can_share_memory() else 0


def batch_stream(plan: BatchPlan, seed: int, first_step: int = 0, statistics: QueueStatistics | None = None,
                 num_processes: int = 0) -> Callable[[int], Iterator[dict]]:
    """A function of the first step of a phase that gives the batches from there on without end, bitwise the same on every
    backend, with what `step_inputs` adds.

    tf.data queues with TensorFlow, otherwise plain threads. Close the stream when done with it: a program that ends while
    queues are at work is aborted.

    Args:
        plan: of the batches.
        seed: of the run.
        first_step: steps of the run before the phase.
        statistics: is told what is made and how long the consumer waits for it.
        num_processes: that make the examples; 0: threads of this process do.

    Raises: while it is read, CorruptRecordError naming file and offset; OSError if a file cannot be read;
        WorkerError.
    """
    read = _read_queues if keras.backend.backend() == "tensorflow" else prefetched_batches

    def stream(start_step):
        with start_workers(plan, seed, num_processes) if num_processes else contextlib.nullcontext() as workers:
            batches = read(plan, seed, first_step + start_step, statistics=statistics, workers=workers)
            with contextlib.closing(statistics.watch(batches) if statistics else batches) as watched:
                for phase_step, batch in enumerate(watched, start_step):
                    yield {**batch, **step_inputs(plan, seed, first_step + phase_step, phase_step)}

    return stream


def _read_queues(plan: BatchPlan, seed: int, start_step: int, statistics: QueueStatistics | None,
                 workers: PartWorkers | None) -> Iterator[dict]:
    """Iterates over tf.data queues; errors of their Python code come out as what they were.

    Nothing may refer to the iterator in the end, a traceback neither: its queues stop only when it is deleted.
    """
    import tensorflow as tf

    from posepile.data.input_pipeline import training_dataset

    errors = []
    iterator = iter(training_dataset(plan, seed, start_step, statistics=statistics, workers=workers, on_error=errors.append))
    try:
        while True:
            try:
                batch = next(iterator)
            except tf.errors.OpError:
                if not errors:
                    raise
                break
            yield batch
    finally:
        del iterator
    raise errors[0]
