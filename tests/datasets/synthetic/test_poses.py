import numpy as np
import pytest

from datasets.synthetic import poses
from datasets.synthetic.bones import BONE_INDEX, BONES


def _rotation(bone, flexion=0.0, abduction=0.0, twist=0.0):
    pose = np.zeros((len(BONES), 3))
    pose[BONE_INDEX[bone]] = flexion, abduction, twist
    return poses.rotations_from_pose(pose)[BONE_INDEX[bone]]


@pytest.mark.parametrize(
    ("bone", "angles", "direction", "expected"),
    [
        ("left_upper_arm", (90, 0, 0), (0, -1, 0), (0, 0, 1)),  # a hanging arm raised forward
        ("left_upper_arm", (0, 90, 0), (0, -1, 0), (1, 0, 0)),  # and aside: the left arm to the left, +x
        ("right_upper_arm", (0, 90, 0), (0, -1, 0), (-1, 0, 0)),
        ("left_shin", (90, 0, 0), (0, -1, 0), (0, 0, -1)),  # the knee bends backward
        ("left_thigh", (90, 0, 0), (0, -1, 0), (0, 0, 1)),
        ("left_foot", (90, 0, 0), (0, 0, 1), (0, 1, 0)),  # toes up
        ("left_thigh", (0, 0, 90), (0, 0, 1), (1, 0, 0)),  # the front of the leg turns outward
        ("right_thigh", (0, 0, 90), (0, 0, 1), (-1, 0, 0)),
        ("chest", (90, 0, 0), (0, 1, 0), (0, 0, 1)),  # bow
        ("chest", (0, 90, 0), (0, 1, 0), (1, 0, 0)),  # lean to the left
        ("pelvis", (0, 0, 90), (0, 0, 1), (1, 0, 0)),  # turn to the left
    ],
)
def test_directions_of_the_angles(bone, angles, direction, expected):
    np.testing.assert_allclose(_rotation(bone, *angles) @ direction, expected, atol=1e-12)


def test_rotations_are_rigid_and_the_twist_comes_first():
    pose = np.random.default_rng(0).uniform(-80, 80, (6, len(BONES), 3))
    rotations = poses.rotations_from_pose(pose)
    np.testing.assert_allclose(
        rotations @ np.swapaxes(rotations, -1, -2), np.broadcast_to(np.eye(3), rotations.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    np.testing.assert_allclose(
        _rotation("left_thigh", 40, 20, 30), _rotation("left_thigh", 40, 20) @ _rotation("left_thigh", 0, 0, 30)
    )


def test_mirroring_twice_is_the_identity_and_once_swaps_sides():
    pose = np.random.default_rng(1).uniform(-20, 20, (len(BONES), 3))
    mirrored = poses.mirror_pose(pose)
    np.testing.assert_array_equal(poses.mirror_pose(mirrored), pose)
    np.testing.assert_array_equal(mirrored[BONE_INDEX["left_shin"]], pose[BONE_INDEX["right_shin"]])
    np.testing.assert_array_equal(mirrored[BONE_INDEX["chest"]], pose[BONE_INDEX["chest"]] * [1, -1, -1])


def test_sampled_poses_respect_the_limits_and_use_them():
    rng = np.random.default_rng(2)
    samples = np.stack([poses.sample_pose(rng)[0] for _ in range(400)])
    assert (samples >= poses.LIMITS[..., 0] - 1e-9).all() and (samples <= poses.LIMITS[..., 1] + 1e-9).all()
    yaw = samples[:, 0, 2]
    assert yaw.min() < -90 and yaw.max() > 90
    assert np.histogram(yaw, bins=4, range=(-100, 100))[0].min() > 60  # a quarter of 400 each is expected
    knees = samples[:, BONE_INDEX["left_shin"], 0]
    assert knees.min() < 10 and knees.max() > 100
    arms = np.linalg.norm(samples[:, BONE_INDEX["right_upper_arm"], :2], axis=-1)
    assert arms.max() <= poses.MAX_ELEVATION_DEGREES + 1e-9 and np.mean(arms > 60) > 0.15


def test_key_poses_keep_the_limits():
    for name, pose in (poses.LEG_POSES | poses.ARM_POSES).items():
        np.testing.assert_allclose(poses.clip_to_limits(pose), pose, err_msg=name)


def test_arms_inside_the_trunk_are_found():
    pose = np.zeros((2, len(BONES), 3))
    pose[0, BONE_INDEX["left_upper_arm"]] = 0, -25, 0  # straight into the body
    pose[1, BONE_INDEX["left_upper_arm"]] = 0, 60, 0
    pose[:, BONE_INDEX["right_upper_arm"], 1] = 45
    np.testing.assert_array_equal(poses.arms_hit_body(pose), [[True, False], [False, False]])
