"""Batches as a pure function of (plan, seed, step): records in, arrays out; numpy and OpenCV only.

A batch is a dict. Its examples with 3D labels come first (num_3d of them), then those with 2D labels:

    image          [batch, crop_side, crop_side, 3] uint8 RGB
    intrinsics     [batch, 3, 3] crop camera, px
    joints3d       [num_3d, num_joints, 3] crop camera frame, mm, in the plan's merged skeleton; 0 where there is no
    label joints3d_mask  [num_3d, num_joints] bool
    joints2d       [num_2d, num_joints_2d, 2] px of the crop, joints as in `joint_names_2d`; 0 where there is no label
    joints2d_mask  [num_2d, num_joints_2d] bool

All geometry is computed for many examples at once; what happens per example is reading, decoding, one warp and one
colour transform.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from posepile.data import augmentation, sampling
from posepile.data.augmentation import AugmentationConfig
from posepile.data.records import Example, PreparedDataset
from posepile.data.tfrecord import CorruptRecordError
from posepile.geometry import camera
from posepile.geometry.skeleton import Skeleton, joint_indices, merge_skeletons, plain_joint_names

BORDER_COLOR = (0, 0, 0)  # of crop pixels that lie outside the stored image, before the colour augmentation
_MAX_REDUCTION = 8  # the JPEG decoder halves at most three times
_FOUR_CHANNELS_FROM = 128  # px of the crop's side from which the detour over four channels pays, see `warp_crop`
_ADVICE = "Delete the shard and run `python -m datasets prepare` again to make it anew."


@dataclasses.dataclass(frozen=True)
class PartPlan:
    """The share of one data set in every batch.

    Attributes:
        dataset: the data set.
        kind: "3d" or "2d".
        examples_per_batch: its number of examples in every batch.
        rows: [examples_per_batch] int64, where they stand in the batch.
        joint_indices: [num_joints] int64, where the joints of its skeleton stand in the batch's joint list.
        num_joints: length of the batch's joint list for this kind.
    """

    dataset: PreparedDataset
    kind: str
    examples_per_batch: int
    rows: np.ndarray
    joint_indices: np.ndarray
    num_joints: int


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """What every training batch is made of.

    Attributes:
        datasets_3d: (data set, examples per batch) of those with 3D labels.
        datasets_2d: (data set, examples per batch) of those with 2D labels; may be empty.
        crop_side: px.
        skeleton: merged joint list that holds the formats of all `datasets_3d`; None merges just these.
        joint_names_2d: joint list of the 2D labels; None: the union over `datasets_2d`, see `merged_joint_names_2d`.
        augmentation: how the crops vary.
        split: the split that is read.
    """

    datasets_3d: Sequence[tuple[PreparedDataset, int]]
    datasets_2d: Sequence[tuple[PreparedDataset, int]]
    crop_side: int
    skeleton: Skeleton | None = None
    joint_names_2d: Sequence[str] | None = None
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    split: str = "train"

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
        if self.skeleton is None:
            object.__setattr__(self, "skeleton", merge_skeletons([dataset.skeleton for dataset, _ in self.datasets_3d]))
        if self.joint_names_2d is None:
            object.__setattr__(self, "joint_names_2d", merged_joint_names_2d(self))
        self.parts  # noqa: B018 - raises now if a joint has no place in the lists

    @property
    def num_3d(self) -> int:
        return sum(examples_per_batch for _, examples_per_batch in self.datasets_3d)

    @property
    def num_2d(self) -> int:
        return sum(examples_per_batch for _, examples_per_batch in self.datasets_2d)

    @property
    def batch_size(self) -> int:
        return self.num_3d + self.num_2d

    @functools.cached_property
    def parts(self) -> tuple[PartPlan, ...]:
        """One per data set, 3D first."""
        indices_2d = {name: i for i, name in enumerate(self.joint_names_2d)}
        parts = []
        for kind, datasets, start in (("3d", self.datasets_3d, 0), ("2d", self.datasets_2d, self.num_3d)):
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
                parts.append(PartPlan(dataset, kind, count, start + places[end - count:end], indices, num_joints))
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
        for name, values in make_scattered_part(plan, part, seed, step).items():
            batch[name][batch_rows(plan, part, name)] = values
    return batch


def batch_rows(plan: BatchPlan, part: PartPlan, name: str) -> np.ndarray:
    """The rows that a data set's examples take in a batch's array of this name (`joints2d` has rows for 2D examples
    only).
    """
    return part.rows - plan.num_3d if name.startswith("joints2d") else part.rows


def make_scattered_part(plan: BatchPlan, part: PartPlan, seed: int, step: int,
                        num_steps: int = 1) -> dict[str, np.ndarray]:
    """`make_part` of one of the plan's data sets, its joints moved to their places in the batch's joint list."""
    arrays = make_part(part.dataset, plan.split, seed, step, part.examples_per_batch, plan.crop_side,
                       plan.augmentation, num_steps)
    for name in (f"joints{part.kind}", f"joints{part.kind}_mask"):
        values = arrays[name]
        arrays[name] = np.zeros((len(values), part.num_joints, *values.shape[2:]), values.dtype)
        arrays[name][:, part.joint_indices] = values
    return arrays


def make_part(dataset: PreparedDataset, split: str, seed: int, step: int, examples_per_batch: int, crop_side: int,
              config: AugmentationConfig, num_steps: int = 1) -> dict[str, np.ndarray]:
    """The augmented examples that one data set contributes to the batches of one or several consecutive steps.

    Args:
        dataset: the data set.
        split: of the data set.
        seed: of the run.
        step: first training step.
        examples_per_batch: how many of the data set's examples are in a batch.
        crop_side: px.
        config: how the crops vary.
        num_steps: consecutive steps to make at once; what an example looks like does not depend on it.

    Returns: as `crop_examples`, [num_steps * examples_per_batch, ...], step after step.
    Raises: CorruptRecordError naming file and offset of a record that cannot be used.
    """
    stream = sampling.stream_positions(step, examples_per_batch, num_steps)
    positions = sampling.example_positions(seed, dataset.name, dataset.num_examples(split), stream)
    return crop_examples(dataset, split, positions, crop_side,
                         geometry=augmentation.random_geometry(config, seed, dataset.name, stream),
                         color=augmentation.random_color_transform(config, seed, dataset.name, stream))


def make_evaluation_batch(dataset: PreparedDataset, split: str, positions: Sequence[int],
                          crop_side: int) -> dict[str, np.ndarray]:
    """Unaugmented, centred crops of given examples. Returns and raises: as `crop_examples`."""
    return crop_examples(dataset, split, positions, crop_side)


def crop_examples(dataset: PreparedDataset, split: str, positions: Sequence[int], crop_side: int, *,
                  geometry: Mapping[str, np.ndarray] | None = None,
                  color: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Reads examples and cuts their training or evaluation crops.

    Args:
        dataset: the data set.
        split: of the data set.
        positions: [n] of the examples in the split.
        crop_side: px.
        geometry: shift, zoom, roll and flip as for `crop_cameras`, [n, ...] each; None: centred, upright, not mirrored.
        color: the three arrays of `color_transform`; None: colours as stored.

    Returns: image [n, crop_side, crop_side, 3] uint8, intrinsics [n, 3, 3], and joints3d [n, num_joints, 3] (crop
        camera frame, mm) with joints3d_mask [n, num_joints], or joints2d [n, num_joints, 2] (px of the crop) with
        joints2d_mask, after the kind of the data set; joints in its own skeleton, 0 where there is no label.
    Raises: CorruptRecordError naming file and offset of a record that cannot be used.
    """
    examples = [dataset.read(split, position) for position in positions]
    joints = _stack_joints(dataset, split, positions, examples)
    intrinsics = np.array([example.intrinsics for example in examples], np.float64)
    bbox = np.array([example.bbox for example in examples], np.float64)
    _check_boxes_and_cameras(dataset, split, positions, intrinsics, bbox)
    geometry = dict(geometry or {})
    crop_intrinsics, rotation = camera.crop_cameras(intrinsics, bbox, crop_side, **geometry)
    image_to_crop = camera.crop_homography(intrinsics, crop_intrinsics, rotation)

    reductions = _decoding_reductions(intrinsics, crop_intrinsics)
    crop_to_image = np.linalg.inv(image_to_crop)
    images = np.empty((len(examples), crop_side, crop_side, 3), np.uint8)
    scratch = np.empty(images.shape[1:], np.uint8)
    for i, example in enumerate(examples):
        image = _decode(example, int(reductions[i]), dataset, split, positions[i])
        warped = images[i] if color is None else scratch
        warp_crop(image, crop_to_image[i], crop_side, reduction=int(reductions[i]), crop=warped)
        if color is not None:
            transform_colors(warped, color[0][i], color[1][i], color[2][i], result=images[i])

    if dataset.kind == "3d":
        joints = np.einsum("nij,nkj->nki", rotation, joints)
    else:
        joints = _apply_homography(image_to_crop, joints)
    flip = geometry.get("flip")
    if flip is not None:
        joints = np.where(np.asarray(flip)[:, None, None], joints[:, list(dataset.skeleton.mirror)], joints)
    mask = np.isfinite(joints).all(axis=-1)
    return {"image": images, "intrinsics": crop_intrinsics.astype(np.float32),
            f"joints{dataset.kind}": np.where(mask[..., None], joints, 0).astype(np.float32),
            f"joints{dataset.kind}_mask": mask}


