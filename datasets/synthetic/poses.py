"""Poses of the procedural human: joint limits, key poses, random poses between and around them.

A pose is [num_bones, 3] degrees: flexion, abduction and twist of every bone against its parent. Flexion and abduction
together are a swing, i.e. one rotation about an axis across the bone; the twist about the bone comes before it. All
are anatomical: positive
flexion bends forward (a knee: backward), positive abduction leads away from the body's middle and positive twist
turns the front outward, for both sides alike; on the centre line they bend forward, to the left and turn to the left.
The pelvis row turns the
whole person, yaw being its twist.
"""

import numpy as np

from datasets.synthetic.bones import BONE_INDEX, BONES, MIRROR_BONES, REFERENCE_PIVOTS

MAX_YAW_DEGREES = 100.0
MAX_ELEVATION_DEGREES = 165.0  # of an upper arm, in any direction

_LIMITS = {  # flexion, abduction, twist: (lowest, highest)
    "pelvis": ((-30, 75), (-20, 20), (-MAX_YAW_DEGREES, MAX_YAW_DEGREES)),
    "spine": ((-15, 35), (-15, 15), (-18, 18)),
    "chest": ((-12, 30), (-14, 14), (-18, 18)),
    "neck": ((-20, 30), (-15, 15), (-30, 30)),
    "head": ((-20, 22), (-12, 12), (-30, 30)),
    "collar": ((-5, 8), (-5, 18), (-5, 5)),
    "upper_arm": ((-45, 165), (-25, 160), (-70, 60)),
    "forearm": ((0, 142), (0, 0), (-60, 70)),
    "hand": ((-15, 20), (-40, 40), (0, 0)),
    "thigh": ((-25, 118), (-8, 45), (-25, 35)),
    "shin": ((0, 142), (0, 0), (-5, 5)),
    "foot": ((-45, 28), (-12, 12), (-8, 8)),
    "toes": ((-5, 40), (0, 0), (0, 0)),
}
LIMITS = np.array(
    [_LIMITS[bone.removeprefix("left_").removeprefix("right_")] for bone in BONES], np.float64
)  # [bones, 3, 2]

# Standard deviation of the noise on a pose, degrees.
_NOISE = {
    "pelvis": (4, 3, 0),
    "spine": (5, 4, 6),
    "chest": (5, 4, 6),
    "neck": (8, 5, 12),
    "head": (8, 5, 12),
    "collar": (3, 4, 2),
    "upper_arm": (16, 14, 22),
    "forearm": (20, 0, 25),
    "hand": (8, 14, 0),
    "thigh": (10, 7, 9),
    "shin": (12, 0, 2),
    "foot": (6, 4, 4),
    "toes": (5, 0, 0),
}
_NOISE_DEGREES = np.array([_NOISE[bone.removeprefix("left_").removeprefix("right_")] for bone in BONES], np.float64)

