"""From a labelled person in a raw image to an example record: an undistorted, person-centred, upright crop.

The crop camera is the image's camera turned towards the centre of the person's box. The crop is larger than the box, so
that training can rotate, shrink and shift the person without running out of picture.
"""

import contextlib
import functools
import math
import os
import pathlib

import cv2
import numpy as np

from datasets.raw_example import RawExample
from posepile.data.records import Example, encode_mask
from posepile.geometry.camera import (
    Camera,
    crop_cameras,
    crop_homography,
    lens_radius,
    project,
    transform,
    undistort_pixels,
    weak_crop_intrinsics,
)

PERSON_SIDE = 384  # px: the longer side of the person's box in a crop
MAX_ENLARGEMENT = 1.2  # of the crop against the raw image
ROTATION_MARGIN = math.radians(30)  # of roll under which the box stays in the crop; training rolls by up to 20
# The person fills 0.85 of a crop at inference, training zooms out to 0.85 of that, and shifts by up to 0.1 of the box.
EXTENT_FACTOR = 1 / 0.85 / 0.85 * 1.1
SUPERSAMPLING_THRESHOLD = 1.2  # reductions up to this alias hardly
SHARPENING = 0.25  # makes up for what bilinear samples lose against cubic ones: mean difference 0.2 of 255
GAMMA = 2.2  # of the stored images; resampling averages light, not code values
JPEG_QUALITY = 95
MIN_POSE_EXTENT_MM, MAX_POSE_EXTENT_MM = 100.0, 10_000.0  # beyond: the pose is not in millimetres
MIN_JOINTS_FOR_CHECKS = 5  # fewer labelled joints may be a face, or the one hand that is in view
_BAND_ROWS = 64  # of a crop, made at a time: what goes from step to step then stays in the processor's cache
_MARGIN = 3  # px around what a crop shows that interpolation and sharpening look at
_IMREAD_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # labels refer to the pixels as stored


def crop_example(raw: RawExample, person_side: int = PERSON_SIDE) -> Example:
    """Cuts a person out of its image.

    Args:
        raw: the person and its image. Without a camera the image is taken for a far view: an ideal lens whose axis
            passes through the middle of the box, the longer box side under 8 degrees.
        person_side: px; the longer side of the person's box in the crop, less where that would enlarge it more than 1.2
            times.

    Returns: the record. Its crop is in general not square and its principal point not central, since it ends where the
        image does. 2D labels where the lens model has no inverse become nan.
    Raises: ValueError naming the wrong field of `raw`, and the image file where that cannot be read.
    """
    bbox = _checked_bbox(raw.bbox)
    joints3d_world, joints2d = _checked_joints(raw)
    image = load_image(raw.image)
    height, width = image.shape[:2]
    if bbox[0] >= width or bbox[1] >= height or bbox[0] + bbox[2] <= 0 or bbox[1] + bbox[3] <= 0:
        raise ValueError(f"bbox {bbox.tolist()} (x, y, width, height) lies outside of the image of "
                         f"{width} x {height} px")
    if raw.mask is not None and np.shape(raw.mask) != (height, width):
        raise ValueError(f"mask has shape {list(np.shape(raw.mask))}, the image {[height, width]}; they must agree")

    camera = raw.camera if raw.camera is not None else _far_camera(bbox)
    joints3d_camera = None
    if joints3d_world is not None:
        joints3d_camera = transform(joints3d_world, np.asarray(camera.world_to_camera, np.float64))
        _check_agreement(joints3d_camera, camera, bbox)
    crop_intrinsics, rotation, crop_bbox, crop_size = _crop_geometry(camera, bbox, (width, height), person_side)

    def in_crop(source):
        return resample(source, camera, crop_intrinsics, rotation, crop_size)

    jpeg = encode_jpeg(in_crop(image))
    mask_rle = None
    if raw.mask is not None:
        mask_rle = encode_mask(in_crop(np.uint8(255) * np.asarray(raw.mask, bool)) > 32767)

    to_crop = np.eye(4)
    to_crop[:3, :3] = rotation
    crop_joints2d = None
    if joints2d is not None:
        rays = np.ones((len(joints2d), 3))
        rays[:, :2] = undistort_pixels(joints2d, np.asarray(camera.intrinsics, np.float64), camera.distortion)
        crop_joints2d = project(rays @ (1000 * rotation.T), crop_intrinsics)  # points at 1 m
    return Example(
        image=jpeg, intrinsics=np.float32(crop_intrinsics),
        world_to_camera=np.float32(to_crop @ camera.world_to_camera), bbox=np.float32(crop_bbox),
        joints3d=None if joints3d_camera is None else np.float32(joints3d_camera @ rotation.T),
        joints2d=None if crop_joints2d is None else np.float32(crop_joints2d),
        mask_rle=mask_rle, provenance=raw.provenance)