def warp_crop(image: np.ndarray, crop_to_image: np.ndarray, crop_side: int, *, reduction: int = 1,
              crop: np.ndarray | None = None) -> np.ndarray:
    """Resamples an image bilinearly into a square crop; what lies outside the image gets BORDER_COLOR.

    Args:
        image: [height, width, 3] uint8.
        crop_to_image: [3, 3] homography from px of the crop to px of the image at full size.
        crop_side: px.
        reduction: how many times smaller than full size `image` is.
        crop: [crop_side, crop_side, 3] uint8 to write to; None: a new one.

    Returns: [crop_side, crop_side, 3] uint8.
    """
    if reduction > 1:
        # Pixel 0 of the reduced image is the mean of pixels 0 .. reduction - 1.
        shift = (reduction - 1) / 2
        crop_to_image = np.array([[1, 0, -shift], [0, 1, -shift], [0, 0, reduction]]) @ crop_to_image
    size = (crop_side, crop_side)
    options = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_CONSTANT,
               "borderValue": BORDER_COLOR}
    if crop_side < _FOUR_CHANNELS_FROM:
        return cv2.warpPerspective(image, crop_to_image, size, dst=crop, **options)
    # OpenCV 5.0 warps four channels twice as fast as three, with the same result.
    warped = cv2.warpPerspective(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), crop_to_image, size, **options)
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=crop)


