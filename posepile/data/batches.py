"""Batches as a pure function of (plan, seed, step): records in, arrays out; numpy and OpenCV only.

A batch is a dict. Its examples with 3D labels come first (num_3d of them), then those with 2D labels:

    image          [batch, crop_side, crop_side, 3] uint8 RGB
    intrinsics     [batch, 3, 3] crop camera, px
    joints3d       [num_3d, num_joints, 3] crop camera frame, mm, in the plan's merged skeleton; 0 where there is no
    label joints3d_mask  [num_3d, num_joints] bool
    joints2d       [num_2d, num_joints_2d, 2] px of the crop, joints as in `joint_names_2d`; 0 where there is no label
    joints2d_mask  [num_2d, num_joints_2d] bool

All geometry is computed for many examples at once; what happens per example is reading, decoding, one warp, which
takes the person mask along as a fourth channel, what is pasted, and one colour transform.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from posepile.data import augmentation, compositing, records, sampling
from posepile.data.augmentation import AugmentationConfig, BackgroundChoice, Occlusion
from posepile.data.pictures import Pictures, load_pictures
from posepile.data.records import Example, PreparedDataset, decode_mask, jpeg_size
from posepile.data.tfrecord import REPAIR_ADVICE, CorruptRecordError
from posepile.geometry import camera
from posepile.geometry.skeleton import Skeleton, joint_indices, merge_skeletons, plain_joint_names

BORDER_COLOR = (0, 0, 0, 0)  # of crop pixels that lie outside the stored image, before the colour augmentation
MIN_MASKED_SHARE = 0.05  # of the box; behind a person whose mask is smaller, hence wrong, no background is replaced
_SEEN_MARGIN = 2  # px that interpolation may touch around what a crop shows
_MAX_SUBSTITUTIONS = 100  # of records in a row that cannot be used
_MAX_REDUCTION = 8  # the JPEG decoder halves at most three times
_FOUR_CHANNELS_FROM = 128  # px of the crop's side from which the detour over four channels pays, see `warp_crop`


@dataclasses.dataclass(frozen=True)
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
    skipped_records: dict[tuple[str, int], str] = dataclasses.field(default_factory=dict, compare=False)

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
    for _ in range(_MAX_SUBSTITUTIONS):
        try:
            return crop_examples(dataset, split, positions, plan.crop_side, **variations, pictures=plan.pictures,
                                 images=images)
        except UnusableExampleError as error:
            if not plan.skip_bad:
                raise
            position = int(positions[error.row])
            plan.skipped_records[dataset.name, position] = str(error)
            positions[error.row] = (position + 1) % dataset.num_examples(split)
    raise CorruptRecordError(f"{_MAX_SUBSTITUTIONS} records of data set {dataset.name} cannot be used; the last one: "
                             f"{plan.skipped_records[dataset.name, position]}")


class UnusableExampleError(CorruptRecordError):
    """A `CorruptRecordError` that knows which of several examples it is about.

    Attributes:
        row: its place among them.
    """

    def __init__(self, message: str, row: int):
        super().__init__(message, row)  # both, for the sake of pickling
        self.row = row

    def __str__(self) -> str:
        return self.args[0]


def make_evaluation_batch(dataset: PreparedDataset, split: str, positions: Sequence[int],
                          crop_side: int) -> dict[str, np.ndarray]:
    """Unaugmented, centred crops of given examples. Returns and raises: as `crop_examples`."""
    return crop_examples(dataset, split, positions, crop_side)


def crop_examples(dataset: PreparedDataset, split: str, positions: Sequence[int], crop_side: int, *,
                  geometry: Mapping[str, np.ndarray] | None = None,
                  color: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
                  background: BackgroundChoice | None = None, occlusion: Occlusion | None = None,
                  pictures: Pictures | None = None, images: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Reads examples and cuts their training or evaluation crops.

    Args:
        dataset: the data set.
        split: of the data set.
        positions: [n] of the examples in the split.
        crop_side: px.
        geometry: shift, zoom, roll and flip as for `crop_cameras`, [n, ...] each; None: centred, upright, not mirrored.
        color: the three arrays of `color_transform`; None: colours as stored.
        background, occlusion: what is pasted; None: nothing.
        pictures: to be pasted.
        images: [n, crop_side, crop_side, 3] uint8 to write the crops to; None: new ones.

    Returns: image [n, crop_side, crop_side, 3] uint8, intrinsics [n, 3, 3], and joints3d [n, num_joints, 3] (crop
        camera frame, mm) with joints3d_mask [n, num_joints], or joints2d [n, num_joints, 2] (px of the crop) with
        joints2d_mask, after the kind of the data set; joints in its own skeleton, 0 where there is no label.
    Raises: UnusableExampleError naming file and offset of the first record that cannot be used.
    """
    examples = [_read_row(dataset, split, int(position), row) for row, position in enumerate(positions)]
    joints = np.array([getattr(example, f"joints{dataset.kind}") for example in examples], np.float64)
    intrinsics = np.array([example.intrinsics for example in examples], np.float64)
    bbox = np.array([example.bbox for example in examples], np.float64)
    geometry = dict(geometry or {})
    crop_intrinsics, rotation = camera.crop_cameras(intrinsics, bbox, crop_side, **geometry)
    image_to_crop = camera.crop_homography(intrinsics, crop_intrinsics, rotation)
    crop_to_image = np.linalg.inv(image_to_crop)
    reductions = _decoding_reductions(intrinsics, crop_intrinsics).tolist()
    seen = _seen_parts(crop_to_image, crop_side).tolist()

    if images is None:
        images = np.empty((len(examples), crop_side, crop_side, 3), np.uint8)
    for row, example in enumerate(examples):
        is_replaced = background is not None and bool(background.is_replaced[row])
        try:
            image, alpha = _decode(example, reductions[row], with_mask=is_replaced)
        except CorruptRecordError as error:
            raise UnusableExampleError(str(error), row) from error
        crop = warp_crop(image, crop_to_image[row], crop_side, reduction=reductions[row], alpha=alpha, seen=seen[row])
        if alpha is not None:
            crop, alpha = crop
            crop = compositing.replace_background(crop, alpha, pictures.backgrounds, background.picture[row])
        if occlusion is not None:
            compositing.occlude(crop, occlusion.erased[row], occlusion.noise[row],
                                occlusion.objects[row, :occlusion.num_objects[row]], pictures.occluder_pyramids)
        if color is None:
            images[row] = crop
        else:
            transform_colors(crop, color[0][row], color[1][row], color[2][row], result=images[row])

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
              alpha: np.ndarray | None = None, seen: Sequence[int] | None = None) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Resamples an image bilinearly into a square crop; what lies outside the image gets BORDER_COLOR.

    Args:
        image: [height, width, 3] uint8.
        crop_to_image: [3, 3] homography from px of the crop to px of the image at full size.
        crop_side: px.
        reduction: how many times smaller than full size `image` and `alpha` are.
        alpha: [height, width] uint8, resampled along with the image; None: there is none.
        seen: left, top, right, bottom of what the crop shows, px of the image at full size, see `_seen_parts`; saves the
            work on the rest of the image. None: all of it.

    Returns: [crop_side, crop_side, 3] uint8, and with `alpha` its resampled values [crop_side, crop_side], too.
    """
    if reduction > 1:
        # Pixel 0 of the reduced image is the mean of pixels 0 .. reduction - 1.
        shift = (reduction - 1) / 2
        crop_to_image = np.array([[1, 0, -shift], [0, 1, -shift], [0, 0, reduction]]) @ crop_to_image
    if seen is not None:
        left, top = (min(low // reduction, length - 1) for low, length in zip(seen[:2], image.shape[1::-1], strict=True))
        right, bottom = (max(-(-high // reduction), low + 1) for low, high in zip((left, top), seen[2:], strict=True))
        image = image[top:bottom, left:right]
        alpha = None if alpha is None else alpha[top:bottom, left:right]
        crop_to_image = crop_to_image - np.outer([left, top, 0], crop_to_image[2])
    size = (crop_side, crop_side)
    options = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_CONSTANT,
               "borderValue": BORDER_COLOR}
    if alpha is None and crop_side < _FOUR_CHANNELS_FROM:
        return cv2.warpPerspective(image, crop_to_image, size, **options)
    # OpenCV 5.0 warps four channels twice as fast as three, with the same result.
    image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    if alpha is not None:
        cv2.insertChannel(alpha, image, 3)
    warped = cv2.warpPerspective(image, crop_to_image, size, **options)
    crop = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    return crop if alpha is None else (crop, cv2.extractChannel(warped, 3))


def _seen_parts(crop_to_image: np.ndarray, crop_side: int) -> np.ndarray:
    """What crops show of their images: [n, 4] int64 left, top, right, bottom, px, from 0 on, perhaps beyond the image."""
    low, high = -0.5, crop_side - 0.5
    corners = crop_to_image @ np.array([[low, high, low, high], [low, low, high, high], [1, 1, 1, 1]])
    in_front = corners[:, 2:].min(axis=2, keepdims=True) > 0  # else no bounds follow from the corners
    corners = corners[:, :2] / np.where(in_front, corners[:, 2:], np.nan)
    bounds = np.concatenate([corners.min(axis=2) - _SEEN_MARGIN, corners.max(axis=2) + 1 + _SEEN_MARGIN], axis=1)
    everything = [0, 0, records.MAX_IMAGE_SIDE, records.MAX_IMAGE_SIDE]
    bounds = np.where(np.isnan(bounds), everything, np.clip(bounds, 0, records.MAX_IMAGE_SIDE))
    return bounds.astype(np.int64)


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


def _read_row(dataset: PreparedDataset, split: str, position: int, row: int) -> Example:
    """Raises: UnusableExampleError."""
    try:
        example = dataset.read(split, position)
    except CorruptRecordError as error:
        raise UnusableExampleError(str(error), row) from error
    if getattr(example, f"joints{dataset.kind}") is None:
        raise UnusableExampleError(f"{example.where}: the record has no joints{dataset.kind}, but its data "
                                   f"set has {dataset.kind} labels. {REPAIR_ADVICE}", row)
    return example


def _decoding_reductions(intrinsics: np.ndarray, crop_intrinsics: np.ndarray) -> np.ndarray:
    """[n] int64: by which power of two to shrink images while decoding, so that the warp, which averages over one
    source pixel only, shrinks them by less than two."""
    shrinking = intrinsics[:, 0, 0] / crop_intrinsics[:, 0, 0]
    return 2 ** np.clip(np.floor(np.log2(shrinking)), 0, np.log2(_MAX_REDUCTION)).astype(np.int64)


def _decode(example: Example, reduction: int, with_mask: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The image, [height, width, 3] uint8 RGB, `reduction` times smaller, and the mask, [height, width] uint8, 0 or
    255, if it is asked for and there is a usable one. Raises: CorruptRecordError."""
    image, runs = example.decode_image(reduction), example.mask_rle
    if not with_mask or runs is None or runs[1::2].sum() < MIN_MASKED_SHARE * example.bbox[2] * example.bbox[3]:
        return image, None
    height, width = image.shape[:2] if reduction == 1 else jpeg_size(example.image)
    try:
        mask = decode_mask(runs, height, width, value=255)
    except ValueError as error:
        raise CorruptRecordError(f"{example.where}: {error}") from error
    if reduction > 1:
        # Whole blocks, as the decoder reduces.
        mask = cv2.copyMakeBorder(mask, 0, reduction * image.shape[0] - height, 0, reduction * image.shape[1] - width,
                                  cv2.BORDER_REPLICATE)
        mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    return image, mask


def _apply_homography(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[n, 3, 3] on [n, num_points, 2]."""
    mapped = np.einsum("nij,nkj->nki", homography[:, :, :2], points) + homography[:, None, :, 2]
    return mapped[..., :2] / mapped[..., 2:]
