"""Pinhole cameras with lens distortion, and the turned cameras of person crops; numpy, vectorised over leading axes.

Axes are OpenCV's: x right, y down, z forward; lengths mm, image positions px. Pixel (0, 0) is the centre of the top left
pixel, so an image W px wide covers x = -0.5 .. W - 0.5.
"""

import dataclasses

import numpy as np

WEAK_LABEL_FIELD_OF_VIEW_DEGREES = 8.0  # of a crop camera for images without calibration (MeTRAbs)
MIN_DEPTH_MM = 1.0  # nearer points, and those behind the camera, have no projection
ROTATION_TOLERANCE = 1e-3
_LENS_RADII = np.linspace(0, 10, 4001)  # x/z, where lens models are sampled
_NEWTON_TOLERANCE = 1e-14  # of normalised image points; a further step would not move them
_NEWTON_STEPS = 10  # at most; 4 do, except close to where a lens model folds back


@dataclasses.dataclass(frozen=True)
class Camera:
    """A calibrated camera.

    Attributes:
        intrinsics: [3, 3], last row 0, 0, 1.
        world_to_camera: [4, 4], rigid: X_camera = R X_world + t, mm.
        distortion: [4, 5 or 8] k1, k2, p1, p2[, k3[, k4, k5, k6]] as in OpenCV; None for an ideal lens.
        world_up: [3] the world's up direction, unit length; keeps crops upright. None: up in the image (-y of the camera).
    """

    intrinsics: np.ndarray
    world_to_camera: np.ndarray = dataclasses.field(default_factory=lambda: np.eye(4))
    distortion: np.ndarray | None = None
    world_up: np.ndarray | None = None

    def __post_init__(self):
        check_intrinsics(self.intrinsics)
        check_rigid(self.world_to_camera)
        if self.distortion is not None and np.size(self.distortion) not in (4, 5, 8):
            raise ValueError(f"distortion has {np.size(self.distortion)} coefficients; expected 4, 5 or 8 in "
                             "OpenCV's order k1, k2, p1, p2, k3, k4, k5, k6")

    @property
    def up(self) -> np.ndarray:
        """[3] the up direction in the camera's frame."""
        if self.world_up is None:
            return np.array([0.0, -1.0, 0.0])
        return np.asarray(self.world_to_camera)[:3, :3] @ np.asarray(self.world_up, np.float64)


def check_intrinsics(intrinsics: np.ndarray) -> None:
    """Raises: ValueError unless this is a [3, 3] matrix of finite numbers, positive focal lengths, last row 0, 0, 1."""
    k = np.asarray(intrinsics, np.float64)
    if k.shape != (3, 3) or not np.isfinite(k).all():
        raise ValueError(f"intrinsics must be a finite [3, 3] matrix, got shape {list(k.shape)}: {k.tolist()}")
    if k[0, 0] <= 0 or k[1, 1] <= 0 or not np.allclose(k[2], [0, 0, 1]) or abs(k[1, 0]) > 1e-6 * k[1, 1]:
        raise ValueError("intrinsics must be [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0, in px; "
                         f"got {k.tolist()}. Is the matrix transposed?")


def check_rigid(world_to_camera: np.ndarray) -> None:
    """Raises: ValueError unless this is a finite [4, 4] rigid motion: R orthonormal with determinant +1."""
    m = np.asarray(world_to_camera, np.float64)
    if m.shape != (4, 4) or not np.isfinite(m).all() or not np.allclose(m[3], [0, 0, 0, 1]):
        raise ValueError(f"world_to_camera must be a finite [4, 4] matrix with last row 0, 0, 0, 1; got {m.tolist()}")
    r = m[:3, :3]
    error = np.abs(r @ r.T - np.eye(3)).max()
    if error > ROTATION_TOLERANCE:
        raise ValueError(f"the rotation in world_to_camera is not orthonormal (R R^T differs from 1 by {error:.3g}): "
                         f"{r.tolist()}")
    if np.linalg.det(r) < 0:
        raise ValueError(f"the rotation in world_to_camera has determinant -1, it mirrors the world: {r.tolist()}. "
                         "One axis is flipped somewhere.")


def transform(points: np.ndarray, rigid: np.ndarray) -> np.ndarray:
    """Applies [..., 4, 4] rigid motions to [..., n, 3] points."""
    rotation, translation = rigid[..., :3, :3], rigid[..., None, :3, 3]
    return np.einsum("...ij,...nj->...ni", rotation, points) + translation


def project(joints3d_camera: np.ndarray, intrinsics: np.ndarray, distortion: np.ndarray | None = None) -> np.ndarray:
    """Projects camera-space points to the image.

    Args:
        joints3d_camera: [..., n, 3] mm.
        intrinsics: [..., 3, 3].
        distortion: OpenCV coefficients of all these cameras, or None.

    Returns: [..., n, 2] px; nan for points nearer than MIN_DEPTH_MM or behind the camera, and where the input is nan.
    """
    z = joints3d_camera[..., 2:]
    with np.errstate(invalid="ignore"):
        normalized = joints3d_camera[..., :2] / np.where(z >= MIN_DEPTH_MM, z, np.nan)
    if distortion is not None and np.any(distortion):
        normalized = distort(normalized, distortion)
    return np.einsum("...ij,...nj->...ni", intrinsics[..., :2, :2], normalized) + intrinsics[..., None, :2, 2]