def transform_colors(image: np.ndarray, linear: np.ndarray, mean_gain: np.ndarray, offset: np.ndarray,
                     result: np.ndarray | None = None) -> np.ndarray:
    """Applies an affine colour map, see `augmentation.color_transform`; rounded and clipped to 0 .. 255.

    Args:
        image: [height, width, 3] uint8.
        linear, mean_gain: [3, 3].
        offset: [3], in 0 .. 255 units.
        result: [height, width, 3] uint8 to write to; None: a new one.
    """
    mean = cv2.mean(image)[:3]
    matrix = np.empty((3, 4), np.float32)
    matrix[:, :3] = linear
    matrix[:, 3] = mean_gain @ mean + offset
    return cv2.transform(image, matrix, dst=result)


def _joint_names_2d(dataset: PreparedDataset) -> list[str]:
    names = plain_joint_names(dataset.skeleton)
    if len(set(names)) < len(names):
        raise ValueError(f"data set {dataset.name}: the skeleton of a data set with 2D labels may name every joint "
                         f"only once; {dataset.skeleton.name} merges formats that share names")
    return names


def _stack_joints(dataset: PreparedDataset, split: str, positions: Sequence[int],
                  examples: Sequence[Example]) -> np.ndarray:
    """[n, num_joints, 3 or 2] float64."""
    name = f"joints{dataset.kind}"
    joints = [getattr(example, name) for example in examples]
    for position, values in zip(positions, joints, strict=True):
        if values is None:
            where = dataset.where(split, position)
            raise CorruptRecordError(f"{where}: the record has no {name}, but its data set has {dataset.kind} labels. "
                                     f"{_ADVICE}")
    return np.array(joints, np.float64)


def _check_boxes_and_cameras(dataset, split, positions, intrinsics, bbox):
    """Raises: CorruptRecordError for the first box without extent, or intrinsics that are not invertible."""
    focal = intrinsics[:, [0, 1], [0, 1]]
    good = (np.isfinite(intrinsics).all(axis=(1, 2)) & (focal > 0).all(axis=1) & np.isfinite(bbox).all(axis=1)
            & (bbox[:, 2:] > 0).all(axis=1))
    if not good.all():
        i = int(np.argmin(good))
        where = dataset.where(split, positions[i])
        raise CorruptRecordError(f"{where}: expected a box of positive size and positive focal lengths, got the box "
                                 f"{bbox[i].tolist()} and intrinsics {intrinsics[i].tolist()}. {_ADVICE}")


def _decoding_reductions(intrinsics: np.ndarray, crop_intrinsics: np.ndarray) -> np.ndarray:
    """[n] int64: by which power of two to shrink images while decoding, so that the warp, which averages over one
    source pixel only, shrinks them by less than two."""
    shrinking = intrinsics[:, 0, 0] / crop_intrinsics[:, 0, 0]
    return 2 ** np.clip(np.floor(np.log2(shrinking)), 0, np.log2(_MAX_REDUCTION)).astype(np.int64)


def _decode(example: Example, reduction: int, dataset: PreparedDataset, split: str, position: int) -> np.ndarray:
    """[height, width, 3] uint8 RGB, `reduction` times smaller. The decoder's scaled transform averages and costs less,
    too.
    """
    image = None
    if example.image:
        flags = cv2.IMREAD_COLOR_RGB | (0 if reduction == 1 else 8 * reduction)  # 16, 32, 64: OpenCV's IMREAD_REDUCED_*
        image = cv2.imdecode(np.frombuffer(example.image, np.uint8), flags)
    if image is None:
        raise CorruptRecordError(f"{dataset.where(split, position)}: the image cannot be decoded. {_ADVICE}")
    return image


def _apply_homography(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[n, 3, 3] on [n, num_points, 2]."""
    mapped = np.einsum("nij,nkj->nki", homography[:, :, :2], points) + homography[:, None, :, 2]
    return mapped[..., :2] / mapped[..., 2:]
