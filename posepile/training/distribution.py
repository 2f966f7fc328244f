"""Training on several devices, and on several machines, with one batch per step cut into equal blocks.

TensorFlow: tf.distribute, MirroredStrategy on one machine, MultiWorkerMirroredStrategy where TF_CONFIG names several workers.
JAX: keras.distribution. Batches, losses and gradients are those of one device, whatever the number of devices.
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from posepile.models import losses
from posepile.training.optimizer import update_here
from posepile.training.step_inputs import blocks, in_blocks

_DIGESTS = 9973  # few enough for sums in float32 to be exact

@dataclasses.dataclass(frozen=True)
class Distribution:
    """The devices that train together; this is that of a single device.

    Attributes:
        num_local: devices of this process.
        worker, num_workers: this process among all that train together.
    """

    num_local: int = 1
    worker: int = 0
    num_workers: int = 1

    @property
    def num_devices(self) -> int:
        """Of all workers."""
        return self.num_local * self.num_workers

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files that all workers share."""
        return self.worker == 0

    num_blocks = 1  # that one run of the model's code sees, see `PoseObjective`
    num_replicas = 1  # runs of the model's code side by side

    def scope(self) -> contextlib.AbstractContextManager:
        """Within it, variables are made for all devices."""
        return contextlib.nullcontext()

    def place(self, batch: Mapping[str, np.ndarray]) -> Any:
        """The arrays of a worker's batch on its devices."""
        return dict(batch)

    def sum_over_devices(self, values):
        return losses.alone(values)

    def any_worker(self, flag: bool) -> bool:
        """Whether the flag is True in any process; all of them have to ask at the same step."""
        return self.sum_over_workers(float(flag)) > 0

    def sum_over_workers(self, value: float) -> float:
        """In float32, over all processes; all of them have to ask."""
        return value

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Raises: ValueError in all processes, naming the values that are not the same in all of them."""
        different = []
        for name, value in values.items():
            digest = float(zlib.crc32(repr(value).encode()) % _DIGESTS)
            if self.any_worker(self.sum_over_workers(digest) != digest * self.num_workers):
                different.append(f"  {name}: {value!r} here")
        if different:
            raise ValueError("the processes of this training were started differently. Give all of them the same flags and "
                             "files. Not everywhere the same:\n" + "\n".join(different))

    def chief_first(self, function: Callable[[], Any]) -> None:
        """Calls a function in the chief and then in the other processes.

        Raises: what it raises; ValueError in those where it did not, if it did elsewhere.
        """
        for is_turn in (self.is_chief, not self.is_chief):
            failure = None
            if is_turn:
                try:
                    function()
                except Exception as error:
                    failure = error
            if self.any_worker(failure is not None):
                raise failure or ValueError("another process of this training has stopped; its output says why")

    update_each = staticmethod(update_here)


@dataclasses.dataclass(frozen=True)
class TensorFlowDistribution(Distribution):
    """The code of the model runs once per device; gradients are summed.

    Attributes:
        strategy: the tf.distribute.Strategy.
    """

    strategy: Any = None

    @property
    def num_replicas(self) -> int:
        return self.num_devices

    def scope(self):
        return self.strategy.scope()

    def place(self, batch):
        parts = list(blocks(batch, self.num_local))
        first = self.worker * self.num_local
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group - first])

    def sum_over_devices(self, values):
        import tensorflow as tf
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)

    def sum_over_workers(self, value):
        if self.num_workers == 1:
            return value
        import tensorflow as tf
        total = self.strategy.run(lambda: self.sum_over_devices(tf.constant(value, tf.float32)))
        return float(self.strategy.experimental_local_results(total)[0]) / self.num_local

    def update_each(self, update: Callable, variables: Sequence, gradients: Sequence, slots: Sequence[tuple], shared: tuple):
        """`update_here` on every device; gradients and shared values are already the same on all of them."""
        import tensorflow as tf

        def update_all(strategy, gradients, shared):
            for index, (variable, gradient) in enumerate(zip(variables, gradients, strict=True)):
                strategy.extended.update(
                    variable.value, lambda variable, *args, index=index: update(index, variable, *args),
                    args=(gradient, *(slot.value for slot in slots[index]), *shared), group=False)

        tf.distribute.get_replica_context().merge_call(update_all, args=(gradients, shared))


@dataclasses.dataclass(frozen=True)
class JaxDistribution(Distribution):
    """The code of the model runs once, on arrays that are spread over the devices.

    Attributes:
        data_parallel: the keras.distribution.DataParallel of all devices.
    """

    data_parallel: Any = None

    @property
    def num_blocks(self) -> int:
        return self.num_devices

    def scope(self):
        return self.data_parallel.scope()

    def place(self, batch):
        import jax
        rows = self.data_parallel.get_data_layout((self.num_devices,)).backend_layout
        return {name: jax.make_array_from_process_local_data(rows, values) if np.ndim(values) else values
                for name, values in in_blocks(batch, self.num_local).items()}

    def sum_over_workers(self, value):
        if self.num_workers == 1:
            return value
        from jax.experimental import multihost_utils
        return float(multihost_utils.process_allgather(np.float32(value)).sum())


def make_distribution(num_devices: int | None = None) -> Distribution:
    """Finds the devices to train on; to be called before anything else uses the backend.

    Args: num_devices: of this machine; None: all of its GPUs or TPUs, or one CPU. On a machine without accelerators several
        devices are parts of its CPU, which is good for tests only.

    Raises: ValueError if the machine has fewer.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _tensorflow_distribution(num_devices)
    if backend == "jax":
        return _jax_distribution(num_devices)
    if num_devices not in (None, 1):
        raise ValueError(f"--devices={num_devices} needs the TensorFlow or the JAX backend; this is {backend}")
    return Distribution()


