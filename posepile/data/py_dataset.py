"""The batches of `batches.make_batch` as a Keras data set, for backends without tensorflow."""

import keras
import numpy as np

from posepile.data import batches
from posepile.data.batches import BatchPlan


class BatchSequence(keras.utils.PyDataset):
    """Training batches of consecutive steps; item i is the batch of step start_step + i.

    Pass `shuffle=False` to `fit`, which would otherwise put the steps into another order. Items are made by `workers`
    threads ahead of time (OpenCV releases the GIL), or by processes with `use_multiprocessing=True`.

    Args:
        plan: what every batch is made of.
        seed: of the run.
        start_step: the step of the first batch.
        num_steps: how many batches.
        kwargs: `workers`, `use_multiprocessing`, `max_queue_size` of keras.utils.PyDataset.
    """

    def __init__(self, plan: BatchPlan, seed: int, start_step: int, num_steps: int, **kwargs):
        super().__init__(**kwargs)
        self.plan, self.seed, self.start_step, self._num_steps = plan, seed, start_step, num_steps

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Raises: IndexError past the last step."""
        if not 0 <= index < self._num_steps:
            raise IndexError(f"batch {index} of {self._num_steps}")
        return batches.make_batch(self.plan, self.seed, self.start_step + index)