# Lower bodies: pelvis flexion, then both legs' (thigh flexion, abduction, twist, shin flexion), the left leg first.
_LEG_POSES = {
    "stand": (0, (0, 3, 8, 4), (0, 3, 8, 4)),
    "stand_wide": (0, (2, 16, 12, 5), (2, 16, 12, 5)),
    "walk": (3, (28, 1, 4, 12), (-18, 1, 4, 28)),
    "run": (12, (62, 2, 2, 72), (-14, 2, 2, 62)),
    "sit": (-2, (84, 10, 6, 84), (84, 10, 6, 84)),
    "sit_relaxed": (-14, (74, 16, 14, 62), (80, 12, 8, 92)),
    "squat": (22, (112, 20, 16, 118), (112, 20, 16, 118)),
    "half_squat": (14, (66, 14, 10, 82), (66, 14, 10, 82)),
    "lunge": (6, (82, 5, 4, 88), (-12, 4, 4, 34)),
    "kneel": (0, (86, 8, 4, 92), (2, 4, 0, 96)),
    "kick": (-8, (82, 6, 4, 14), (-4, 4, 6, 14)),
    "step_up": (2, (70, 6, 5, 82), (0, 3, 6, 6)),
    "bend": (58, (62, 6, 8, 8), (62, 6, 8, 8)),
    "side_lunge": (14, (44, 32, 22, 66), (16, 40, 8, 4)),
}
# Upper bodies: flexion and twist of the trunk, then both arms' (upper arm flexion, abduction, twist, forearm
# flexion).
_ARM_POSES = {
    "hang": (0, 0, (4, 9, 0, 14), (4, 9, 0, 14)),
    "swing": (2, 6, (-28, 8, 0, 22), (30, 8, 0, 34)),
    "run": (6, 8, (-42, 12, 0, 86), (38, 10, 0, 92)),
    "on_lap": (6, 0, (26, 10, -20, 52), (26, 10, -20, 52)),
    "reach_forward": (10, 0, (82, 6, 0, 12), (82, 6, 0, 12)),
    "reach_one_forward": (8, -12, (14, 10, 0, 26), (88, 4, 0, 16)),
    "reach_up": (-4, 0, (150, 16, 0, 14), (150, 16, 0, 14)),
    "reach_one_up": (-2, 4, (152, 20, 0, 14), (6, 10, 0, 18)),
    "reach_down": (34, 0, (72, 8, 0, 10), (72, 8, 0, 10)),
    "reach_aside": (0, 10, (18, 82, 0, 14), (6, 12, 0, 18)),
    "t_pose": (0, 0, (6, 86, 0, 8), (6, 86, 0, 8)),
    "wave": (0, 0, (40, 84, 52, 96), (4, 10, 0, 18)),
    "on_hips": (0, 0, (-18, 44, -52, 92), (-18, 44, -52, 92)),
    "phone": (6, 0, (44, 16, -30, 132), (8, 10, 0, 20)),
    "folded": (4, 0, (42, 4, -52, 104), (42, 4, -52, 104)),
    "boxing": (10, -10, (52, 14, -24, 112), (62, 12, -20, 96)),
    "carry": (4, 0, (22, 8, -8, 86), (22, 8, -8, 86)),
    "behind": (2, 0, (-38, 12, -10, 26), (-38, 12, -10, 26)),
    "strong": (0, 0, (10, 84, 55, 102), (10, 84, 55, 102)),
}
# Which arms go with which legs by themselves; the rest is mixed.
_NATURAL = {
    "walk": "swing",
    "run": "run",
    "sit": "on_lap",
    "sit_relaxed": "on_lap",
    "squat": "reach_forward",
    "bend": "reach_down",
    "stand": "hang",
    "stand_wide": "on_hips",
    "kneel": "carry",
    "half_squat": "reach_forward",
    "kick": "boxing",
}


def _bone(name):
    return BONE_INDEX[name]


def _leg_pose(pelvis_flexion, left, right):
    pose = np.zeros((len(BONES), 3))
    pose[0, 0] = pelvis_flexion
    for side, (flexion, abduction, twist, knee) in (("left", left), ("right", right)):
        pose[_bone(f"{side}_thigh")] = flexion, abduction, twist
        pose[_bone(f"{side}_shin"), 0] = knee
    return pose


def _arm_pose(trunk_flexion, trunk_twist, left, right):
    pose = np.zeros((len(BONES), 3))
    pose[_bone("spine")] = 0.5 * trunk_flexion, 0, 0.5 * trunk_twist
    pose[_bone("chest")] = 0.5 * trunk_flexion, 0, 0.5 * trunk_twist
    for side, (flexion, abduction, twist, elbow) in (("left", left), ("right", right)):
        pose[_bone(f"{side}_upper_arm")] = flexion, abduction, twist
        pose[_bone(f"{side}_forearm"), 0] = elbow
        pose[_bone(f"{side}_collar"), 1] = 0.1 * max(0, np.hypot(flexion, abduction) - 30)
    return pose


LEG_POSES = {name: _leg_pose(*values) for name, values in _LEG_POSES.items()}
ARM_POSES = {name: _arm_pose(*values) for name, values in _ARM_POSES.items()}
SEATED = ("sit", "sit_relaxed")
_LEG_NAMES, _ARM_NAMES = tuple(LEG_POSES), tuple(ARM_POSES)
# People mostly stand and walk, and let their arms hang: how often a key pose is drawn, against 1 for the others.
_LEG_FREQUENCY = {"stand": 8, "stand_wide": 4, "walk": 7, "step_up": 2, "half_squat": 2}
_ARM_FREQUENCY = {"hang": 9, "swing": 5, "carry": 3, "on_hips": 3, "folded": 2, "on_lap": 2}
_LEG_STACK, _ARM_STACK = np.stack(list(LEG_POSES.values())), np.stack(list(ARM_POSES.values()))
_LEG_DRAW = np.repeat(np.arange(len(_LEG_NAMES)), [_LEG_FREQUENCY.get(name, 1) for name in _LEG_NAMES])
_ARM_DRAW = np.repeat(np.arange(len(_ARM_NAMES)), [_ARM_FREQUENCY.get(name, 1) for name in _ARM_NAMES])
_NATURAL_ARMS = np.array([_ARM_NAMES.index(_NATURAL[leg]) if leg in _NATURAL else -1 for leg in _LEG_NAMES])

