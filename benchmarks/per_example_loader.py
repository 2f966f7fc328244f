"""The yardstick of `benchmarks.input_pipeline`: training crops made one at a time, the straightforward way.

For each example: read the record, decode the JPEG, build its crop camera step by step (turn, zoom, roll, mirror), warp
the picture, replace the background by the person mask, paste objects or erase a rectangle, change brightness, contrast,
hue and saturation one after another in random order, and turn the labels with the camera. Pixels are float32 from the
warp to the end; hue and saturation pass through OpenCV's HSV. It reads with the same `PreparedDataset.read`, pastes the
same pictures and draws from the same ranges as `batches.make_batch`. Partial visibility, which is off by default, is
left out, and so is putting examples together to a batch.
"""

import cv2
import numpy as np

from posepile.data import records
from posepile.data.augmentation import AugmentationConfig
from posepile.data.pictures import Pictures
from posepile.data.records import PreparedDataset


class CropCamera:
    """A camera that is made from that of a stored image: turned to the person, zoomed, rolled, perhaps mirrored.

    Attributes:
        intrinsics: [3, 3], px; the identity until `fit_box`.
        stored_to_ray: [3, 3], the inverse of the stored image's intrinsics.
        rotation: [3, 3] from the stored image's camera frame to this one's; mirrored cameras have determinant -1.
    """

    def __init__(self, intrinsics: np.ndarray):
        self.stored_to_ray = np.linalg.inv(intrinsics.astype(np.float64))
        self.intrinsics = np.eye(3)
        self.rotation = np.eye(3)

    def turn_towards(self, point: np.ndarray) -> None:
        """Moves the optical axis through a point of the stored image, [2] px, keeping the picture upright."""
        forward = self.stored_to_ray @ np.array([*point, 1])
        forward /= np.linalg.norm(forward)
        right = np.array([forward[2], 0, -forward[0]])  # down x forward
        right /= np.linalg.norm(right)
        self.rotation = np.array([right, np.cross(forward, right), forward])

    def fit_box(self, bbox: np.ndarray, center: np.ndarray, crop_side: int, zoom: float) -> None:
        """Zooms until the longer side of a box around `center`, [2] px of the stored image, fills `zoom` of the crop.

        Pixels come out square, the principal point in the middle.
        """
        x, y, half_width, half_height = *center, *bbox[2:] / 2
        left, right, top, bottom = self.from_stored(np.array(
            [[x - half_width, y], [x + half_width, y], [x, y - half_height], [x, y + half_height]]))
        focal = zoom * crop_side / max(np.linalg.norm(right - left), np.linalg.norm(bottom - top))
        middle = (crop_side - 1) / 2
        self.intrinsics = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])

    def roll(self, angle: float) -> None:
        """Turns the picture clockwise, radians."""
        cos, sin = np.cos(angle), np.sin(angle)
        self.rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ self.rotation

    def mirror(self) -> None:
        self.rotation = np.diag([-1.0, 1.0, 1.0]) @ self.rotation

    def homography(self) -> np.ndarray:
        """[3, 3] from px of the stored image to px of the crop."""
        return self.intrinsics @ self.rotation @ self.stored_to_ray

    def from_stored(self, points: np.ndarray) -> np.ndarray:
        """[n, 2] px of the stored image -> px of the crop."""
        mapped = np.column_stack([points, np.ones(len(points))]) @ self.homography().T
        return mapped[:, :2] / mapped[:, 2:]