def load_image(image: pathlib.Path | str | np.ndarray) -> np.ndarray:
    """[height, width, 3] uint8 RGB of an image file, or of an image. Raises: ValueError naming the file, if it is
    unreadable."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"image has shape {list(image.shape)} and type {image.dtype}; expected "
                             "[height, width, 3] uint8 RGB")
        return image
    try:
        status = os.stat(image)
    except OSError as error:
        raise ValueError(f"image {image} cannot be read ({error.strerror})") from error
    return _load_image_file(os.fspath(image), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1)  # the persons of one image usually follow one another
def _load_image_file(path: str, _mtime_ns: int, size: int) -> np.ndarray:
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"image {path} cannot be read ({error.strerror})") from error
    decoded = None
    with contextlib.suppress(cv2.error):
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), _IMREAD_FLAGS) if data else None
    if decoded is None or _is_truncated_jpeg(data):
        raise ValueError(f"image {path} ({size} bytes) cannot be decoded: it is truncated, damaged or not an image. "
                         "Fetch it anew; --skip-bad is content without such examples.")
    decoded.flags.writeable = False
    return decoded


def _is_truncated_jpeg(data: bytes) -> bool:
    """Whether a JPEG lacks its end-of-image marker. Some decoders fill what is missing with grey instead of
    complaining."""
    if not data.startswith(b"\xff\xd8"):
        return False
    position = 2  # behind "start of image"; segments follow, each a marker and its length
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        position += 2 + int.from_bytes(data[position + 2:position + 4], "big")
    return data.rfind(b"\xff\xd9", position) < 0  # 0xFF is stuffed with 0x00 inside the pixel data, so this is the end


def _checked_bbox(bbox) -> np.ndarray:
    bbox = np.asarray(bbox, np.float64)
    if bbox.shape != (4,) or not np.isfinite(bbox).all() or (bbox[2:] <= 0).any():
        raise ValueError(f"bbox is {bbox.tolist()}; expected finite x, y, width, height in px, width "
                         "and height positive")
    return bbox


def _checked_joints(raw: RawExample) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The labels as float64. Raises: ValueError for shapes, infinities, half-missing joints, or lengths of another
    unit."""
    if raw.joints3d_world is None and raw.joints2d is None:
        raise ValueError("neither joints3d_world nor joints2d is given; an example needs one of them")
    if raw.joints3d_world is not None and raw.camera is None:
        raise ValueError("joints3d_world is given without a camera; 3D labels need the calibration")
    result = []
    for field, joints, num_coordinates in (("joints3d_world", raw.joints3d_world, 3), ("joints2d", raw.joints2d, 2)):
        if joints is None:
            result.append(None)
            continue
        joints = np.asarray(joints, np.float64)
        if joints.ndim != 2 or joints.shape[1] != num_coordinates:
            raise ValueError(f"{field} has shape {list(joints.shape)}; expected [num_joints, {num_coordinates}]")
        if np.isinf(joints).any():
            raise ValueError(f"{field} holds infinite coordinates, joint {int(np.isinf(joints).any(axis=1).argmax())}")
        is_missing = np.isnan(joints)
        if (half := is_missing.any(axis=1) & ~is_missing.all(axis=1)).any():
            raise ValueError(f"{field}, joint {int(half.argmax())}: some coordinates are nan, but not all of them: "
                             f"{joints[half.argmax()].tolist()}")
        if is_missing.all():
            raise ValueError(f"{field} has no labelled joint, all {len(joints)} are nan")
        result.append(joints)
    if result[0] is not None:
        _check_unit(result[0])
    return result[0], result[1]


