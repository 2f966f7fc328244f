"""What a training step takes besides a data batch, and how batches fall into blocks for devices and micro-batches."""

from collections.abc import Iterator, Mapping

import numpy as np

from posepile.data.batches import BatchPlan

_MIX_TAG = 0x6D6978  # keeps these random numbers apart from the data engine's


def step_inputs(plan: BatchPlan, seed: int, step: int, phase_step: int) -> dict[str, np.ndarray]:
    """The arrays `step`, `mix` and `dataset` of `posepile.models.objective.PoseObjective`.

    Args:
        plan: of the batches, or a worker's share of it.
        seed: of the run.
        step: of the run: the random numbers are a pure function of seed and step, the same for any number of workers.
        phase_step: the step that losses see, which set in at steps of the phase.
    """
    num_3d, num_2d, workers = plan.num_3d, plan.num_2d, plan.num_workers
    mix = np.random.default_rng([seed, step, _MIX_TAG]).random((num_3d + num_2d) * workers, dtype=np.float32)
    dataset = np.empty(plan.batch_size, np.int32)
    names = dataset_names(plan)
    for part in plan.parts:
        dataset[part.rows] = names.index(part.dataset.name)
    return {"step": np.int32(phase_step), "mix": mix[block_rows(num_3d * workers, num_2d * workers, workers)[plan.worker]],
            "dataset": dataset}


def dataset_names(plan: BatchPlan) -> list[str]:
    """The data sets in the order in which `dataset` counts them."""
    return [dataset.name for dataset, _ in (*plan.datasets_3d, *plan.datasets_2d)]


def block_rows(num_3d: int, num_2d: int, num_blocks: int) -> np.ndarray:
    """[num_blocks, rows per block]: the rows of a batch, those with 3D labels first, that make up equal, similar blocks.

    Raises: ValueError if the blocks cannot be equal.
    """
    if num_3d % num_blocks or num_2d % num_blocks:
        raise ValueError(f"{num_3d} examples with 3D labels and {num_2d} with 2D labels cannot be shared equally by "
                         f"{num_blocks} devices times micro-batches; change their number or the examples per batch")
    rows_3d, rows_2d = np.split(np.arange(num_3d + num_2d), [num_3d])
    return np.concatenate([rows_3d.reshape(num_blocks, -1), rows_2d.reshape(num_blocks, -1)], axis=1)


def blocks(batch: Mapping[str, np.ndarray], num_blocks: int) -> Iterator[dict[str, np.ndarray]]:
    """The blocks of a batch, each a batch with its share of the rows of either kind."""
    if num_blocks == 1:
        yield dict(batch)
        return
    batch = {name: np.asarray(values) for name, values in batch.items()}
    num_3d, num_2d = len(batch["joints3d"]), len(batch.get("joints2d", ()))
    for index, rows in enumerate(block_rows(num_3d, num_2d, num_blocks)):
        yield {name: values if values.ndim == 0 else _own_rows(values, num_3d, num_2d, rows, index, num_blocks)
               for name, values in batch.items()}


def in_blocks(batch: Mapping[str, np.ndarray], num_blocks: int) -> dict[str, np.ndarray]:
    """The batch with its rows in another order: block after block."""
    parts = list(blocks(batch, num_blocks))
    return {name: np.concatenate([part[name] for part in parts]) if np.ndim(value) else value
            for name, value in parts[0].items()}


def _own_rows(values, num_3d, num_2d, rows, index, num_blocks):
    if len(values) == num_3d + num_2d:
        return values[rows]
    size = len(values) // num_blocks  # of labels, which have rows for examples of one kind only
    return values[index * size:(index + 1) * size]
