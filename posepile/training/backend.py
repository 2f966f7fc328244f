"""Setting up the Keras backend for training: seeds, determinism, precision, and the stream of batches that suits it."""

from collections.abc import Callable, Iterator

import keras

from posepile.data.batches import BatchPlan
from posepile.data.prefetch import prefetched_batches
from posepile.data.queue_statistics import QueueStatistics


def configure(seed: int, precision: str) -> None:
    """Seeds every random generator, asks for repeatable operations, sets the precision of layers made from now on."""
    keras.utils.set_random_seed(seed)
    keras.mixed_precision.set_dtype_policy(precision)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        tf.config.experimental.enable_op_determinism()


def batch_stream(plan: BatchPlan, seed: int, statistics: QueueStatistics | None = None) -> Callable[[int], Iterator[dict]]:
    """A function of the first step that gives the batches from there on without end, bitwise the same on every backend.

    tf.data queues with TensorFlow, otherwise plain threads. Close the stream when done with it: a program that ends while
    queues are at work is aborted.

    Args:
        plan: of the batches.
        seed: of the run.
        statistics: is told what is made and how long the consumer waits for it.

    Raises: while it is read, CorruptRecordError naming file and offset; OSError if a file cannot be read.
    """
    def stream(start_step):
        if keras.backend.backend() == "tensorflow":
            batches = _read_queues(plan, seed, start_step, statistics)
        else:
            batches = prefetched_batches(plan, seed, start_step, statistics=statistics)
        return statistics.watch(batches) if statistics else batches

    return stream


def _read_queues(plan: BatchPlan, seed: int, start_step: int, statistics: QueueStatistics | None) -> Iterator[dict]:
    """Iterates over tf.data queues; errors of their Python code come out as what they were.

    Nothing may refer to the iterator in the end, a traceback neither: its queues stop only when it is deleted.
    """
    import tensorflow as tf

    from posepile.data.input_pipeline import training_dataset

    errors = []
    iterator = iter(training_dataset(plan, seed, start_step, statistics=statistics, on_error=errors.append))
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