# Rotation vectors from (flexion, abduction, twist): signs per bone of the x, z (swing) and y (twist) components.
_FORWARD_IS_POSITIVE_X = ("pelvis", "spine", "chest", "neck", "head", "shin")
_FLEXION_SIGN = np.array(
    [1.0 if b.removeprefix("left_").removeprefix("right_") in _FORWARD_IS_POSITIVE_X else -1.0 for b in BONES]
)
_SIDE_SIGN = np.array([-1.0 if b.startswith("right_") else 1.0 for b in BONES])
_ABDUCTION_SIGN = _SIDE_SIGN * np.array([1.0 if b.startswith(("left_", "right_")) else -1.0 for b in BONES])

_ARM_TRIES = 8
_TRUNK_HALF_WIDTH, _TRUNK_HALF_DEPTH = (
    172.0,
    135.0,
)  # what hands and forearms stay out of, on the reference person, mm
_THIGH_RADIUS_MM = 95.0


def rotations_from_pose(pose: np.ndarray) -> np.ndarray:
    """[..., num_bones, 3] degrees -> [..., num_bones, 3, 3] rotations relative to the parent bone."""
    return _rotations(pose, slice(None))


def _rotations(pose, bones):
    """As `rotations_from_pose` for some of the bones: pose [..., len(bones), 3]."""
    angles = np.deg2rad(pose)
    swing_x, swing_z = _FLEXION_SIGN[bones] * angles[..., 0], _ABDUCTION_SIGN[bones] * angles[..., 1]
    twist = _SIDE_SIGN[bones] * angles[..., 2]
    angle = np.sqrt(swing_x * swing_x + swing_z * swing_z)
    inverse = 1 / np.maximum(angle, 1e-9)
    x, z = swing_x * inverse, swing_z * inverse
    c, s = np.cos(angle), np.sin(angle)
    ct, st = np.cos(twist), np.sin(twist)
    # Rodrigues' formula for an axis (x, 0, z), times a rotation about y.
    r00, r01, r02 = c + (1 - c) * x * x, -s * z, (1 - c) * x * z
    r20, r21, r22 = r02, s * x, c + (1 - c) * z * z
    r10, r12 = s * z, -s * x
    return np.stack(
        [
            ct * r00 - st * r02,
            r01,
            st * r00 + ct * r02,
            ct * r10 - st * r12,
            c,
            st * r10 + ct * r12,
            ct * r20 - st * r22,
            r21,
            st * r20 + ct * r22,
        ],
        axis=-1,
    ).reshape(*pose.shape, 3)


def mirror_pose(pose: np.ndarray) -> np.ndarray:
    """The mirror image of a pose [..., num_bones, 3]: left and right swap, the centre leans and turns the other
    way."""
    mirrored = pose[..., MIRROR_BONES, :].copy()
    mirrored[..., np.arange(len(BONES)) == MIRROR_BONES, 1:] *= -1
    return mirrored


def clip_to_limits(pose: np.ndarray) -> np.ndarray:
    """Moves every angle of [..., num_bones, 3] into its range, and arms raised too far back to the highest
    elevation."""
    pose = np.clip(pose, LIMITS[..., 0], LIMITS[..., 1])
    arms = [BONE_INDEX["left_upper_arm"], BONE_INDEX["right_upper_arm"]]
    elevation = np.sqrt((pose[..., arms, :2] ** 2).sum(axis=-1, keepdims=True))
    pose[..., arms, :2] *= np.minimum(1, MAX_ELEVATION_DEGREES / np.maximum(elevation, 1e-9))
    return pose