def _check_unit(joints3d: np.ndarray) -> None:
    labelled = joints3d[~np.isnan(joints3d[:, 0])]
    extent = np.ptp(labelled, axis=0).max()
    if len(labelled) < MIN_JOINTS_FOR_CHECKS or MIN_POSE_EXTENT_MM <= extent <= MAX_POSE_EXTENT_MM:
        return
    unit = ("metres" if extent < 5 else "centimetres" if extent < MIN_POSE_EXTENT_MM
            else "a smaller unit, or a broken label")
    raise ValueError(f"joints3d_world spans {extent:.3g} over {len(labelled)} joints, which looks like {unit}; "
                     f"expected millimetres, {MIN_POSE_EXTENT_MM:.0f} to {MAX_POSE_EXTENT_MM:.0f} for a person")


def _check_agreement(joints3d_camera: np.ndarray, camera: Camera, bbox: np.ndarray) -> None:
    """Raises: ValueError if no joint projects into or near the box: then the camera does not belong to the labels."""
    is_labelled = ~np.isnan(joints3d_camera[:, 0])
    if np.count_nonzero(is_labelled) < MIN_JOINTS_FOR_CHECKS:
        return
    advice = "Is world_to_camera inverted (camera to world), its translation in another unit, or another camera's?"
    if (joints3d_camera[is_labelled, 2] <= 0).all():
        raise ValueError(f"camera: all labelled joints of joints3d_world lie behind it. {advice}")
    distortion = _usable_distortion(camera.distortion, joints3d_camera)
    projected = project(joints3d_camera, np.asarray(camera.intrinsics, np.float64), distortion)
    with np.errstate(invalid="ignore"):
        is_near = (np.abs(projected - bbox[:2] - bbox[2:] / 2) <= bbox[2:].max()).all(axis=1)
    if not is_near.any():
        center = np.nanmean(projected, axis=0)
        raise ValueError(f"camera: none of the {np.count_nonzero(is_labelled)} joints projects near the box "
                         f"{bbox.tolist()}; their projections centre at {center.round(1).tolist()} px. {advice}")


def _usable_distortion(distortion, joints3d_camera):
    """None if the lens model would be asked beyond its range: joints far out of view are then projected without it."""
    if distortion is None or not np.any(distortion):
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        radius = np.linalg.norm(joints3d_camera[:, :2], axis=1) / np.abs(joints3d_camera[:, 2])
    return distortion if np.nanmin(radius) < lens_radius(distortion) else None


def _far_camera(bbox: np.ndarray) -> Camera:
    """Stands for an unknown calibration. Its axis passes through the box, not through the middle of the image: under a
    made-up focal length a turned camera would shear persons at the edge of the image."""
    center = bbox[:2] + bbox[2:] / 2
    return Camera(weak_crop_intrinsics(bbox[2:].max(), tuple(2 * center + 1)))


