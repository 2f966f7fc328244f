"""Batches as a pure function of (plan, seed, step): records in, arrays out; numpy and OpenCV only.

A batch is a dict. Its examples with 3D labels come first (num_3d of them), then those with 2D labels:

    image          [batch, crop_side, crop_side, 3] uint8 RGB
    intrinsics     [batch, 3, 3] crop camera, px
    joints3d       [num_3d, num_joints, 3] crop camera frame, mm, in the plan's merged skeleton; 0 where there is no
    label joints3d_mask  [num_3d, num_joints] bool
    joints2d       [num_2d, num_joints_2d, 2] px of the crop, joints as in `joint_names_2d`; 0 where there is no label
    joints2d_mask  [num_2d, num_joints_2d] bool

`crops` makes the pictures and labels of the examples; here is said which examples, and where in the batch they go.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from posepile.data import augmentation, sampling
from posepile.data.augmentation import AugmentationConfig
from posepile.data.crops import UnusableExampleError, crop_examples
from posepile.data.pictures import Pictures, load_pictures
from posepile.data.records import PreparedDataset
from posepile.data.tfrecord import CorruptRecordError
from posepile.geometry.skeleton import Skeleton, joint_indices, merge_skeletons, plain_joint_names

_MAX_SUBSTITUTIONS = 100  # for one example, of records in a row that cannot be used


@dataclasses.dataclass(frozen=True, eq=False)
class PartPlan:
    """The share of one data set in every batch.

    Attributes:
        dataset: the data set.
        kind: "3d" or "2d".
        examples_per_batch: its number of examples in every batch, of all workers together.
        offsets: [n] int64 below examples_per_batch, rising: those of them that this worker makes; all, without workers.
        rows: [n] int64, where these stand in the worker's batch.
        augmentation: how its crops vary.
        joint_indices: [num_joints] int64, where the joints of its skeleton stand in the batch's joint list.
        num_joints: length of the batch's joint list for this kind.
    """

    dataset: PreparedDataset
    kind: str
    examples_per_batch: int
    offsets: np.ndarray
    rows: np.ndarray
    augmentation: AugmentationConfig
    joint_indices: np.ndarray
    num_joints: int


@dataclasses.dataclass(frozen=True, eq=False)
class BatchPlan:
    """What every training batch is made of.

    Attributes:
        datasets_3d: (data set, examples per batch) of those with 3D labels.
        datasets_2d: (data set, examples per batch) of those with 2D labels; may be empty.
        crop_side: px.
        skeleton: merged joint list that holds the formats of all `datasets_3d`; None merges just these.
        joint_names_2d: joint list of the 2D labels; None: the union over `datasets_2d`, see `merged_joint_names_2d`.
        augmentation: how the crops vary.
        dataset_augmentation: by name, for the data sets that have settings of their own.
        split: the split that is read.
        worker, num_workers: which equal part of every batch this plan makes, see `share`.
        pictures: what occludes people and stands behind them; None: drawn ones.
        skip_bad: take the next example in place of one whose record cannot be used, instead of raising.
        skipped_records: (data set, position) -> why, of those that were passed over up to now.
    """

    datasets_3d: Sequence[tuple[PreparedDataset, int]]
    datasets_2d: Sequence[tuple[PreparedDataset, int]]
    crop_side: int
    skeleton: Skeleton | None = None
    joint_names_2d: Sequence[str] | None = None
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    dataset_augmentation: Mapping[str, AugmentationConfig] = dataclasses.field(default_factory=dict)
    split: str = "train"
    worker: int = 0
    num_workers: int = 1
    pictures: Pictures | None = None
    skip_bad: bool = False
    skipped_records: dict[tuple[str, int], str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.datasets_3d:
            raise ValueError("a batch plan needs one data set or more with 3D labels")
        for kind, datasets in (("3d", self.datasets_3d), ("2d", self.datasets_2d)):
            for dataset, examples_per_batch in datasets:
                if dataset.kind != kind:
                    raise ValueError(f"data set {dataset.name} has {dataset.kind} labels, but is listed under "
                                     f"datasets_{kind}")
                if examples_per_batch < 1:
                    raise ValueError(f"data set {dataset.name}: {examples_per_batch} examples per batch; "
                                     "expected 1 or more")
                if dataset.num_examples(self.split) < 1:
                    raise ValueError(f"data set {dataset.name} has no example in its {self.split} split; leave it out")
        names = [dataset.name for dataset, _ in (*self.datasets_3d, *self.datasets_2d)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"data sets listed more than once in a batch plan: {', '.join(twice)}")
        if unknown := sorted(set(self.dataset_augmentation) - set(names)):
            raise ValueError(f"dataset_augmentation names {', '.join(unknown)}, which the plan does not train on")
        self._check_share()
        if self.skeleton is None:
            object.__setattr__(self, "skeleton", merge_skeletons([dataset.skeleton for dataset, _ in self.datasets_3d]))
        if self.joint_names_2d is None:
            object.__setattr__(self, "joint_names_2d", merged_joint_names_2d(self))
        if self.pictures is None:
            object.__setattr__(self, "pictures", load_pictures(self.crop_side))
        self.parts  # noqa: B018 - raises now if a joint has no place in the lists

    def _check_share(self):
        if not 0 <= self.worker < self.num_workers:
            raise ValueError(f"worker {self.worker} of {self.num_workers}: expected 0 to {self.num_workers - 1}")
        for kind, datasets in (("3D", self.datasets_3d), ("2D", self.datasets_2d)):
            if (total := sum(count for _, count in datasets)) % self.num_workers:
                raise ValueError(f"{total} examples with {kind} labels per batch cannot be shared equally by "
                                 f"{self.num_workers} workers; change the examples per batch or the number of workers")

    def share(self, worker: int, num_workers: int) -> "BatchPlan":
        """The plan of one of several workers, which makes its own rows of every batch and no others.

        The batches of all workers, 3D rows after 3D rows and 2D rows after 2D rows, are bitwise the batch of this plan.

        Raises: ValueError if the rows of either kind cannot be shared equally.
        """
        return dataclasses.replace(self, worker=worker, num_workers=num_workers)

    @property
    def num_3d(self) -> int:
        """Rows with 3D labels in a batch of this worker."""
        return sum(examples_per_batch for _, examples_per_batch in self.datasets_3d) // self.num_workers

    @property
    def num_2d(self) -> int:
        """Rows with 2D labels in a batch of this worker."""
        return sum(examples_per_batch for _, examples_per_batch in self.datasets_2d) // self.num_workers

    @property
    def batch_size(self) -> int:
        return self.num_3d + self.num_2d

    @functools.cached_property
    def parts(self) -> tuple[PartPlan, ...]:
        """One per data set of which this worker makes examples, 3D first."""
        indices_2d = {name: i for i, name in enumerate(self.joint_names_2d)}
        parts = []
        for kind, datasets, num_rows, start in (("3d", self.datasets_3d, self.num_3d, 0),
                                                ("2d", self.datasets_2d, self.num_2d, self.num_3d)):
            counts = [examples_per_batch for _, examples_per_batch in datasets]
            places = np.argsort(sampling.interleave(counts))  # where each example of the concatenated data sets goes
            ends = np.cumsum(counts)
            for (dataset, count), end in zip(datasets, ends, strict=True):
                if kind == "3d":
                    indices, num_joints = joint_indices(self.skeleton, dataset.skeleton), self.skeleton.num_joints
                else:
                    names = _joint_names_2d(dataset)
                    if missing := [name for name in names if name not in indices_2d]:
                        raise ValueError(f"data set {dataset.name} labels {', '.join(missing)}, which "
                                         "joint_names_2d lacks")
                    indices, num_joints = np.array([indices_2d[name] for name in names]), len(self.joint_names_2d)
                own_rows = places[end - count:end] - self.worker * num_rows
                offsets = np.flatnonzero((own_rows >= 0) & (own_rows < num_rows))
                if len(offsets):
                    parts.append(PartPlan(
                        dataset, kind, count, offsets, start + own_rows[offsets],
                        self.dataset_augmentation.get(dataset.name, self.augmentation), indices, num_joints))
        return tuple(parts)

    def array_specs(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Name -> (shape, dtype) of the arrays of a batch."""
        joints3d, joints2d = (self.num_3d, self.skeleton.num_joints), (self.num_2d, len(self.joint_names_2d))
        return {"image": ((self.batch_size, self.crop_side, self.crop_side, 3), np.uint8),
                "intrinsics": ((self.batch_size, 3, 3), np.float32),
                "joints3d": ((*joints3d, 3), np.float32), "joints3d_mask": (joints3d, np.bool_),
                "joints2d": ((*joints2d, 2), np.float32), "joints2d_mask": (joints2d, np.bool_)}