def distort(normalized: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """Moves ideal normalised image points [..., 2] (x/z, y/z) to where the lens images them (OpenCV's model)."""
    _, _, p1, p2 = np.ravel(distortion)[:4]
    x, y = normalized[..., 0], normalized[..., 1]
    r2 = x * x + y * y
    factor, _ = _radial_factor(r2, distortion)
    return np.stack([x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                     y * factor + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)], axis=-1)


def undistort(distorted: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """The inverse of `distort`: [..., 2] -> [..., 2]; nan where the lens images no point, see `lens_radius`.

    The radial part is looked up, then Newton's method solves for the whole. (OpenCV's undistortPoints iterates to a
    fixed point, which fails without notice from 45 degrees or so off the axis of strongly distorting lenses.)
    """
    p1, p2 = np.ravel(distortion)[2:4]
    limit = lens_radius(distortion)
    radii = _LENS_RADII[:np.searchsorted(_LENS_RADII, limit) + 1]
    distorted_radius = np.linalg.norm(distorted, axis=-1, keepdims=True)
    radius = np.interp(distorted_radius, radii * _radial_factor(radii * radii, distortion)[0], radii)
    points = distorted * (radius / np.maximum(distorted_radius, 1e-12))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # of points that get lost
        for _ in range(_NEWTON_STEPS):
            x, y = points[..., 0], points[..., 1]
            factor, slope = _radial_factor(x * x + y * y, distortion)
            dxx = factor + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x  # derivatives; dyx equals dxy
            dxy = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
            dyy = factor + 2 * y * y * slope + 2 * p2 * x + 6 * p1 * y
            dx, dy = np.moveaxis(distort(points, distortion) - distorted, -1, 0)
            determinant = dxx * dyy - dxy * dxy
            step = np.stack([dyy * dx - dxy * dy, dxx * dy - dxy * dx], axis=-1) / determinant[..., None]
            points = points - step
            if not (np.abs(step) > _NEWTON_TOLERANCE).any():
                break
        is_solution = (np.abs(distort(points, distortion) - distorted) < 1e-9).all(axis=-1)
        is_solution &= np.linalg.norm(points, axis=-1) < limit
    return np.where(is_solution[..., None], points, np.nan)


def lens_radius(distortion: np.ndarray) -> float:
    """The ideal radius (x/z) up to which the radial distortion moves points monotonically outwards."""
    with np.errstate(invalid="ignore", divide="ignore"):  # at poles of the rational model
        distorted = _LENS_RADII * _radial_factor(_LENS_RADII * _LENS_RADII, distortion)[0]
    falls = np.flatnonzero(np.diff(distorted) <= 0)
    return float(_LENS_RADII[falls[0]]) if len(falls) else np.inf


def undistort_pixels(pixels: np.ndarray, intrinsics: np.ndarray, distortion: np.ndarray | None) -> np.ndarray:
    """[n, 2] px of the real image -> [n, 2] ideal normalised image points (x/z, y/z); nan as in `undistort`."""
    normalized = (pixels - intrinsics[:2, 2]) @ np.linalg.inv(intrinsics[:2, :2]).T
    return undistort(normalized, distortion) if distortion is not None and np.any(distortion) else normalized


def _radial_factor(r2: np.ndarray, distortion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The radial distortion's factor on points at squared radius `r2`, and the factor's derivative by `r2`."""
    k1, k2, _, _, k3, k4, k5, k6 = [*np.ravel(distortion).tolist(), *(8 - np.size(distortion)) * [0.0]]
    above, below = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)), 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    above_slope, below_slope = k1 + r2 * (2 * k2 + 3 * r2 * k3), k4 + r2 * (2 * k5 + 3 * r2 * k6)
    return above / below, (above_slope - above / below * below_slope) / below


def turned_camera_rotation(direction: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The rotation from a camera's frame to that of the same camera turned to look along `direction`, upright.

    Args:
        direction: [..., 3] new optical axis in the old frame, any length.
        up: [..., 3] up direction in the old frame.

    Returns: [..., 3, 3]; its rows are the new x (right), y (down) and z (forward) axes in the old frame. Looking straight up or
        down leaves the roll open; then the old x axis is kept level.
    """
    z = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    x = np.cross(-up, z)
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    fallback = np.array([1.0, 0.0, 0.0]) - z * z[..., :1]
    x = np.where(norm > 1e-6, x, fallback)
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return np.stack([x, np.cross(z, x), z], axis=-2)


def roll_rotation(angle: np.ndarray) -> np.ndarray:
    """[...] radians -> [..., 3, 3] rotation about the optical axis; positive turns the picture clockwise."""
    c, s = np.cos(angle), np.sin(angle)
    zero, one = np.zeros_like(c), np.ones_like(c)
    return np.stack([np.stack([c, -s, zero], -1), np.stack([s, c, zero], -1), np.stack([zero, zero, one], -1)], -2)


def crop_cameras(intrinsics, bbox, crop_side, *, up=None, roll=0.0, zoom=1.0, shift=(0.0, 0.0), flip=False,
                 distortion=None):
    """Turned, square, undistorted crop cameras for boxes in images (METHOD: crop and camera; MeTRAbs section III).

    The optical axis passes through the (shifted) centre of the box; the longer side of the box, seen by the turned camera,
    fills the crop, times `zoom`; the principal point is the centre of the crop.

    Args:
        intrinsics: [n, 3, 3] of the images.
        bbox: [n, 4] x, y, width, height, px of the image.
        crop_side: px.
        up: [n, 3] or [3] up direction in the camera frames; default (0, -1, 0).
        roll: [n] radians; zoom: [n]; shift: [n, 2] in fractions of the longer box side, in the image; flip: [n] bool.
        distortion: OpenCV coefficients shared by the n boxes, or None.

    Returns:
        intrinsics: [n, 3, 3] float64 of the crops.
        rotation: [n, 3, 3] float64, old camera frame -> crop camera frame. Where `flip` is set it includes the mirroring of
            x and has determinant -1; left and right joints have then to be swapped, too.
    Raises: ValueError for a box without extent, and one that the lens model does not reach.
    """
    intrinsics = np.asarray(intrinsics, np.float64)
    bbox = np.asarray(bbox, np.float64)
    if not (np.isfinite(bbox).all() and (bbox[:, 2:] > 0).all()):
        raise ValueError(f"boxes need finite numbers and a positive width and height; got {bbox.tolist()}")
    num_boxes = len(bbox)
    side = bbox[:, 2:].max(axis=1, keepdims=True)
    center = bbox[:, :2] + bbox[:, 2:] / 2
    half = np.zeros((num_boxes, 4, 2))
    half[:, 0, 0], half[:, 1, 0] = -bbox[:, 2] / 2, bbox[:, 2] / 2
    half[:, 2, 1], half[:, 3, 1] = -bbox[:, 3] / 2, bbox[:, 3] / 2
    shifted = center + np.broadcast_to(shift, (num_boxes, 2)) * side
    points = np.concatenate([shifted[:, None], shifted[:, None] + half], axis=1)
    rays = np.ones((num_boxes, 5, 3))
    for i in range(num_boxes) if distortion is not None else ():
        rays[i, :, :2] = undistort_pixels(points[i], intrinsics[i], distortion)
    if distortion is None:
        rays[..., :2] = np.linalg.solve(intrinsics[:, None, :2, :2],
                                        (points - intrinsics[:, None, :2, 2])[..., None])[..., 0]
    rotation = turned_camera_rotation(rays[:, 0], np.broadcast_to(
        np.array([0.0, -1.0, 0.0]) if up is None else np.asarray(up, np.float64), (num_boxes, 3)))
    turned = np.einsum("nij,npj->npi", rotation, rays[:, 1:])
    turned = turned[..., :2] / np.maximum(turned[..., 2:], 1e-6)
    extent = np.maximum(np.linalg.norm(turned[:, 0] - turned[:, 1], axis=-1),
                        np.linalg.norm(turned[:, 2] - turned[:, 3], axis=-1))
    if np.isnan(extent).any():
        raise ValueError(f"boxes {bbox[np.isnan(extent)].tolist()} reach beyond the lens model's field of view; check "
                         "them against intrinsics and distortion")
    focal = np.broadcast_to(crop_side / extent * np.asarray(zoom), num_boxes)
    crop_intrinsics = np.zeros((num_boxes, 3, 3))
    crop_intrinsics[:, 0, 0] = crop_intrinsics[:, 1, 1] = focal
    crop_intrinsics[:, :2, 2] = (crop_side - 1) / 2
    crop_intrinsics[:, 2, 2] = 1
    rotation = roll_rotation(np.broadcast_to(np.asarray(roll, np.float64), num_boxes)) @ rotation
    rotation[:, 0] *= np.where(np.broadcast_to(flip, num_boxes), -1.0, 1.0)[:, None]
    return crop_intrinsics, rotation


def crop_homography(source_intrinsics: np.ndarray, crop_intrinsics: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """[..., 3, 3] homography from px of an undistorted source image to px of the crop: K' R K^-1."""
    return crop_intrinsics @ rotation @ np.linalg.inv(source_intrinsics)


def weak_crop_intrinsics(person_side: float, image_size: tuple[float, float]) -> np.ndarray:
    """[3, 3] stand-in for the unknown camera of a 2D-labelled image, principal point at the image centre.

    A person whose longer box side is `person_side` px is seen under 8 degrees, as METHOD section 2 asks of the crop.
    """
    focal = person_side / (2 * np.tan(np.deg2rad(WEAK_LABEL_FIELD_OF_VIEW_DEGREES) / 2))
    return np.array([[focal, 0, (image_size[0] - 1) / 2], [0, focal, (image_size[1] - 1) / 2], [0, 0, 1]])