def _crop_geometry(camera: Camera, bbox, image_size, person_side):
    """The crop camera: intrinsics [3, 3], rotation [3, 3] from the image's camera, the box in the crop [4], and (width,
    height)."""
    intrinsics = np.asarray(camera.intrinsics, np.float64)
    _, rotations = crop_cameras(intrinsics[None], bbox[None], 1, up=camera.up, distortion=camera.distortion)
    rotation = rotations[0]

    def to_turned(pixels):
        """[n, 2] px of the image -> [n, 2] x/z, y/z of the turned camera; nan behind it, and where the lens model has
        no inverse."""
        rays = np.ones((len(pixels), 3))
        rays[:, :2] = undistort_pixels(pixels, intrinsics, camera.distortion)
        turned = rays @ rotation.T
        return turned[:, :2] / np.where(turned[:, 2:] > 1e-6, turned[:, 2:], np.nan)

    half = bbox[2:] / 2
    offsets = np.array([[-half[0], 0], [half[0], 0], [0, -half[1]], [0, half[1]]])
    sides, border = np.split(to_turned(np.concatenate([bbox[:2] + half + offsets, _image_border(*image_size)])), [4])
    if not np.isfinite(sides).all():
        raise ValueError(f"bbox {bbox.tolist()} reaches beyond the camera's or the lens model's field of view; check "
                         "it against intrinsics and distortion")
    # Where the camera is rolled, the box comes out rotated. The upright box around the ellipse inscribed into it keeps
    # the person's proportions for any angle; for an upright camera that is the box itself.
    axes = np.array([sides[1] - sides[0], sides[3] - sides[2]])
    box_size = np.linalg.norm(axes, axis=0)
    source_focal = math.sqrt(intrinsics[0, 0] * intrinsics[1, 1])
    focal = min(MAX_ENLARGEMENT * source_focal, person_side / box_size.max())
    box_size = focal * box_size

    cos, sin = math.cos(ROTATION_MARGIN), math.sin(ROTATION_MARGIN)
    side = EXTENT_FACTOR * max(cos * box_size[0] + sin * box_size[1], sin * box_size[0] + cos * box_size[1])
    num_pixels = math.ceil(side)
    center = (num_pixels - 1) / 2
    border = focal * border + center
    # A border point behind the turned camera bounds nothing (nan): the square stays whole there.
    low = np.maximum(0, np.ceil(np.where(np.isnan(border), -np.inf, border).min(axis=0)))
    high = np.minimum(num_pixels - 1, np.floor(np.where(np.isnan(border), np.inf, border).max(axis=0)))
    size = (high - low + 1).astype(int)
    if (size < 1).any():
        raise ValueError(f"bbox {bbox.tolist()} leaves no crop inside the image of {image_size[0]} x "
                         f"{image_size[1]} px")
    principal_point = center - low
    crop_intrinsics = np.array([[focal, 0, principal_point[0]], [0, focal, principal_point[1]], [0, 0, 1]])
    crop_bbox = np.concatenate([principal_point - box_size / 2, box_size])
    return crop_intrinsics, rotation, crop_bbox, (int(size[0]), int(size[1]))


def _image_border(width: int, height: int, num_points: int = 17) -> np.ndarray:
    """[4 num_points, 2] px along the outer edge of an image."""
    x, y = np.linspace(-0.5, width - 0.5, num_points), np.linspace(-0.5, height - 0.5, num_points)
    return np.concatenate([np.stack([x, np.full_like(x, -0.5)], 1), np.stack([x, np.full_like(x, height - 0.5)], 1),
                           np.stack([np.full_like(y, -0.5), y], 1), np.stack([np.full_like(y, width - 0.5), y], 1)])


