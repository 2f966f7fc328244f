"""Checks on labels of unknown origin: unit mix-ups, swapped left and right, cameras that look elsewhere, broken bones."""

import numpy as np

from posepile.geometry.bone_lengths import is_implausible_length
from posepile.geometry.camera import project, transform
from posepile.geometry.skeleton import Skeleton, joint_indices

MM_PER_UNIT = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
# The largest distance between two joints, median over people: from a crouching child to a tall adult reaching up.
BODY_EXTENT_MM = (300.0, 3500.0)
MIN_LABELLED_SHARE = 0.5  # of the joints, for a person to count in the check of the body size

MIN_VOTES = 12  # fewer bent legs and feet, or faces, say nothing about left and right
MAX_WRONG_SHARE = 0.75  # healthy knees bend one way; noise and crossed legs stay far below this
MIN_BEND_DEGREES = 20.0
MIN_COSINE = 0.5  # a bend that is mostly sideways does not count
TOE_NAMES = ("toe", "big_toe", "foot")  # the first of these that the format has shows where a foot points

# A reading of a camera's pose is suggested if it brings so many of the joints into the picture, and large enough.
MIN_FITTING_SHARE = 0.8
MIN_FITTING_SIDE = 0.05  # of the longer side of the image
# [4, 4] from a convention of camera axes to OpenCV's (x right, y down, z forward); OpenGL's y points up and z backward.
CAMERA_AXES = {"opencv": np.eye(4), "opengl": np.diag([1.0, -1.0, -1.0, 1.0])}
FAR_OUTSIDE = 1.0  # image sizes beyond the border; nothing that near the picture is "far outside"


def body_extents(joints3d: np.ndarray) -> np.ndarray:
    """The largest distance between two labelled joints of each person.

    Args:
        joints3d: [num_people, num_joints, 3], any frame and unit; nan where there is no label.

    Returns: [num_people], same unit; nan for people with fewer than half of their joints labelled.
    """
    is_labelled = np.isfinite(joints3d).all(axis=-1)
    points = np.where(is_labelled[..., None], joints3d, 0)
    distance = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
    distance *= is_labelled[:, :, None] & is_labelled[:, None]
    return np.where(is_labelled.mean(axis=1) >= MIN_LABELLED_SHARE, distance.max(axis=(1, 2)), np.nan)


def check_body_size(joints3d: np.ndarray, units: str, where: str) -> None:
    """Checks that people are as large as people are.

    Args:
        joints3d: [num_people, num_joints, 3] mm; nan where there is no label.
        units: what the data were said to be in: "mm", "cm" or "m"; for the message.
        where: file and field; begins the message.

    Raises: ValueError naming the unit that would make sense.
    """
    extents = body_extents(joints3d)
    extents = extents[np.isfinite(extents)]
    if not extents.size or units in (fitting := units_that_fit(extent := float(np.median(extents)), units)):
        return
    advice = f"As {fitting[0]} the size would be plausible: set units to \"{fitting[0]}\"." if fitting else \
        "No unit makes this plausible; check the joints."
    raise ValueError(f"{where}: read in {units}, people measure {extent:.4g} mm from end to end (median of "
                     f"{extents.size}); expected {BODY_EXTENT_MM[0]:.0f} to {BODY_EXTENT_MM[1]:.0f} mm. {advice}")


def units_that_fit(extent_mm: float, units: str = "mm") -> list[str]:
    """The units in which a body's extent would be plausible, if its numbers were read in `units` to give `extent_mm`."""
    return [unit for unit, factor in MM_PER_UNIT.items()
            if BODY_EXTENT_MM[0] <= extent_mm / MM_PER_UNIT[units] * factor <= BODY_EXTENT_MM[1]]


def implausible_bones(joints3d: np.ndarray, edges: np.ndarray, mean_lengths: np.ndarray) -> np.ndarray:
    """[num_edges] bool: bones far from their mean length, see `is_implausible_length`, or longer than a body.

    Args:
        joints3d: [num_joints, 3] mm; nan where there is no label: bones that end there are not implausible.
        edges: [num_edges, 2] joint indices.
        mean_lengths: [num_edges] mm; nan where unknown.
    """
    length = np.linalg.norm(joints3d[edges[:, 0]] - joints3d[edges[:, 1]], axis=-1)
    return is_implausible_length(length, mean_lengths) | (length > BODY_EXTENT_MM[1])