def sample_pose(rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Draws a pose inside the joint limits: a mixture of two key poses each for the lower and the upper body, plus
    noise.

    Returns: the pose, and whether the person sits on something.
    """
    legs = _LEG_DRAW[rng.integers(len(_LEG_DRAW), size=2)]
    arms = _ARM_DRAW[rng.integers(len(_ARM_DRAW), size=2)]
    chance = rng.random(8)
    if chance[0] < 0.6:  # stay with one key pose of the legs
        legs[1] = legs[0]
    if chance[1] < 0.4 and _NATURAL_ARMS[legs[0]] >= 0:
        arms[0] = _NATURAL_ARMS[legs[0]]
    if chance[2] < 0.35:
        arms[1] = arms[0]
    is_seated = _LEG_NAMES[legs[0]] in SEATED and _LEG_NAMES[legs[1]] in SEATED
    lower = _LEG_STACK[legs[0]] + chance[3] * (_LEG_STACK[legs[1]] - _LEG_STACK[legs[0]])
    first, second = _ARM_STACK[arms[0]], _ARM_STACK[arms[1]]
    if chance[4] < 0.5:
        first = mirror_pose(first)
    if chance[5] < 0.5:
        second = mirror_pose(second)
    if chance[6] < 0.5:
        lower = mirror_pose(lower)
    base = lower + first + chance[7] * (second - first)
    # Several candidates of the noise: those whose arms run into the body are passed over, per arm.
    noise = rng.standard_normal((_ARM_TRIES, len(BONES), 3)) * _NOISE_DEGREES
    noise[:, _NOT_ARMS] = noise[:1, _NOT_ARMS]
    candidates = clip_to_limits(base + noise)
    if rng.random() < 0.85:
        candidates[:, :, :] = _with_flat_feet(candidates)
    is_free = ~arms_hit_body(candidates)
    pose = candidates[0]
    for side, rows in enumerate(_ARM_ROWS):
        pose[rows] = candidates[np.argmax(is_free[:, side]), rows]
    pose[0, 2] = rng.uniform(-MAX_YAW_DEGREES, MAX_YAW_DEGREES)
    return pose, is_seated


_ARM_ROWS = tuple(
    np.array([BONE_INDEX[f"{side}_{b}"] for b in ("collar", "upper_arm", "forearm", "hand")])
    for side in ("left", "right")
)
_NOT_ARMS = np.setdiff1d(np.arange(len(BONES)), np.concatenate(_ARM_ROWS))
_ARM_CHAINS = np.stack([rows[1:] for rows in _ARM_ROWS])
_THIGHS = np.array([BONE_INDEX["left_thigh"], BONE_INDEX["right_thigh"]])


def _with_flat_feet(pose):
    """Turns the feet level as far as the ankles allow, [..., num_bones, 3]."""
    pose = pose.copy()
    for side in ("left", "right"):
        foot = _bone(f"{side}_foot")
        level = pose[..., 0, 0] - pose[..., _bone(f"{side}_thigh"), 0] + pose[..., _bone(f"{side}_shin"), 0]
        pose[..., foot, 0] = np.clip(level, *LIMITS[foot, 0])
    return pose


def arms_hit_body(pose):
    """[n, num_bones, 3] -> [n, 2] bool per side: whether elbow, forearm or hand enter trunk, head or a thigh.

    A rough test on the reference person: the trunk is an upright elliptic cylinder, the head a ball, a thigh a
    capsule; how the spine bends is taken into account for the thighs only.
    """
    rotations = _rotations(pose[:, _ARM_CHAINS], _ARM_CHAINS)
    upper = rotations[:, :, 0]
    fore = upper @ rotations[:, :, 1]
    hand = fore @ rotations[:, :, 2]
    shoulder = REFERENCE_PIVOTS[_ARM_CHAINS[:, 0]]
    elbow = shoulder - 290 * upper[..., 1]
    wrist = elbow - 260 * fore[..., 1]
    points = np.stack(
        [elbow, (elbow + wrist) / 2, wrist, wrist - 90 * hand[..., 1], wrist - 160 * hand[..., 1]], axis=-2
    )
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    in_trunk = ((x / _TRUNK_HALF_WIDTH) ** 2 + (z / _TRUNK_HALF_DEPTH) ** 2 < 1) & (y > 850) & (y < 1450)
    in_head = x * x + (y - 1635) ** 2 + z * z < 135**2
    # Thighs, seen from the chest: turned back by the trunk's flexion about the waist.
    flexion = np.deg2rad(pose[:, _bone("spine"), 0] + pose[:, _bone("chest"), 0])
    c, s = np.cos(flexion)[:, None, None], np.sin(flexion)[:, None, None]
    dy, dz = y - 1120, z
    pelvis_points = np.stack([x, 1120 + c * dy - s * dz, s * dy + c * dz], axis=-1)
    direction = -_rotations(pose[:, _THIGHS], _THIGHS)[..., 1]
    relative = pelvis_points[:, :, None] - REFERENCE_PIVOTS[_THIGHS][:, None]
    along = np.clip(np.einsum("nstpi,nti->nstp", relative, direction), 0, 415)
    distance = np.linalg.norm(relative - along[..., None] * direction[:, None, :, None], axis=-1)
    return (in_trunk | in_head).any(axis=-1) | (distance < _THIGH_RADIUS_MM).any(axis=(-1, -2))