def merged_joint_names_2d(plan: BatchPlan) -> tuple[str, ...]:
    """The union of the joint names of the plan's 2D data sets, in the order of their first appearance."""
    return tuple(dict.fromkeys(name for dataset, _ in plan.datasets_2d for name in _joint_names_2d(dataset)))


def make_batch(plan: BatchPlan, seed: int, step: int) -> dict[str, np.ndarray]:
    """The batch of a training step: a pure function of its arguments. Returns: see the module's docstring."""
    batch = {name: np.empty(shape, dtype) for name, (shape, dtype) in plan.array_specs().items()}
    for part in plan.parts:
        for name, values in scatter_joints(part, make_part(plan, part, seed, step)).items():
            batch[name][batch_rows(plan, part, name)] = values
    return batch


def batch_rows(plan: BatchPlan, part: PartPlan, name: str) -> np.ndarray:
    """The rows that a data set's examples take in a batch's array of this name (`joints2d` has rows for 2D examples
    only).
    """
    return part.rows - plan.num_3d if name.startswith("joints2d") else part.rows


def scatter_joints(part: PartPlan, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `make_part` returns, the joints moved to their places in the batch's joint list."""
    arrays = dict(arrays)
    for name in (f"joints{part.kind}", f"joints{part.kind}_mask"):
        values = arrays[name]
        arrays[name] = np.zeros((len(values), part.num_joints, *values.shape[2:]), values.dtype)
        arrays[name][:, part.joint_indices] = values
    return arrays


def make_part(plan: BatchPlan, part: PartPlan, seed: int, step: int, num_steps: int = 1,
              images: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The augmented examples that one data set contributes to the batches of one or several consecutive steps.

    Args:
        plan: of the batch.
        part: one of the plan's.
        seed: of the run.
        step: first training step.
        num_steps: consecutive steps to make at once; what an example looks like does not depend on it.
        images: as in `crop_examples`.

    Returns: as `crop_examples`, [num_steps * len(part.rows), ...], step after step.
    Raises: CorruptRecordError naming file and offset of a record that cannot be used.
    """
    dataset, config, split = part.dataset, part.augmentation, plan.split
    stream = sampling.stream_positions(step, part.examples_per_batch, num_steps)
    stream = stream.reshape(num_steps, part.examples_per_batch)[:, part.offsets].ravel()
    positions = sampling.example_positions(seed, dataset.name, dataset.num_examples(split), stream)
    variations = augmentation.random_variations(config, dataset.kind, seed, dataset.name, stream)
    num_substitutions = np.zeros(len(positions), int)
    while True:
        try:
            return crop_examples(dataset, split, positions, plan.crop_side, **variations, pictures=plan.pictures,
                                 images=images)
        except UnusableExampleError as error:
            if not plan.skip_bad:
                raise
            row, position = error.row, int(positions[error.row])
            plan.skipped_records[dataset.name, position] = str(error)
            positions[row] = (position + 1) % dataset.num_examples(split)
            num_substitutions[row] += 1
            if num_substitutions[row] >= _MAX_SUBSTITUTIONS:
                raise CorruptRecordError(f"{_MAX_SUBSTITUTIONS} records of data set {dataset.name} on end cannot be used; "
                                         f"the last one: {error}") from error


def _joint_names_2d(dataset: PreparedDataset) -> list[str]:
    names = plain_joint_names(dataset.skeleton)
    if len(set(names)) < len(names):
        raise ValueError(f"data set {dataset.name}: the skeleton of a data set with 2D labels may name every joint "
                         f"only once; {dataset.skeleton.name} merges formats that share names")
    return names