def resample(source: np.ndarray, camera: Camera, crop_intrinsics, rotation, size) -> np.ndarray:
    """Resamples an image [height, width(, 3)] uint8 in linear light for a crop camera; black outside of it. Averages where the
    crop is coarser.

    Whole factors of a reduction are done first, by area averaging; what is left, between 1 and 2, by 2 x 2 supersampling.
    There, OpenCV's bilinear samples of four channels take an eighth of the time of cubic ones; sharpened, they differ little.

    Returns: [height, width(, 3)] uint16, see `_to_linear_table`.
    """
    intrinsics = np.asarray(camera.intrinsics, np.float64)
    reduction = math.sqrt(intrinsics[0, 0] * intrinsics[1, 1]) / crop_intrinsics[0, 0]
    factor = max(1, int(reduction))
    samples = 2 if reduction > SUPERSAMPLING_THRESHOLD else 1
    intrinsics = _scale_intrinsics(intrinsics, 1 / factor)
    interpolation = cv2.INTER_LINEAR if samples > 1 else cv2.INTER_CUBIC
    distorts = camera.distortion is not None and np.any(camera.distortion)
    if distorts:
        maps = _lens_maps(intrinsics, camera.distortion, crop_intrinsics, rotation, size)
    else:
        to_image = np.linalg.inv(crop_homography(intrinsics, crop_intrinsics, rotation))

    result = np.empty((size[1], size[0], *source.shape[2:]), np.uint16)
    for top in range(0, size[1], _BAND_ROWS):
        band = result[top:top + _BAND_ROWS]
        if distorts:
            band_maps = [coordinates[top:top + len(band) + 2] for coordinates in maps]
            seen = [cv2.minMaxLoc(coordinates)[:2] for coordinates in band_maps]
            light, *origin = _light_of_part(source, seen, factor, samples > 1)
            # The maps of the samples lie between those of the pixels: over 1 px, a lens is straight.
            fine_maps = [cv2.resize(coordinates - start, None, fx=samples, fy=samples)[samples:-samples, samples:-samples]
                         for coordinates, start in zip(band_maps, origin, strict=True)]
            sampled = cv2.remap(light, *fine_maps, interpolation, borderMode=cv2.BORDER_CONSTANT)
        else:
            band_to_image = to_image @ _shift(0, top)
            seen = _range_of_corners(band_to_image, (size[0], len(band)))
            light, x, y = _light_of_part(source, seen, factor, samples > 1)
            to_part = _shift(-x, -y) @ band_to_image @ np.linalg.inv(_scale_intrinsics(np.eye(3), samples))
            sampled = cv2.warpPerspective(light, to_part, (samples * size[0], samples * len(band)),
                                          flags=interpolation | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT)
        if samples > 1:
            sampled = cv2.resize(sampled, (size[0], len(band)), interpolation=cv2.INTER_AREA)
            band[:] = cv2.cvtColor(sampled, cv2.COLOR_RGBA2RGB) if sampled.ndim == 3 else sampled
        else:
            cv2.add(sampled, 0, band, dtype=cv2.CV_16U)  # rounds, and clips what cubic interpolation adds
    return result


