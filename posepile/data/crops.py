"""Training and evaluation crops of stored examples: pictures and labels, numpy and OpenCV only.

All geometry is computed for many examples at once; what happens per example is reading, decoding, one warp, what is
pasted, and one colour transform. Where the background is replaced, nothing but the person is warped.
"""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from posepile.data import compositing, records
from posepile.data.augmentation import BackgroundChoice, Occlusion
from posepile.data.pictures import Pictures
from posepile.data.records import Example, PreparedDataset, decode_mask, jpeg_size
from posepile.data.tfrecord import REPAIR_ADVICE, CorruptRecordError
from posepile.geometry import camera

BORDER_COLOR = (0, 0, 0, 0)  # of crop pixels that lie outside the stored image, before the colour augmentation
MIN_MASKED_SHARE = 0.05  # of the box; behind a person whose mask is smaller, hence wrong, no background is replaced
_MAX_REDUCTION = 8  # the JPEG decoder halves at most three times
_FOUR_CHANNELS_FROM = 128  # px of the crop's side from which the detour over four channels pays, see `warp_crop`
_SEEN_MARGIN = 2  # px that interpolation may touch around what a crop shows


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
    decoded = None
    for row, example in enumerate(examples):
        is_replaced = background is not None and bool(background.is_replaced[row])
        wanted = int(positions[row]), reductions[row], is_replaced
        try:
            if wanted != decoded:  # several views of an example may follow one another
                image, mask = _decode(example, reductions[row], with_mask=is_replaced)
                decoded = wanted
        except CorruptRecordError as error:
            raise UnusableExampleError(str(error), row) from error
        if mask is None:
            crop = warp_crop(image, crop_to_image[row], crop_side, reduction=reductions[row], seen=seen[row])
        else:
            crop = compositing.choose_background(pictures.backgrounds, background.picture[row], crop_side)
            person, left, top = cut_out(image, mask, image_to_crop[row], crop_to_image[row], crop_side, reductions[row])
            compositing.put_before(crop, person, left, top)
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
              seen: Sequence[int] | None = None) -> np.ndarray:
    """Resamples an image bilinearly into a square crop; what lies outside the image gets BORDER_COLOR.

    Args:
        image: [height, width, 3] uint8.
        crop_to_image: [3, 3] homography from px of the crop to px of the image at full size.
        crop_side: px.
        reduction: how many times smaller than full size `image` is.
        seen: left, top, right, bottom of what the crop shows, px of the image at full size, see `_seen_parts`; saves the
            work on the rest of the image. None: all of it.

    Returns: [crop_side, crop_side, 3] uint8.
    """
    size = (crop_side, crop_side)
    if crop_side < _FOUR_CHANNELS_FROM:
        return _warp(image, _between_parts(crop_to_image, reduction=reduction), size)
    left = top = 0
    if seen is not None:
        left, top = (min(low // reduction, length - 1) for low, length in zip(seen[:2], image.shape[1::-1], strict=True))
        right, bottom = (max(-(-high // reduction), low + 1) for low, high in zip((left, top), seen[2:], strict=True))
        image = image[top:bottom, left:right]
    # OpenCV 5.0 warps four channels twice as fast as three, with the same result.
    homography = _between_parts(crop_to_image, left=left, top=top, reduction=reduction)
    return cv2.cvtColor(_warp(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), homography, size), cv2.COLOR_RGBA2RGB)


def cut_out(image: np.ndarray, mask: np.ndarray, image_to_crop: np.ndarray, crop_to_image: np.ndarray, crop_side: int,
            reduction: int = 1) -> tuple[np.ndarray, int, int]:
    """Resamples what a mask shows of an image, as `warp_crop` does, into the part of the crop that it covers.

    Args:
        image: [height, width, 3] uint8.
        mask: [height, width] uint8, not 0 where the person is.
        image_to_crop, crop_to_image: [3, 3] homographies between px of the image at full size and px of the crop.
        crop_side: px.
        reduction: how many times smaller than full size `image` and `mask` are.

    Returns: [h, w, 4] uint8 RGBA, premultiplied, and its left and top in the crop, px; h and w may be 0.
    """
    left, top, width, height = cv2.boundingRect(mask)
    left, top, right, bottom = max(left - 1, 0), max(top - 1, 0), left + width + 1, top + height + 1
    x, y, end_x, end_y = _window_around(image_to_crop, left, top, right, bottom, reduction, crop_side)
    if end_x <= x or end_y <= y:
        return np.zeros((0, 0, 4), np.uint8), 0, 0
    cut = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_RGB2RGBA)
    cut = cv2.copyTo(cut, mask[top:bottom, left:right])  # all four channels are 0 elsewhere
    homography = _between_parts(crop_to_image, x, y, left, top, reduction)
    return _warp(cut, homography, (end_x - x, end_y - y)), x, y


def _warp(image: np.ndarray, crop_to_image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.warpPerspective(image, crop_to_image, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                               borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER_COLOR)


def _between_parts(crop_to_image: np.ndarray, x: int = 0, y: int = 0, left: int = 0, top: int = 0,
                   reduction: int = 1) -> np.ndarray:
    """[3, 3] from px of the crop's window that begins at x, y to px of the part of the reduced image that begins at left,
    top. Plain numbers: numpy would take several times as long for so few."""
    rows = [[a, b, a * x + b * y + c] for a, b, c in crop_to_image.tolist()]
    # Pixel 0 of the reduced image is the mean of pixels 0 .. reduction - 1.
    start_x, start_y = ((reduction - 1) / 2 + reduction * start for start in (left, top))
    return np.array([[u - start_x * w for u, w in zip(rows[0], rows[2], strict=True)],
                     [v - start_y * w for v, w in zip(rows[1], rows[2], strict=True)], [reduction * w for w in rows[2]]])


def _window_around(image_to_crop: np.ndarray, left: int, top: int, right: int, bottom: int, reduction: int,
                   crop_side: int) -> tuple[int, int, int, int]:
    """The crop's window, x, y, end of x, end of y, that shows a part of the reduced image."""
    (a, b, c), (d, e, f), (g, h, i) = image_to_crop.tolist()
    shift = (reduction - 1) / 2
    xs, ys = [], []
    for u, v in ((left, top), (right, top), (left, bottom), (right, bottom)):
        u, v = reduction * u + shift, reduction * v + shift
        w = g * u + h * v + i
        if w <= 0:  # not in front of the camera all over: no bound follows from the corners
            return 0, 0, crop_side, crop_side
        xs.append((a * u + b * v + c) / w)
        ys.append((d * u + e * v + f) / w)
    return (max(math.floor(min(xs)), 0), max(math.floor(min(ys)), 0),
            min(math.ceil(max(xs)) + 1, crop_side), min(math.ceil(max(ys)) + 1, crop_side))


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
        mask = cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)[1]
    return image, mask


def _apply_homography(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[n, 3, 3] on [n, num_points, 2]."""
    mapped = np.einsum("nij,nkj->nki", homography[:, :, :2], points) + homography[:, None, :, 2]
    return mapped[..., :2] / mapped[..., 2:]
