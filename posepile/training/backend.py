"""Setting up the Keras backend for training: seeds, determinism, precision, and the stream of batches that suits it."""

from collections.abc import Callable, Iterator

import keras

from posepile.data.batches import BatchPlan
from posepile.data.py_dataset import BatchSequence


def configure(seed: int, precision: str) -> None:
    """Seeds every random generator, asks for repeatable operations, sets the precision of layers made from now on."""
    keras.utils.set_random_seed(seed)
    keras.mixed_precision.set_dtype_policy(precision)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        tf.config.experimental.enable_op_determinism()


def batch_stream(plan: BatchPlan, seed: int, num_steps: int) -> Callable[[int], Iterator[dict]]:
    """A function of the first step that gives the batches from there on, bitwise the same on every backend.

    tf.data queues with TensorFlow, otherwise the same batch function without it.
    """
    if keras.backend.backend() == "tensorflow":
        from posepile.data.input_pipeline import training_dataset
        return lambda start_step: iter(training_dataset(plan, seed, start_step))

    def stream(start_step):
        sequence = BatchSequence(plan, seed, start_step, num_steps - start_step)
        return (sequence[i] for i in range(num_steps - start_step))

    return stream
