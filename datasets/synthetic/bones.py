"""The bones of the procedural human: rest positions, which bone hangs on which, forward kinematics.

The rest pose stands upright with straight legs and hanging arms, palms inward. All bone frames are aligned with the
world in it: x to the person's left, y up, z forward, mm, floor at y = 0. Rest positions are those of a reference
person of 1.75 m.
"""

import numpy as np

REFERENCE_HEIGHT_MM = 1750.0
HIP = np.array([90.0, 905.0, 0.0])  # rest positions of the reference person
SHOULDER = np.array([178.0, 1405.0, -15.0])
_LEFT_BONES = {  # bone: parent, rest position of its joint
    "collar": ("chest", (25.0, 1425.0, 0.0)),
    "upper_arm": ("collar", tuple(SHOULDER)),
    "forearm": ("upper_arm", (178.0, 1115.0, -15.0)),
    "hand": ("forearm", (178.0, 855.0, -15.0)),
    "thigh": ("pelvis", tuple(HIP)),
    "shin": ("thigh", (90.0, 490.0, 0.0)),
    "foot": ("shin", (90.0, 80.0, -15.0)),
    "toes": ("foot", (92.0, 25.0, 110.0)),
}
_CENTER_BONES = {
    "pelvis": (None, (0.0, 960.0, 0.0)),
    "spine": ("pelvis", (0.0, 1060.0, -5.0)),
    "chest": ("spine", (0.0, 1180.0, -10.0)),
    "neck": ("chest", (0.0, 1475.0, -20.0)),
    "head": ("neck", (0.0, 1560.0, 0.0)),
}
SIDES = ("left", "right")
BONES = (*_CENTER_BONES, *(f"left_{bone}" for bone in _LEFT_BONES), *(f"right_{bone}" for bone in _LEFT_BONES))
BONE_INDEX = {bone: i for i, bone in enumerate(BONES)}
MIRROR_BONES = np.array(
    [BONE_INDEX[b.replace("left_", "RIGHT_").replace("right_", "left_").replace("RIGHT_", "right_")] for b in BONES]
)


def _bone_table():
    """Rest positions [num_bones, 3] of the reference person and parents (-1 for the root)."""
    positions, parents = np.zeros((len(BONES), 3)), np.zeros(len(BONES), np.int64)
    for i, bone in enumerate(BONES):
        side, _, name = bone.partition("_")
        if side in SIDES:
            parent, position = _LEFT_BONES[name]
            positions[i] = np.array(position) * [1 if side == "left" else -1, 1, 1]
            parents[i] = BONE_INDEX[f"{side}_{parent}" if parent in _LEFT_BONES else parent]
        else:
            parent, positions[i] = _CENTER_BONES[bone]
            parents[i] = -1 if parent is None else BONE_INDEX[parent]
    return positions, parents


REFERENCE_PIVOTS, PARENTS = _bone_table()


def forward_kinematics(pivots: np.ndarray, rotations: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Poses the bones.

    Args:
        pivots: [num_bones, 3] joints in rest pose, mm.
        rotations: [num_bones, 3, 3] of every bone relative to its parent (the root: to the world).
        position: [3] of the root joint in the world, mm.

    Returns: [num_bones, 3, 4] float32: rest position -> world.
    """
    world = np.empty((len(BONES), 3, 4))
    offsets = pivots - pivots[PARENTS]
    joints = np.empty((len(BONES), 3))
    for i, parent in enumerate(PARENTS):
        if parent < 0:
            world[i, :, :3], joints[i] = rotations[i], position
        else:
            parent_rotation = world[parent, :, :3]
            world[i, :, :3] = parent_rotation @ rotations[i]
            joints[i] = joints[parent] + parent_rotation @ offsets[i]
    world[:, :, 3] = joints - np.einsum("bij,bj->bi", world[:, :, :3], pivots)
    return np.float32(world)
