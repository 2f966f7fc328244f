"""The same batches as `batches.make_batch`, made ahead of time by tf.data.

One queue per data set reads, decodes and augments on several threads (OpenCV releases the GIL) or has worker processes
do it; the queues are zipped and their examples dealt to fixed rows. Every element is a function of its step, so the
batches are bitwise the same for any number of threads and processes, and a run resumes at any step without reading what
came before.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from posepile.data import batches, prefetch
from posepile.data.batches import BatchPlan, PartPlan
from posepile.data.part_workers import PartWorkers
from posepile.data.queue_statistics import QueueStatistics

_PREFETCHED_BATCHES = 2
_LAST_STEP = 1 << 53


def training_dataset(plan: BatchPlan, seed: int, start_step: int = 0, num_parallel_calls: int | None = None, *,
                     statistics: QueueStatistics | None = None, workers: PartWorkers | None = None,
                     on_error: Callable[[Exception], None] | None = None) -> tf.data.Dataset:
    """An endless stream of training batches, from any step on.

    Args:
        plan: what every batch is made of. A worker of a distributed run passes `plan.share(worker, num_workers)`, as in
            `strategy.distribute_datasets_from_function`: every worker makes its own rows of the batch and no others, so
            tf.data is told not to shard.
        seed: of the run.
        start_step: the step of the first batch.
        num_parallel_calls: threads in all; None: one per CPU core.
        statistics: is told what is made.
        workers: processes that make the examples instead; the threads wait for them.
        on_error: called with the error when examples cannot be made, as tf.data passes on no more than its text.

    Returns: elements as `batches.make_batch(plan, seed, step)` for step = start_step, start_step + 1, ..., with static
        shapes.
    Raises: while it is read, tf.errors.OpError with the text of the error, which names file and offset of a record that
        cannot be used; where it is the batch's turn or up to `prefetch.steps_per_call` batches earlier.
    """
    num_threads = prefetch.prepare_threads(num_parallel_calls, workers)

    def load(part, step):
        try:
            return prefetch.load_part(plan, part, seed, step, statistics, workers)
        except Exception as error:
            if on_error:
                on_error(error)
            raise

    queues = tuple(_part_queue(plan, part, start_step, num_threads, load) for part in plan.parts)
    dataset = tf.data.Dataset.zip(queues).map(lambda *arrays: _deal(plan, arrays), num_parallel_calls=num_threads)
    return _with_options(dataset.prefetch(_PREFETCHED_BATCHES), num_threads)


def _part_queue(plan: BatchPlan, part: PartPlan, start_step: int, num_threads: int,
                load: Callable[[PartPlan, int], dict[str, np.ndarray]]) -> tf.data.Dataset:
    """One data set's examples, an element per step."""
    specs = {name: ((len(part.rows), *shape), dtype)
             for name, (shape, dtype) in _crop_specs(part.kind, plan.crop_side, part.num_joints).items()}
    num_steps = prefetch.steps_per_call(plan, part)
    # Twice its share of the threads: what is begun takes memory, and there may be dozens of queues.
    num_calls = min(num_threads, max(2, math.ceil(2 * num_threads * len(part.rows) / plan.batch_size)))
    calls = tf.data.Dataset.range(start_step, _LAST_STEP, num_steps).map(
        lambda step: _numpy_call(lambda number: load(part, number), step, specs), num_parallel_calls=num_calls)
    # As unbatch(), but the images share the memory of the call's result instead of being copied.
    return calls.flat_map(lambda arrays: tf.data.Dataset.range(num_steps).map(
        lambda i: {name: values[i] for name, values in arrays.items()}))


def _deal(plan: BatchPlan, arrays: Sequence[dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
    """Puts the examples of all data sets into their rows of the batch."""
    batch = {}
    for name, (shape, dtype) in plan.array_specs().items():
        parts = [(part, values[name]) for part, values in zip(plan.parts, arrays, strict=True) if name in values]
        if not parts:  # labels of a kind that no data set of the plan has
            batch[name] = tf.zeros(shape, dtype)
            continue
        rows = [batches.batch_rows(plan, part, name) for part, _ in parts]
        batch[name] = tf.ensure_shape(tf.dynamic_stitch(rows, [values for _, values in parts]), shape)
    return batch


def _crop_specs(kind: str, crop_side: int, num_joints: int) -> dict[str, tuple[tuple, tf.DType]]:
    """Name -> (shape of one example, dtype) of what `crops.crop_examples` returns."""
    num_coordinates = {"3d": 3, "2d": 2}[kind]
    return {"image": ((crop_side, crop_side, 3), tf.uint8), "intrinsics": ((3, 3), tf.float32),
            f"joints{kind}": ((num_joints, num_coordinates), tf.float32),
            f"joints{kind}_mask": ((num_joints,), tf.bool)}


@tf.autograph.experimental.do_not_convert
def _numpy_call(function: Callable[[int], dict[str, np.ndarray]], argument: tf.Tensor,
                specs: dict[str, tuple[tuple, tf.DType]]) -> dict[str, tf.Tensor]:
    """Calls a function that returns a dict of arrays with a leading axis of any length."""

    def call(number):
        arrays = function(int(number))
        return [arrays[name] for name in specs]

    outputs = tf.numpy_function(call, [argument], [dtype for _, dtype in specs.values()], stateful=False)
    return {name: tf.ensure_shape(output, (None, *shape))
            for output, (name, (shape, _)) in zip(outputs, specs.items(), strict=True)}


def _with_options(dataset: tf.data.Dataset, num_threads: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = num_threads + 1  # one for the steps that follow, if all others wait
    # Every worker of a distributed run has a stream of its own, with its share of every batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