def _tensorflow_distribution(num_devices: int | None) -> Distribution:
    import tensorflow as tf

    workers = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {}).get("worker", [])
    accelerators = tf.config.list_physical_devices("GPU")
    if num_devices is not None and accelerators:
        _check_enough(num_devices, len(accelerators))
        accelerators = accelerators[:num_devices]
        tf.config.set_visible_devices(accelerators, "GPU")
    if not accelerators and (num_devices or 1) > 1:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * num_devices)
    num_local = len(accelerators) or num_devices or 1
    if len(workers) > 1:
        if not accelerators and num_local > 1:
            raise ValueError(f"--devices={num_local}: of several machines without GPUs, each trains on one device, its CPU")
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        print(f"worker {resolver.task_id} of {len(workers)}, waiting until all of them have been started: {' '.join(workers)}",
              file=sys.stderr, flush=True)
        with _handlers_kept():
            strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
        return TensorFlowDistribution(num_local, resolver.task_id, len(workers), strategy=strategy)
    if num_local == 1:
        return Distribution()
    return TensorFlowDistribution(num_local, strategy=tf.distribute.MirroredStrategy(
        [f"/{'GPU' if accelerators else 'CPU'}:{i}" for i in range(num_local)]))


@contextlib.contextmanager
def _handlers_kept():
    """Within the block Ctrl-C ends the process, as Python's handler would wait; afterwards all handlers are as before.

    TensorFlow takes SIGTERM for itself when it connects to other processes.
    """
    old = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_DFL), signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


def _jax_distribution(num_devices: int | None) -> Distribution:
    import jax

    if (num_devices or 1) > 1:
        jax.config.update("jax_num_cpu_devices", num_devices)  # without effect on accelerators
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        keras.distribution.initialize()
    local, num_workers = jax.local_devices(), jax.process_count()
    if num_devices is not None:
        _check_enough(num_devices, len(local))
    num_local = num_devices or (1 if local[0].platform == "cpu" else len(local))
    devices = [device for worker in range(num_workers) for device in jax.local_devices(worker)[:num_local]]
    if len(devices) == 1:
        return Distribution()
    return JaxDistribution(num_local, jax.process_index(), num_workers,
                           data_parallel=keras.distribution.DataParallel(devices=devices))


def _check_enough(wanted: int, there: int) -> None:
    if wanted > there:
        raise ValueError(f"--devices={wanted}: this machine has {there}")
