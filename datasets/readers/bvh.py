"""Joint positions from BVH motion files, by forward kinematics."""

import array
import dataclasses
import pathlib

import numpy as np

from datasets.readers.files import broken_file_errors
from datasets.readers.text import read_text

_POSITIONS = {"xposition": 0, "yposition": 1, "zposition": 2}
_ROTATIONS = {"xrotation": 0, "yrotation": 1, "zrotation": 2}


@dataclasses.dataclass(frozen=True)
class BvhMotion:
    """A motion.

    Attributes:
        joint_names: in the order of the file; the end of a chain (End Site) has its parent's name and `_end`.
        positions: [num_frames, num_joints, 3], in the file's unit, which it does not say, and in its world frame.
        frame_time: s between frames.
    """

    joint_names: tuple[str, ...]
    positions: np.ndarray
    frame_time: float


@dataclasses.dataclass
class _Joint:
    name: str
    parent: int  # -1 for a root
    offset: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0, 0.0])
    channels: list[str] = dataclasses.field(default_factory=list)


def read_bvh(path: pathlib.Path, hint: str = "") -> BvhMotion:
    """Reads a BVH file.

    Rotations are multiplied in the order in which the file names them (Zrotation Xrotation Yrotation: R = Rz Rx Ry, on
    column vectors, degrees). A position channel takes the place of that coordinate of the offset, at roots as at joints.

    Raises: FileNotFoundError followed by `hint`; ValueError naming the file, for a broken one and for one whose frames are
        not as many, or not as long, as its header says.
    """
    text = read_text(path, hint)
    with broken_file_errors(path, "a BVH file"):
        hierarchy, found, motion = text.partition("MOTION")
        if not found:
            raise ValueError("it has no line MOTION")
        joints = _parse_hierarchy(hierarchy.split())
        values, frame_time = _parse_motion(motion.strip().splitlines(), sum(len(joint.channels) for joint in joints))
        return BvhMotion(tuple(joint.name for joint in joints), _forward_kinematics(joints, values), frame_time)


def _parse_hierarchy(words: list[str]) -> list[_Joint]:
    if not words or words[0] != "HIERARCHY":
        raise ValueError("it does not begin with HIERARCHY")
    joints: list[_Joint] = []
    open_joints = [-1]  # from the root to the joint whose braces are open
    remaining = iter(words[1:])
    for word in remaining:
        if word in ("ROOT", "JOINT", "End"):
            name = next(remaining, "")
            if (opening := next(remaining, "")) != "{":
                raise ValueError(f"expected a brace after {word} {name:.50}, got {opening!r:.50}")
            parent = open_joints[-1]
            if (word == "ROOT") != (parent == -1):
                raise ValueError(f"{word} {name:.50} stands {'inside' if word == 'ROOT' else 'outside'} of a joint")
            open_joints.append(len(joints))
            joints.append(_Joint(f"{joints[parent].name}_end" if word == "End" else name, parent))
        elif word == "}" and len(open_joints) > 1:
            open_joints.pop()
        elif word == "OFFSET" and len(open_joints) > 1:
            joints[open_joints[-1]].offset = [float(next(remaining, "")) for _ in range(3)]
        elif word == "CHANNELS" and len(open_joints) > 1:
            channels = [next(remaining, "").lower() for _ in range(min(int(next(remaining, "")), 7))]
            if len(set(channels)) < len(channels) or not set(channels) <= {*_POSITIONS, *_ROTATIONS}:
                raise ValueError(f"{joints[open_joints[-1]].name} has the channels {channels!r:.200}; expected different ones "
                                 "of Xposition, Yposition, Zposition, Xrotation, Yrotation, Zrotation")
            joints[open_joints[-1]].channels = channels
        else:
            raise ValueError(f"unexpected {word!r:.50} in the hierarchy")
    if len(open_joints) > 1 or not joints:
        raise ValueError("a brace of the hierarchy is not closed, or there is no joint")
    return joints


def _parse_motion(lines: list[str], num_channels: int) -> tuple[np.ndarray, float]:
    """Returns: [num_frames, num_channels] and the time between frames."""
    header = [line.partition(":") for line in lines[:2]]
    if [label.strip().lower() for label, _, _ in header] != ["frames", "frame time"]:
        raise ValueError(f"expected the lines Frames: and Frame Time: after MOTION, got {lines[:2]!r:.200}")
    frames, frame_time = int(header[0][2]), float(header[1][2])
    values = array.array("d")  # 8 bytes a number, where a list has 32
    for line in lines[2:]:
        values.extend(map(float, line.split()))
    if frames < 1 or len(values) != frames * num_channels or not frame_time > 0:
        raise ValueError(f"it states {frames} frames of {num_channels} channels, {frame_time} s apart, and has {len(values)} "
                         "numbers")
    values = np.frombuffer(values).reshape(frames, num_channels)
    if not np.isfinite(values).all():
        raise ValueError(f"frame {np.flatnonzero(~np.isfinite(values).all(axis=1))[0]} has a number that is not finite")
    return values, frame_time


def _forward_kinematics(joints: list[_Joint], values: np.ndarray) -> np.ndarray:
    positions = np.empty((len(values), len(joints), 3))
    rotations: list[np.ndarray] = []  # [num_frames, 3, 3] of each joint, to the world
    first = 0
    for i, joint in enumerate(joints):
        translation = np.tile(joint.offset, (len(values), 1))
        rotation = np.eye(3)
        for channel, value in zip(joint.channels, values[:, first:].T, strict=False):
            if channel in _POSITIONS:
                translation[:, _POSITIONS[channel]] = value
            else:
                rotation = rotation @ _axis_rotation(_ROTATIONS[channel], np.radians(value))
        first += len(joint.channels)
        if joint.parent == -1:
            positions[:, i] = translation
            rotations.append(rotation)
        else:
            parent = rotations[joint.parent]
            positions[:, i] = positions[:, joint.parent] + (parent @ translation[..., None])[..., 0]
            rotations.append(parent @ rotation)
    return positions


def _axis_rotation(axis: int, angle: np.ndarray) -> np.ndarray:
    """[n, 3, 3]: turns by `angle` [n], radians, about a coordinate axis, counterclockwise seen from its tip."""
    rotation = np.zeros((len(angle), 3, 3))
    following, last = (axis + 1) % 3, (axis + 2) % 3
    rotation[:, axis, axis] = 1
    rotation[:, following, following] = rotation[:, last, last] = np.cos(angle)
    rotation[:, last, following] = np.sin(angle)
    rotation[:, following, last] = -np.sin(angle)
    return rotation
