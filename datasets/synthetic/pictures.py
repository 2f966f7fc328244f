"""Pictures of the procedural human: a subject posed in a scene, its camera and light, the image and all ground truth.

The picture is what the turned, upright crop camera of the person sees (see `posepile.geometry.camera.crop_cameras`),
rendered directly instead of resampled from the whole image.
"""

import dataclasses
import functools

import cv2
import numpy as np

from datasets.synthetic import body, bones, landmarks, poses, rendering, scenes, surface
from posepile.geometry.camera import crop_cameras, project
from posepile.geometry.skeleton import Skeleton

IMAGE_SIDE = 128  # px, stored
PERSON_FRACTION = 72 / 128  # longer side of the person's box / stored side: room for shift, zoom and roll

_FULL_IMAGE_SIZE = np.array([1280.0, 960.0])  # px of the image that the person is cut from
_PRINCIPAL_POINT_RANGE = 0.04  # offset from the image's centre, of its size
_POSITION_MM = 2000.0  # people stand within this of the world's origin, in x and z
_MIN_DISTANCE_MM, _MAX_DISTANCE_MM = 2500.0, 6000.0
_JUMP_PROBABILITY, _JUMP_MM = 0.06, 350.0
_MIN_IMAGE_SIDE, _NOISE_SIDE = 16, 512
_UP = np.array([0.0, 1.0, 0.0])
_WITHOUT_YAW = np.ones((len(bones.BONES), 3))
_WITHOUT_YAW[0, 2] = 0
_STOOL_HALF_WIDTH_MM = 170.0
_SHADOW_BONES = tuple(
    (bones.BONE_INDEX[a], bones.BONE_INDEX[b], width_mm)
    for a, b, width_mm in (
        ("pelvis", "chest", 225),
        ("chest", "neck", 225),
        ("neck", "head", 135),
        *(
            (f"{side}_{a}", f"{side}_{b}", width_mm)
            for side in bones.SIDES
            for a, b, width_mm in (
                ("upper_arm", "forearm", 75),
                ("forearm", "hand", 60),
                ("thigh", "shin", 120),
                ("shin", "foot", 80),
                ("foot", "toes", 75),
            )
        ),
    )
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A person: rest surface, clothes [num_surfaces, TEXTURE_U, TEXTURE_V, 3], and the look they are pictured in."""

    shape: body.Shape
    rest: body.RestBody
    outfit: np.ndarray
    look: str


@dataclasses.dataclass(frozen=True)
class RenderedExample:
    """An image of one person with its ground truth.

    Attributes:
        image: [side, side, 3] uint8 RGB.
        intrinsics: [3, 3] of the crop camera; world_to_camera: [4, 4], mm; the world is y up, its floor at y = 0.
        landmarks3d: [L, 3] crop camera frame, mm, in the order of `landmarks.landmark_table`; see `joints3d`.
        bbox: [4] x, y, width, height of the whole person, px.
        mask: [side, side] bool; parts: [side, side] uint8 index into `surface.PARTS`; depth_mm: [side, side] float32,
            inf outside the mask. Parts and depth are None unless asked for.
        pose: [num_bones, 3] degrees, see `poses`; shape: proportions; light: [3] direction towards the light, world.
    """

    image: np.ndarray
    intrinsics: np.ndarray
    world_to_camera: np.ndarray
    landmarks3d: np.ndarray
    bbox: np.ndarray
    mask: np.ndarray
    parts: np.ndarray | None
    depth_mm: np.ndarray | None
    pose: np.ndarray
    shape: body.Shape
    light: np.ndarray

    def joints3d(self, skeleton: Skeleton, family: str | None = None) -> np.ndarray:
        """[num_joints, 3] the joints of a format, crop camera frame, mm. `family`: as in `landmark_indices`."""
        return self.landmarks3d[landmarks.landmark_indices(skeleton, family)]


@dataclasses.dataclass(frozen=True)
class Light:
    """Ambient light and a sun. direction: [3] towards the sun, world; ambient, sun: strengths; tint: [3]."""

    direction: np.ndarray
    ambient: float
    sun: float
    tint: np.ndarray

    def shade(self, normals: np.ndarray) -> np.ndarray:
        """[n] light on surfaces with these world normals [n, 3]; there is more ambient light from above."""
        return self.ambient * (0.8 + 0.2 * normals[:, 1]) + self.sun * np.maximum(
            normals @ np.float32(self.direction), 0
        )


def sample_subject(rng: np.random.Generator, look: str) -> Subject:
    """Draws a person for a look (a name in `scenes.LOOKS`)."""
    shape = body.sample_shape(rng)
    _, positions, carriers = landmarks.landmark_table()
    return Subject(
        shape, body.build_rest_body(shape, positions, carriers), scenes.sample_outfit(rng, scenes.LOOKS[look]), look
    )


def render_subject(
    rng: np.random.Generator,
    subject: Subject,
    image_side: int = IMAGE_SIDE,
    dense: bool = False,
    *,
    pose: np.ndarray | None = None,
    is_seated: bool = False,
) -> RenderedExample:
    """Takes a picture of a person.

    Args:
        rng: what is random comes from here.
        subject: who.
        image_side: px.
        dense: whether to compute part labels and depth.
        pose: [num_bones, 3] degrees; its pelvis twist is the yaw against the camera (0: the person faces it;
            positive: turned to their own left). Default: a random one.
        is_seated: whether to put a stool below a given pose.

    Raises: ValueError for an image side out of range.
    """
    if not _MIN_IMAGE_SIDE <= image_side <= _NOISE_SIDE:
        raise ValueError(f"image_side is {image_side} px; expected {_MIN_IMAGE_SIDE} to {_NOISE_SIDE}")
    look = scenes.LOOKS[subject.look]
    if pose is None:
        pose, is_seated = poses.sample_pose(rng)
    # Of the camera as seen from the person: the world's axes tell nothing about the pose.
    azimuth = rng.uniform(-np.pi, np.pi)
    light = _sample_light(rng, look)
    transforms = _stand_on_floor(rng, subject.rest, pose, azimuth, is_seated)
    vertices, normals, landmarks3d_world = body.skin(subject.rest, transforms)
    joints_world = np.einsum("bij,bj->bi", transforms[:, :, :3], subject.rest.pivots) + transforms[:, :, 3]
    world_to_camera, intrinsics = _place_camera(rng, look, azimuth, joints_world[0], vertices, image_side)
    rotation, translation = np.float32(world_to_camera[:3, :3].T), np.float32(world_to_camera[:3, 3])

    background, floor_row = scenes.paint_background(
        rng, subject.look, image_side, intrinsics, world_to_camera, joints_world[0]
    )
    shadow = joints_world - light.direction * (joints_world[:, 1:2] / light.direction[1])
    _darken(
        background,
        shadow @ rotation + translation,
        intrinsics,
        floor_row,
        0.6 * light.sun / (light.sun + light.ambient),
    )

    camera_vertices = vertices @ rotation + translation
    bbox = _bounding_box(camera_vertices, intrinsics)
    faces, attributes = subject.rest.faces, _attributes(subject.rest, light, normals)
    if is_seated:
        corners, corner_normals, stool_faces = _stool(transforms[0], vertices)
        camera_vertices = np.concatenate([camera_vertices, corners @ rotation + translation])
        faces = np.concatenate([faces, stool_faces + len(vertices)])
        zero = np.zeros(len(corners))
        stool = rendering.pack_attributes(
            light.shade(corner_normals), zero + surface.SURFACE_INDEX["stool"], zero, zero
        )
        attributes = np.concatenate([attributes, stool])
    picture = rendering.render(
        camera_vertices, faces, attributes, subject.outfit, light.tint, background, intrinsics[0, 0], dense
    )
    return RenderedExample(
        image=_develop(rng, picture.image, look),
        intrinsics=intrinsics,
        world_to_camera=world_to_camera,
        landmarks3d=landmarks3d_world @ rotation + translation,
        bbox=bbox,
        mask=picture.mask,
        parts=picture.parts,
        depth_mm=picture.depth_mm,
        pose=pose,
        shape=subject.shape,
        light=light.direction,
    )


def _sample_light(rng, look):
    elevation, azimuth = np.deg2rad(rng.uniform(25, 75)), rng.uniform(-np.pi, np.pi)
    direction = np.array(
        [np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
    )
    warmth = rng.uniform(*look.warmth)
    return Light(direction, rng.uniform(*look.ambient), rng.uniform(*look.sun), np.array([1 + warmth, 1, 1 - warmth]))


def _stand_on_floor(rng, rest, pose, azimuth, is_seated):
    """Bone transforms [num_bones, 3, 4] into the world: what is lowest on the floor, or now and then in a jump."""
    rotations = poses.rotations_from_pose(pose * _WITHOUT_YAW)
    yaw = azimuth + np.deg2rad(pose[0, 2])
    c, s = np.cos(yaw), np.sin(yaw)
    rotations[0] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ rotations[0]
    position = np.array([*rng.uniform(-_POSITION_MM, _POSITION_MM, 2), 0.0])[[0, 2, 1]]
    transforms = bones.forward_kinematics(rest.pivots, rotations, position)
    height = body.lowest_point(rest, transforms)
    jump, jump_mm = rng.random(), rng.uniform(0, _JUMP_MM)
    transforms[:, 1, 3] += (jump_mm if jump < _JUMP_PROBABILITY and not is_seated else 0) - height
    return transforms


def _place_camera(rng, look, azimuth, pelvis, vertices, image_side):
    """Draws a camera that sees the person anywhere in its image, and turns it to the person.

    Returns: world_to_camera [4, 4] and intrinsics [3, 3] of the crop camera.
    """
    coordinates = np.ascontiguousarray(vertices.T)
    center = (coordinates.min(axis=1) + coordinates.max(axis=1)) / 2
    distance = np.clip(rng.uniform(*look.distance_mm), 1.04 * _MIN_DISTANCE_MM, 0.97 * _MAX_DISTANCE_MM)
    rise = np.clip(rng.uniform(*look.camera_height_mm) - pelvis[1], -0.7 * distance, 0.7 * distance)
    level = np.sqrt(distance**2 - rise**2)
    position = pelvis + np.array([level * np.sin(azimuth), rise, level * np.cos(azimuth)])
    half_view = np.deg2rad(rng.uniform(*look.field_of_view_degrees)) / 2
    focal = _FULL_IMAGE_SIZE[0] / 2 / np.tan(half_view)
    full_intrinsics = np.array([[focal, 0, 0], [0, focal, 0], [0, 0, 1]])
    full_intrinsics[:2, 2] = (
        _FULL_IMAGE_SIZE * (0.5 + rng.uniform(-_PRINCIPAL_POINT_RANGE, _PRINCIPAL_POINT_RANGE, 2)) - 0.5
    )
    # Where the person's centre is to appear, within the middle half of the image.
    target = _FULL_IMAGE_SIZE * rng.uniform([0.25, 0.4], [0.75, 0.6])
    to_person = center - position
    offset = (target - full_intrinsics[:2, 2]) / focal
    heading = np.arctan2(to_person[0], to_person[2]) + np.arctan(offset[0])
    tilt = np.arcsin(to_person[1] / np.linalg.norm(to_person)) + np.arctan(offset[1])
    full_rotation = _level_camera_rotation(heading, tilt)
    in_camera = (vertices - np.float32(position)) @ np.float32(full_rotation.T)
    crop_intrinsics, turn = crop_cameras(
        full_intrinsics[None],
        _bounding_box(in_camera, full_intrinsics)[None],
        image_side,
        up=full_rotation @ _UP,
        zoom=PERSON_FRACTION,
    )
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = turn[0] @ full_rotation
    world_to_camera[:3, 3] = -world_to_camera[:3, :3] @ position
    return world_to_camera, crop_intrinsics[0]


def _level_camera_rotation(heading, tilt):
    """[3, 3] world -> camera without roll, looking along (cos tilt sin heading, sin tilt, cos tilt cos heading)."""
    sh, ch, st, ct = np.sin(heading), np.cos(heading), np.sin(tilt), np.cos(tilt)
    return np.array([[-ch, 0, sh], [st * sh, -ct, st * ch], [ct * sh, st, ct * ch]])


def _bounding_box(points, intrinsics):
    """[n, 3] camera frame -> [4] float32 x, y, width, height of their image, px; the camera has no skew."""
    x, y, z = np.ascontiguousarray(points.T)
    (x, y), focal, center = (x / z, y / z), (intrinsics[0, 0], intrinsics[1, 1]), intrinsics[:2, 2]
    low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()])
    return np.float32([*(low * focal + center), *((high - low) * focal)])


def _attributes(rest, light, normals):
    template = surface.load_template()
    return rendering.pack_attributes(light.shade(normals), template.surface, template.u, template.v)


def _stool(pelvis_bone, vertices):
    """A box below the seat. Returns: corners [24, 3], normals [24, 3], world; faces [12, 3]."""
    corners, normals, faces = _unit_box()
    forward = pelvis_bone[:, 2] * [1, 0, 1]
    forward = forward / np.linalg.norm(forward)
    axes = np.stack([np.cross(_UP, forward), _UP, forward])
    template = surface.load_template()
    seat = vertices[(template.surface == surface.SURFACE_INDEX["torso"]) & (template.vertices[:, 1] < 900)]
    top = seat[:, 1].min() - 15
    size = np.array([_STOOL_HALF_WIDTH_MM, top / 2, _STOOL_HALF_WIDTH_MM])
    center = seat.mean(axis=0) * [1, 0, 1] + [0, top / 2, 0]
    return np.float32(center + (corners * size) @ axes), np.float32(normals @ axes), faces


@functools.cache
def _unit_box():
    """A cube of half width 1 whose faces have corners of their own."""
    corners, normals, faces = [], [], []
    for axis in range(3):
        for sign in (-1, 1):
            first, second = np.roll(np.eye(3), 1, axis=1)[axis], np.roll(np.eye(3), 2, axis=1)[axis]
            normal = sign * np.eye(3)[axis]
            start = len(corners)
            corners += [normal + a * first + b * second for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            normals += [normal] * 4
            quad = ((0, 1, 2), (0, 2, 3))
            faces += [
                [start + i for i in (t if sign * np.dot(np.cross(first, second), np.eye(3)[axis]) > 0 else t[::-1])]
                for t in quad
            ]
    return np.array(corners), np.array(normals), np.int32(faces)


def _darken(background, joints3d_camera, intrinsics, floor_row, strength):
    """Draws the person's soft shadow on the floor, in place; joints3d_camera: [num_bones, 3] the joints' shadows."""
    side = len(background)
    points = project(joints3d_camera, intrinsics)
    if floor_row >= side or not np.isfinite(points).all():
        return  # a shadow that reaches behind the camera
    mask = np.zeros((side, side), np.uint8)
    pixels = np.clip(np.round(points), -4 * side, 4 * side).astype(int)
    width_px = intrinsics[0, 0] / joints3d_camera[:, 2]  # of 1 mm
    for a, b, width_mm in _SHADOW_BONES:
        cv2.line(mask, pixels[a].tolist(), pixels[b].tolist(), 255, max(1, int(width_px[a] * width_mm)))
    mask[:floor_row] = 0
    mask = cv2.blur(mask, (3, 3))
    background[floor_row:] *= (1 - (strength / 255) * mask[floor_row:].astype(np.float32))[..., None]


def _develop(rng, image, look):
    """Lens blur, exposure and sensor noise: [side, side, 3] float32 in 0..1 -> uint8."""
    sigma, exposure = rng.uniform(0, look.blur), rng.uniform(0.85, 1.15)
    row, column = rng.integers(_NOISE_SIDE - len(image) + 1, size=2)
    strength = look.noise * rng.uniform(0.3, 1.0)
    if sigma > 0.25:
        image = cv2.GaussianBlur(image, (3, 3), sigma)
    image = image * np.float32(255 * exposure)
    image += np.float32(strength) * _sensor_noise()[row : row + len(image), column : column + len(image)]
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


@functools.cache
def _sensor_noise():
    return np.random.default_rng(7).standard_normal((_NOISE_SIDE, _NOISE_SIDE, 3)).astype(np.float32)
