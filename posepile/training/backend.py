"""Setting up the Keras backend for training: seeds, determinism, precision, and the stream of batches that suits it."""

import re
from collections.abc import Callable, Iterator

import keras

from posepile.data.batches import BatchPlan
from posepile.data.py_dataset import BatchSequence
from posepile.data.tfrecord import CorruptRecordError

# How the message of a TensorFlow error quotes an error of the Python code in the input pipeline.
_CORRUPT_RECORD = re.compile(rf"\b{CorruptRecordError.__name__}: (.+)")
_UNREADABLE_FILE = re.compile(r"\b(?:FileNotFoundError|PermissionError|OSError): (.+)")


def configure(seed: int, precision: str) -> None:
    """Seeds every random generator, asks for repeatable operations, sets the precision of layers made from now on."""
    keras.utils.set_random_seed(seed)
    keras.mixed_precision.set_dtype_policy(precision)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        tf.config.experimental.enable_op_determinism()


def batch_stream(plan: BatchPlan, seed: int, num_steps: int) -> Callable[[int], Iterator[dict]]:
    """A function of the first step that gives the batches from there on, bitwise the same on every backend.

    tf.data queues with TensorFlow, otherwise the same batch function without it. Close the stream when done with it: a
    program that ends while queues are at work is aborted.

    Raises: while it is read, CorruptRecordError naming file and offset; OSError if a file cannot be read.
    """
    if keras.backend.backend() == "tensorflow":
        from posepile.data.input_pipeline import training_dataset
        return lambda start_step: _read_queues(training_dataset(plan, seed, start_step))

    def stream(start_step):
        sequence = BatchSequence(plan, seed, start_step, num_steps - start_step)
        return (sequence[i] for i in range(num_steps - start_step))

    return stream


def _read_queues(dataset) -> Iterator[dict]:
    """Iterates over a `tf.data.Dataset`; errors of its Python code come out as what they were.

    Nothing may refer to the iterator in the end, a traceback neither: its queues stop only when it is deleted.
    """
    import tensorflow as tf
    iterator = iter(dataset)
    try:
        while True:
            try:
                batch = next(iterator)
            except tf.errors.OpError as error:
                cause = _python_error(error.message)
                if cause is None:
                    raise
                break
            yield batch
    finally:
        del iterator
    raise cause


def _python_error(message: str) -> Exception | None:
    if match := _CORRUPT_RECORD.search(message):
        return CorruptRecordError(match[1])
    match = _UNREADABLE_FILE.search(message)
    return OSError(match[1]) if match else None
