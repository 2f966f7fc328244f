"""Where each joint format puts its landmarks on the procedural human.

Data sets agree on a joint's name and disagree on its place: a body model's joint centre, a marker-based estimate, a
point clicked on the skin. Here every family has its own rest positions on the reference person (see `bones`), fixed to
a bone, so that joints of
equal name keep 10 to 60 mm apart in every pose; the right side mirrors the left one.
"""

import functools

import numpy as np

from datasets.synthetic.bones import BONE_INDEX
from posepile.geometry.skeleton import Skeleton

PHOTOS_FAMILY = "coco_photos"  # COCO's joints as the annotators of the 2D-only data set place them

# Family: {joint: (bone, rest position)}; the joints of the left side stand for both.
_LANDMARKS = {
    "smpl": {  # joint centres
        "pelvis": ("pelvis", (0, 940, 5)),
        "left_hip": ("pelvis", (80, 895, 0)),
        "spine1": ("spine", (0, 1060, -5)),
        "left_knee": ("left_thigh", (90, 490, 0)),
        "spine2": ("chest", (0, 1190, -5)),
        "left_ankle": ("left_shin", (90, 80, -15)),
        "spine3": ("chest", (0, 1260, -10)),
        "left_foot": ("left_foot", (92, 25, 110)),
        "neck": ("chest", (0, 1475, -20)),
        "left_collar": ("left_collar", (80, 1415, -10)),
        "head": ("head", (0, 1560, 0)),
        "left_shoulder": ("left_collar", (172, 1402, -15)),
        "left_elbow": ("left_upper_arm", (178, 1115, -15)),
        "left_wrist": ("left_forearm", (178, 855, -15)),
        "left_hand": ("left_hand", (178, 770, -12)),
    },
    "h36m": {  # from markers: hips further up and out, knees and ankles off the axis
        "pelvis": ("pelvis", (0, 918, -4)),
        "left_hip": ("pelvis", (106, 918, -4)),
        "left_knee": ("left_thigh", (90, 478, 22)),
        "left_ankle": ("left_shin", (90, 92, -32)),
        "left_foot": ("left_foot", (94, 30, 128)),
        "left_toe": ("left_toes", (92, 15, 180)),
        "spine": ("spine", (0, 1180, -5)),
        "neck": ("chest", (0, 1450, -8)),
        "head": ("head", (0, 1582, 28)),
        "head_top": ("head", (0, 1748, 0)),
        "left_shoulder": ("left_collar", (160, 1420, -10)),
        "left_elbow": ("left_upper_arm", (170, 1128, -4)),
        "left_wrist": ("left_forearm", (184, 838, -8)),
        "left_thumb": ("left_hand", (176, 770, 40)),
        "left_fingers": ("left_hand", (178, 690, -10)),
    },
    "3dhp": {  # markerless: towards the back and the outside
        "pelvis": ("pelvis", (0, 905, -14)),
        "left_hip": ("pelvis", (94, 900, -16)),
        "left_knee": ("left_thigh", (104, 496, -12)),
        "left_ankle": ("left_shin", (100, 70, -14)),
        "left_foot": ("left_foot", (88, 38, 92)),
        "left_toe": ("left_toes", (96, 24, 162)),
        "spine": ("spine", (0, 1160, -30)),
        "spine2": ("chest", (0, 1215, -22)),
        "spine3": ("chest", (0, 1290, -30)),
        "spine4": ("chest", (0, 1380, -30)),
        "neck": ("chest", (0, 1462, 16)),
        "head": ("head", (0, 1596, -8)),
        "head_top": ("head", (0, 1738, 24)),
        "left_clavicle": ("left_collar", (60, 1430, 0)),
        "left_shoulder": ("left_collar", (184, 1412, -32)),
        "left_elbow": ("left_upper_arm", (190, 1108, -30)),
        "left_wrist": ("left_forearm", (178, 862, -34)),
        "left_hand": ("left_hand", (180, 750, -26)),
    },
    "coco": {  # on the skin: hips in front, shoulders and wrists on the outside, the features of the face
        "pelvis": ("pelvis", (0, 898, 22)),
        "left_hip": ("pelvis", (102, 898, 22)),
        "left_knee": ("left_thigh", (86, 506, 26)),
        "left_ankle": ("left_shin", (104, 88, 4)),
        "neck": ("chest", (0, 1440, 4)),
        "left_shoulder": ("left_collar", (190, 1428, 2)),
        "left_elbow": ("left_upper_arm", (194, 1122, -4)),
        "left_wrist": ("left_forearm", (190, 864, 2)),
        "nose": ("head", (0, 1585, 118)),
        "left_eye": ("head", (33, 1615, 94)),
        "left_ear": ("head", (75, 1605, 0)),
    },
    PHOTOS_FAMILY: {  # COCO again, by other people
        "left_hip": ("pelvis", (94, 910, 14)),
        "left_knee": ("left_thigh", (92, 500, 34)),
        "left_ankle": ("left_shin", (98, 82, 10)),
        "left_shoulder": ("left_collar", (180, 1420, 4)),
        "left_elbow": ("left_upper_arm", (186, 1118, -10)),
        "left_wrist": ("left_forearm", (184, 856, -4)),
        "nose": ("head", (0, 1580, 116)),
        "left_eye": ("head", (32, 1612, 94)),
        "left_ear": ("head", (75, 1598, -6)),
    },
}
FAMILIES = tuple(_LANDMARKS)


@functools.cache
def landmark_table() -> tuple[tuple[tuple[str, str], ...], np.ndarray, np.ndarray]:
    """All landmarks of all families.

    Returns: (family, joint) of each; [L, 3] rest positions on the reference person, mm; [L] index of the bone that
        carries each.
    """
    names, positions, bones = [], [], []
    for family, landmarks in _LANDMARKS.items():
        for joint, (bone, position) in landmarks.items():
            names.append((family, joint))
            positions.append(position)
            bones.append(BONE_INDEX[bone])
            if joint.startswith("left_"):
                names.append((family, joint.replace("left_", "right_")))
                positions.append((-position[0], *position[1:]))
                bones.append(BONE_INDEX[bone.replace("left_", "right_")])
    return tuple(names), np.array(positions, np.float64), np.array(bones)


@functools.cache
def landmark_indices(skeleton: Skeleton, family: str | None = None) -> np.ndarray:
    """Where a format's joints stand in the landmark table.

    Args:
        skeleton: a plain format or several merged ones.
        family: whose placement to use; default: each format's own.

    Returns: [skeleton.num_joints] int64.
    Raises: ValueError naming a joint that the procedural human has no landmark for.
    """
    index = {name: i for i, name in enumerate(landmark_table()[0])}
    joints = {}
    for fmt in skeleton.formats or (skeleton,):
        for joint in fmt.joint_names:
            merged_name = f"{joint}_{fmt.family}" if skeleton.formats else joint
            key = (family or fmt.family, joint)
            if key not in index:
                raise ValueError(
                    f"the synthetic human has no landmark {key[1]!r} of family {key[0]!r}, which skeleton "
                    f"{fmt.name} asks for; it has the families {', '.join(FAMILIES)}"
                )
            joints[merged_name] = index[key]
    indices = np.array([joints[name] for name in skeleton.joint_names])
    indices.setflags(write=False)  # the same array for everybody
    return indices