def load_example(dataset: PreparedDataset, split: str, position: int, crop_side: int, config: AugmentationConfig,
                 pictures: Pictures, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Makes one training example.

    Args:
        dataset, split, position: which one.
        crop_side: px.
        config: how the crop varies.
        pictures: `occluders` [h, w, 4] uint8 premultiplied RGBA each, and `backgrounds` [n, larger, larger, 3] uint8.
        rng: of all that is random.

    Returns: image [crop_side, crop_side, 3] uint8 RGB, intrinsics [3, 3], and in the data set's own skeleton joints3d
        [num_joints, 3] (crop camera frame, mm) or joints2d [num_joints, 2] (px of the crop), with joints3d_mask or
        joints2d_mask [num_joints]; 0 where there is no label.
    """
    example = dataset.read(split, position)
    image = example.decode_image()
    is_mirrored = rng.random() < config.flip_probability
    camera = _random_camera(example.intrinsics, example.bbox, crop_side, config, is_mirrored, rng)

    homography, size = camera.homography(), (crop_side, crop_side)
    crop = np.float32(cv2.warpPerspective(image, homography, size)) / 255
    if example.mask_rle is not None and rng.random() < config.background_probability:
        mask = records.decode_mask(example.mask_rle, *image.shape[:2])
        alpha = cv2.warpPerspective(np.float32(mask), homography, size)[..., np.newaxis]
        crop = alpha * crop + (1 - alpha) * _random_background(pictures.backgrounds, crop_side, rng)
    probability = config.occlusion_probability if dataset.kind == "3d" else config.occlusion_probability_2d
    if rng.random() < probability:
        if rng.random() < config.erasing_share:
            _erase_rectangle(crop, config, rng)
        else:
            _paste_objects(crop, pictures.occluders, config, rng)
    crop = _change_colors(crop, config, rng)

    if dataset.kind == "3d":
        joints = example.joints3d @ camera.rotation.T
    else:
        joints = camera.from_stored(example.joints2d)
    if is_mirrored:
        joints = joints[list(dataset.skeleton.mirror)]
    mask = np.isfinite(joints).all(axis=-1)
    return {"image": np.uint8(np.rint(255 * np.clip(crop, 0, 1))), "intrinsics": np.float32(camera.intrinsics),
            f"joints{dataset.kind}": np.float32(np.where(mask[:, np.newaxis], joints, 0)),
            f"joints{dataset.kind}_mask": mask}


def _random_camera(intrinsics, bbox, crop_side, config, is_mirrored, rng) -> CropCamera:
    radius, angle = config.shift * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
    center = bbox[:2] + bbox[2:] / 2 + radius * bbox[2:].max() * np.array([np.cos(angle), np.sin(angle)])
    camera = CropCamera(intrinsics)
    camera.turn_towards(center)
    camera.fit_box(bbox, center, crop_side, rng.uniform(*config.zoom))
    camera.roll(np.deg2rad(rng.uniform(-config.roll_degrees, config.roll_degrees)))
    if is_mirrored:
        camera.mirror()
    return camera


def _random_background(backgrounds, crop_side, rng) -> np.ndarray:
    """[crop_side, crop_side, 3] float32 in 0 .. 1."""
    background = backgrounds[rng.integers(len(backgrounds))]
    left, top = rng.integers(0, len(background) - crop_side, 2, endpoint=True)
    background = background[top:top + crop_side, left:left + crop_side]
    return np.float32(background[:, ::-1] if rng.random() < 0.5 else background) / 255


def _erase_rectangle(crop, config, rng) -> None:
    """Fills a rectangle with noise, in place."""
    side = len(crop)
    area, log_aspect = rng.uniform(*config.erased_area), rng.uniform(*np.log(config.erased_aspect))
    height = min(side, round(side * np.sqrt(area * np.exp(log_aspect))))
    width = min(side, round(side * np.sqrt(area / np.exp(log_aspect))))
    top, left = rng.integers(0, side - height, endpoint=True), rng.integers(0, side - width, endpoint=True)
    crop[top:top + height, left:left + width] = rng.random((height, width, 3), np.float32)


def _paste_objects(crop, occluders, config, rng) -> None:
    """Pastes a random number of objects at random places, in place."""
    side = len(crop)
    for _ in range(rng.integers(*config.num_occluders, endpoint=True)):
        occluder = occluders[rng.integers(len(occluders))]
        factor = rng.uniform(*config.occluder_scale) * side / 2 / max(occluder.shape[:2])
        size = [max(1, round(factor * length)) for length in occluder.shape[1::-1]]
        occluder = np.float32(cv2.resize(occluder, size, interpolation=cv2.INTER_AREA)) / 255
        if rng.random() < 0.5:
            occluder = occluder[:, ::-1]
        left, top = np.rint(rng.uniform(0, side, 2) - np.array(size) / 2).astype(int)
        occluder = occluder[max(0, -top):side - top, max(0, -left):side - left]
        top, left = max(0, top), max(0, left)
        region = crop[top:top + occluder.shape[0], left:left + occluder.shape[1]]
        region[:] = (1 - occluder[..., 3:]) * region + occluder[..., :3]


def _change_colors(crop, config, rng) -> np.ndarray:
    """Brightness, contrast, hue and saturation of a float32 image in 0 .. 1, in random order."""

    def change_brightness(image):
        return image + np.float32(rng.uniform(-config.brightness, config.brightness))

    def change_contrast(image):
        factor, mean = np.float32(rng.uniform(*config.contrast)), np.float32(cv2.mean(image)[:3])
        return factor * image + (1 - factor) * mean

    def change_hue(image):
        hsv = cv2.cvtColor(np.clip(image, 0, 1), cv2.COLOR_RGB2HSV)
        hue = hsv[..., 0] + np.float32(rng.uniform(-config.hue_degrees, config.hue_degrees))
        hsv[..., 0] = hue - 360 * np.floor(hue / 360)  # several times faster than numpy's remainder
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    def change_saturation(image):
        hsv = cv2.cvtColor(np.clip(image, 0, 1), cv2.COLOR_RGB2HSV)
        hsv[..., 1] = np.clip(np.float32(rng.uniform(*config.saturation)) * hsv[..., 1], 0, 1)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    changes = (change_brightness, change_contrast, change_hue, change_saturation)
    for index in rng.permutation(len(changes)):
        crop = changes[index](crop)
    return crop
