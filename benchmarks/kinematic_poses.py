"""Random poses of a jointed stick body with known landmarks: planted truth for the autoencoder's tests.

The body's frame has x to the person's left, y up and z forward; its mirror image negates x and swaps the sides.
"""

import numpy as np

from posepile.geometry.skeleton import Skeleton, load_skeleton, merge_skeletons, plain_joint_names

# segment: (parent, joint position in the parent's frame mm, standard deviation of rotation about x, y, z, mean about x)
SEGMENTS = {
    "pelvis": (None, (0, 0, 0), (0.25, 3.0, 0.15), 0.0),
    "torso": ("pelvis", (0, 100, 0), (0.3, 0.25, 0.15), 0.1),
    "head": ("torso", (0, 430, 0), (0.3, 0.4, 0.15), 0.0),
    "thigh": ("pelvis", (90, -20, 0), (0.5, 0.2, 0.2), -0.4),
    "shank": ("thigh", (0, -420, 0), (0.4, 0.05, 0.0), 0.5),
    "foot": ("shank", (0, -400, 0), (0.2, 0.1, 0.1), 0.0),
    "arm": ("torso", (170, 380, 0), (0.8, 0.4, 0.5), -0.4),
    "forearm": ("arm", (0, -280, 0), (0.5, 0.3, 0.0), -0.8),
    "hand": ("forearm", (0, -250, 0), (0.3, 0.3, 0.3), 0.0),
}
SIDED = ("thigh", "shank", "foot", "arm", "forearm", "hand")

# name without side: (segment, position in the segment's frame mm)
LANDMARKS = {
    "pelvis": ("pelvis", (0, 0, 0)), "hip": ("thigh", (0, 0, 0)), "knee": ("shank", (0, 0, 0)),
    "ankle": ("foot", (0, 0, 0)), "foot": ("foot", (10, -60, 130)), "toe": ("foot", (10, -70, 190)),
    "spine": ("torso", (0, 130, 10)), "spine1": ("torso", (0, 20, 20)), "spine2": ("torso", (0, 150, 10)),
    "spine3": ("torso", (0, 210, 20)), "collar": ("torso", (70, 340, 20)), "neck": ("torso", (0, 420, 0)),
    "head": ("head", (0, 90, 20)), "head_top": ("head", (0, 240, 0)), "nose": ("head", (0, 100, 110)),
    "eye": ("head", (33, 130, 90)), "ear": ("head", (75, 115, 0)), "shoulder": ("arm", (0, 0, 0)),
    "elbow": ("forearm", (0, 0, 0)), "wrist": ("hand", (0, 0, 0)), "hand": ("hand", (0, -80, 0)),
}
TO_CAMERA = np.diag([1.0, -1.0, -1.0])  # facing the camera: the person's left is right in the image


def merged_skeleton(*names: str) -> Skeleton:
    return merge_skeletons([load_skeleton(name) for name in names])


def kinematic_poses(rng: np.random.Generator, num_poses: int, landmarks: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Camera-space positions of landmarks for random poses, body sizes and places 2.5 to 6 m away.

    Args:
        landmarks: (side-prefixed segment such as `left_arm`, [3] position in its frame, mm).

    Returns: [num_poses, len(landmarks), 3] mm, float64.
    """
    rotations, origins = {}, {}
    for segment, (parent, position, deviation, mean) in SEGMENTS.items():
        for side, sign in (("left_", 1), ("right_", -1)) if segment in SIDED else (("", 1),):
            angles = rng.normal(size=(num_poses, 3)) * deviation * np.array([1, sign, sign]) + [mean, 0, 0]
            rotation = euler_rotation(angles)
            if parent is None:
                rotations[segment], origins[segment] = rotation, np.zeros((num_poses, 3))
                continue
            base = side + parent if parent in SIDED else parent
            offset = np.array(position) * [sign, 1, 1]
            origins[side + segment] = origins[base] + rotations[base] @ offset
            rotations[side + segment] = rotations[base] @ rotation
    points = np.stack([origins[segment] + rotations[segment] @ np.asarray(position, np.float64)
                       for segment, position in landmarks], axis=1)
    points = points * rng.uniform(0.8, 1.1, (num_poses, 1, 1)) @ TO_CAMERA.T
    depth = rng.uniform(2500, 6000, (num_poses, 1, 1))
    x_y = rng.uniform(-0.15, 0.15, (num_poses, 1, 2))
    return points + depth * np.concatenate([x_y, np.ones((num_poses, 1, 1))], axis=-1)


def joint_landmarks(skeleton: Skeleton, rng: np.random.Generator, offset_mm: float) -> list[tuple[str, np.ndarray]]:
    """Where every joint of a merged skeleton sits: at the landmark of its name, displaced in its format's own way."""
    result = {}
    for joint, name in enumerate(plain_joint_names(skeleton)):
        sided = name.startswith(("left_", "right_"))
        segment, position = LANDMARKS[name.split("_", 1)[1] if sided else name]
        direction = rng.normal(size=3)
        position = np.add(position, offset_mm * rng.uniform(0.3, 1) * direction / np.linalg.norm(direction))
        if not sided:
            result[joint] = (segment, position * [0, 1, 1])
        elif joint not in result:
            for side, sign, index in (("left_", 1, joint), ("right_", -1, skeleton.mirror[joint])):
                on_side = segment in SIDED
                result[index] = (side + segment if on_side else segment,
                                 np.where(on_side, position, np.abs(position)) * [sign, 1, 1])
            if name.startswith("right_"):
                result[joint], result[skeleton.mirror[joint]] = result[skeleton.mirror[joint]], result[joint]
    return [result[joint] for joint in range(skeleton.num_joints)]


def noisy(poses: np.ndarray, rng: np.random.Generator, along_ray_mm: float, noise_mm: float) -> np.ndarray:
    """Poses as a network predicts them: good in the image, off along the viewing ray."""
    rays = poses / np.linalg.norm(poses, axis=-1, keepdims=True)
    return (poses + rays * rng.normal(0, along_ray_mm, (*poses.shape[:-1], 1))
            + rng.normal(0, noise_mm, poses.shape))


def mirrored(points: np.ndarray, mirror) -> np.ndarray:
    """[..., n, 3] points seen in a mirror: x negated, sides swapped."""
    return points[..., list(mirror), :] * [-1.0, 1.0, 1.0]


def euler_rotation(angles: np.ndarray) -> np.ndarray:
    """[n, 3] radians about y, then x, then z -> [n, 3, 3]."""
    x, y, z = np.moveaxis(angles, -1, 0)
    zero, one = np.zeros_like(x), np.ones_like(x)
    about_x = np.stack([one, zero, zero, zero, np.cos(x), -np.sin(x), zero, np.sin(x), np.cos(x)], -1)
    about_y = np.stack([np.cos(y), zero, np.sin(y), zero, one, zero, -np.sin(y), zero, np.cos(y)], -1)
    about_z = np.stack([np.cos(z), -np.sin(z), zero, np.sin(z), np.cos(z), zero, zero, zero, one], -1)
    return about_y.reshape(-1, 3, 3) @ about_x.reshape(-1, 3, 3) @ about_z.reshape(-1, 3, 3)