def _light_of_part(source: np.ndarray, seen, factor: int, for_supersampling: bool) -> tuple[np.ndarray, int, int]:
    """The part of an image that is seen, in linear light, reduced by a whole factor; sharpened and, if coloured, with a fourth
    channel for supersampling. `seen`: lowest and highest x, and y, px of the reduced image.

    Returns: [height, width(, 3 or 4)], uint16 for supersampling, else float32; x and y of its first pixel, px of the reduced
        image.
    """
    columns, rows = (_part(*ends, -(-length // factor)) for ends, length in zip(seen, source.shape[1::-1], strict=True))
    part = source[factor * rows.start:factor * rows.stop, factor * columns.start:factor * columns.stop]
    # OpenCV's cubic samples of float32 take a third less time than those of uint16.
    light = cv2.LUT(part, _to_linear_table() if for_supersampling else np.float32(_to_linear_table()))
    if factor > 1:
        if (pad_y := -len(part) % factor) | (pad_x := -part.shape[1] % factor):
            light = cv2.copyMakeBorder(light, 0, pad_y, 0, pad_x, cv2.BORDER_REPLICATE)
        reduced_size = (columns.stop - columns.start, rows.stop - rows.start)
        light = cv2.resize(light, reduced_size, interpolation=cv2.INTER_AREA)
    if for_supersampling:
        light = cv2.addWeighted(light, 1 + SHARPENING, cv2.blur(light, (3, 3)), -SHARPENING, 0)
        light = cv2.cvtColor(light, cv2.COLOR_RGB2RGBA) if light.ndim == 3 else light
    return light, columns.start, rows.start


def _lens_maps(intrinsics, distortion, crop_intrinsics, rotation, size) -> tuple[np.ndarray, np.ndarray]:
    """x and y, px of the image, for the pixels of a crop and one more at each side; far outside of the image where the lens
    model has no inverse."""
    distortion = np.float64(np.ravel(distortion))
    widened = crop_intrinsics + np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
    map_x, map_y = cv2.initUndistortRectifyMap(intrinsics, distortion, rotation, widened, (size[0] + 2, size[1] + 2),
                                               cv2.CV_32FC1)
    skew, center_y = (intrinsics[0, 1] / intrinsics[1, 1]).item(), intrinsics[1, 2].item()  # not numpy's: float32 stays
    map_x += skew * (map_y - center_y)  # OpenCV leaves it out
    _blank_beyond_lens(map_x, distortion, widened, rotation)
    return map_x, map_y


def _range_of_corners(homography: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[2, 2]: the lowest and highest x, and y, to which a homography takes pixels of a picture; everything if its corners do
    not lie on one side of the camera."""
    corners = np.array([[0, 0, 1], [size[0] - 1, 0, 1], [0, size[1] - 1, 1], [size[0] - 1, size[1] - 1, 1]]) @ homography.T
    if (corners[:, 2] <= 0).any():
        return np.array([[-np.inf, np.inf]] * 2)
    points = corners[:, :2] / corners[:, 2:]
    return np.stack([points.min(axis=0), points.max(axis=0)], axis=1)


def _part(low: float, high: float, length: int) -> slice:
    """The pixels from `low` to `high` and those around them that count, of `length` that there are; one at least."""
    start = int(np.clip(low - _MARGIN, 0, length - 1))
    return slice(start, int(np.clip(high + _MARGIN + 1, start + 1, length)))


def _shift(x: float, y: float) -> np.ndarray:
    """[3, 3] homography."""
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def _scale_intrinsics(intrinsics: np.ndarray, scale: float) -> np.ndarray:
    """Intrinsics of an image resized by `scale`; pixel centres are at whole coordinates, so (x + 1/2) scales."""
    scaled = intrinsics * np.array([[scale], [scale], [1]])
    scaled[:2, 2] += (scale - 1) / 2
    return scaled


def _blank_beyond_lens(map_x: np.ndarray, distortion: np.ndarray, intrinsics: np.ndarray, rotation: np.ndarray) -> None:
    """Marks pixels outside of the image whose rays are outside of the lens model's range: there it folds back into the
    image."""
    limit = lens_radius(distortion)
    height, width = map_x.shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float64)
    to_ray = rotation.T @ np.linalg.inv(intrinsics)
    rays = corners @ to_ray.T
    if (rays[:, 2] > 0).all() and (np.hypot(rays[:, 0], rays[:, 1]) < limit * rays[:, 2]).all():
        return
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ to_ray.T
    map_x[(rays[..., 2] <= 0) | (np.hypot(rays[..., 0], rays[..., 1]) >= limit * rays[..., 2])] = -1e6


def encode_jpeg(light: np.ndarray) -> bytes:
    """Light [height, width, 3] as a JPEG file."""
    crop = cv2.LUT(light, _from_linear_table())
    encoded, jpeg = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded:
        raise ValueError(f"the crop of {crop.shape[1]} x {crop.shape[0]} px cannot be stored as JPEG")
    return jpeg.tobytes()


@functools.cache
def _to_linear_table() -> np.ndarray:
    """[256] uint16: light intensity per code value."""
    return np.round(65535 * (np.arange(256) / 255) ** GAMMA).astype(np.uint16)


@functools.cache
def _from_linear_table() -> np.ndarray:
    """[65536] uint8: the inverse of `_to_linear_table`."""
    return np.round(255 * (np.arange(65536) / 65535) ** (1 / GAMMA)).astype(np.uint8)