def left_right_votes(joints3d: np.ndarray, skeleton: Skeleton) -> tuple[int, int]:
    """Counts the knees and feet that point forward and backward, where forward follows from which hip is called left.

    With `left` from the right to the left hip and `up` along a leg, left x up points forward (in right-handed axes).
    Bent knees and toes point there; in a mirrored body, or one with swapped names, they point back.

    Args:
        joints3d: [num_people, num_joints, 3], right-handed axes, any unit; nan where there is no label.

    Returns: number of legs and feet that point forward, number that point backward. (0, 0) for a format without legs.
    """
    if skeleton.formats:  # merged ones; each has legs of its own
        votes = [left_right_votes(joints3d[:, joint_indices(skeleton, fmt)], fmt) for fmt in skeleton.formats]
        return tuple(map(sum, zip(*votes, strict=True)))
    index = {name: i for i, name in enumerate(skeleton.joint_names)}
    forward_count = backward_count = 0
    if not {"left_hip", "right_hip"} <= index.keys():
        return 0, 0
    left = joints3d[:, index["left_hip"]] - joints3d[:, index["right_hip"]]
    for side in ("left", "right"):
        if f"{side}_knee" not in index or f"{side}_ankle" not in index:
            continue
        hip, knee, ankle = (joints3d[:, index[f"{side}_{joint}"]] for joint in ("hip", "knee", "ankle"))
        up = hip - ankle
        bend = np.pi - _angle(hip - knee, ankle - knee)
        on_line = ankle + up * (_dot(knee - ankle, up) / np.maximum(_dot(up, up), 1e-9))[:, None]
        votes = [(knee - on_line, np.cross(left, up), bend >= np.deg2rad(MIN_BEND_DEGREES))]
        if toe := next((f"{side}_{name}" for name in TOE_NAMES if f"{side}_{name}" in index), None):
            votes.append((joints3d[:, index[toe]] - ankle, np.cross(left, knee - ankle), np.True_))
        for offset, forward, is_counted in votes:
            cosine = np.cos(_angle(offset, forward))
            forward_count += np.count_nonzero(is_counted & (cosine > MIN_COSINE))
            backward_count += np.count_nonzero(is_counted & (cosine < -MIN_COSINE))
    return forward_count, backward_count


def face_votes(joints2d: np.ndarray, skeleton: Skeleton) -> tuple[int, int]:
    """Counts the visible faces by whether the left eye (or ear) is at the person's left, as seen from the front.

    2D labels are mostly of what is visible, so a person with nose and both eyes labelled faces the camera: with the head
    up, the left eye is then further right in the image. "Up" points from between the shoulders to the nose.

    Args:
        joints2d: [num_people, num_joints, 2] px; nan where there is no label.

    Returns: number of faces that agree, number that do not. (0, 0) for a format without nose, shoulders, or eyes and ears.
    """
    index = {name: i for i, name in enumerate(skeleton.joint_names)}
    pair = next((part for part in ("eye", "ear") if {f"left_{part}", f"right_{part}"} <= index.keys()), None)
    if pair is None or not {"nose", "left_shoulder", "right_shoulder"} <= index.keys():
        return 0, 0
    nose, left, right, *shoulders = (joints2d[:, index[name]] for name in (
        "nose", f"left_{pair}", f"right_{pair}", "left_shoulder", "right_shoulder"))
    up, leftward = nose - np.mean(shoulders, axis=0), left - right
    rightward_in_image = np.stack([-up[:, 1], up[:, 0]], axis=-1)  # of an upright head, whose `up` is (0, -1)
    cosine = np.cos(_angle(leftward, rightward_in_image))
    return int(np.count_nonzero(cosine > MIN_COSINE)), int(np.count_nonzero(cosine < -MIN_COSINE))


def are_swapped(num_right: int, num_wrong: int) -> bool:
    """Whether votes as of `left_right_votes` or `face_votes` say that left and right are swapped."""
    total = num_right + num_wrong
    return total >= MIN_VOTES and num_wrong > MAX_WRONG_SHARE * total


def check_left_right(joints3d: np.ndarray, skeleton: Skeleton, where: str) -> None:
    """Checks that knees bend and feet point forward; see `left_right_votes`. Too few bent legs are no evidence.

    Raises: ValueError, beginning with `where`, if nearly all of them point backward.
    """
    num_forward, num_backward = left_right_votes(joints3d, skeleton)
    if are_swapped(num_forward, num_backward):
        raise ValueError(
            f"{where}: {num_backward} of {num_forward + num_backward} bent knees and feet point to the back. Either left "
            f"and right are swapped (expected order of {skeleton.name}: {', '.join(skeleton.joint_names)}), or the "
            "coordinates are left-handed, as in some game engines: then negate one axis of the joints and of the camera "
            "poses.")


def is_near_image(joints3d_camera: np.ndarray, intrinsics: np.ndarray, image_size: tuple[int, int],
                  margin: float = FAR_OUTSIDE) -> np.ndarray:
    """[num_joints] bool: whether a joint is in front of the camera and in the image or near it, by an ideal lens.

    Args:
        joints3d_camera: [num_joints, 3] mm; nan where there is no label.
        image_size: width, height, px.
        margin: how far outside a joint may be, in sizes of the image.
    """
    size = np.array(image_size)
    return is_inside(project(joints3d_camera, intrinsics), np.array([-0.5, -0.5, *size]), margin * size)


def is_inside(pixels: np.ndarray, bbox: np.ndarray, margin: np.ndarray | float = 0.0) -> np.ndarray:
    """[...] bool: whether [..., 2] px lie in a box (x, y, width, height), or at most `margin` px beside it; nan do not."""
    with np.errstate(invalid="ignore"):
        return ((pixels >= bbox[:2] - margin) & (pixels <= bbox[:2] + bbox[2:] + margin)).all(axis=-1)


def readings_that_fit(joints3d_world: np.ndarray, rotation: np.ndarray, vector: np.ndarray, intrinsics: np.ndarray,
                      image_size: tuple[int, int]) -> list[str]:
    """The readings of a camera's pose under which the person is in the picture, for error messages.

    Args:
        joints3d_world: [num_joints, 3] mm; nan where there is no label.
        rotation, vector: [3, 3] and [3] mm, the numbers of the pose, whatever they mean.
        image_size: width, height, px.

    Returns: descriptions; some with another unit of the vector only if none fits with the given one.
    """
    labelled = joints3d_world[np.isfinite(joints3d_world).all(axis=-1)]

    def fits(pose):
        joints3d_camera = transform(labelled, pose)
        is_inside = is_near_image(joints3d_camera, intrinsics, image_size, margin=0.0)
        return is_inside.mean() > MIN_FITTING_SHARE and \
            np.ptp(project(joints3d_camera[is_inside], intrinsics), axis=0).max() > MIN_FITTING_SIDE * max(image_size)

    def readings(factor):
        poses = {"world_to_camera with rotation and translation": rigid(rotation, factor * vector),
                 "world_to_camera with rotation and center": rigid(rotation, -rotation @ (factor * vector)),
                 "camera_to_world": rigid(rotation.T, -rotation.T @ (factor * vector))}
        return [f"{name}, axes {axes}" for axes, to_opencv in CAMERA_AXES.items() for name, pose in poses.items()
                if fits(to_opencv @ pose)]

    own_unit = readings(1) + ["joints3d_camera: joints in the camera's frame"] * bool(fits(np.eye(4)))
    return own_unit or [f"{reading}, its position in {actual}, not {read_as}" for factor, actual, read_as in (
        (1000, "m", "mm"), (1e-3, "mm", "m"), (10, "cm", "mm"), (0.1, "mm", "cm")) for reading in readings(factor)]


def rigid(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """[4, 4] of X -> R X + t."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...i,...i->...", a, b)


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[...] radians between [..., 3] vectors; nan where one is nan or zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.arccos(np.clip(_dot(a, b) / np.sqrt(_dot(a, a) * _dot(b, b)), -1, 1))
