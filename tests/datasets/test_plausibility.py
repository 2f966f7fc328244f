"""The checks on hand-built bodies: which ones pass, which ones are caught, and what the messages suggest."""

import numpy as np
import pytest

from datasets.plausibility import (
    are_swapped,
    body_extents,
    check_body_size,
    check_left_right,
    face_votes,
    implausible_bones,
    is_inside,
    is_near_image,
    left_right_votes,
    readings_that_fit,
    rigid,
)
from posepile.geometry.skeleton import load_skeleton, merge_skeletons

SMPL = load_skeleton("smpl_24")
INTRINSICS = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
IMAGE_SIZE = (640, 480)


def legs(knee_forward=150.0, toe_forward=120.0, num_people=8):
    """[num_people, 24, 3] mm, z up: only legs, each person with another heading; before turning, x left and y back."""
    joints3d = np.full((num_people, 24, 3), np.nan)
    for side, x in (("left", 100.0), ("right", -100.0)):
        for name, y, z in (("hip", 0, 900), ("knee", -knee_forward, 500), ("ankle", 0, 100),
                           ("foot", -toe_forward, 70)):
            joints3d[:, SMPL.index(f"{side}_{name}")] = x, y, z
    for person, angle in zip(joints3d, np.linspace(0, 2 * np.pi, num_people), strict=True):
        c, s = np.cos(angle), np.sin(angle)
        person @= np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    return joints3d


def test_extent_is_the_largest_distance_of_labelled_joints():
    joints3d = np.full((2, 4, 3), np.nan)
    joints3d[0, :3] = [[0, 0, 0], [0, 300, 400], [0, 0, 100]]
    joints3d[1, 0] = 0  # one of four joints: too few to tell
    np.testing.assert_array_equal(body_extents(joints3d), [500, np.nan])


@pytest.mark.parametrize(("true_unit_mm", "declared", "suggested"), [
    (1.0, "m", "mm"), (1.0, "cm", "mm"), (1000.0, "mm", "m"), (10.0, "mm", "cm"), (1000.0, "cm", "m"),
    (10.0, "m", "cm")])
def test_every_mix_up_of_units_is_caught_and_resolved(true_unit_mm, declared, suggested):
    numbers = np.array([[[0, 0, 0], [0, 0, 1700.0]]]) / true_unit_mm  # 1.7 m, written in the true unit
    declared_mm = {"mm": 1.0, "cm": 10.0, "m": 1000.0}[declared]
    with pytest.raises(ValueError, match=rf'^here: read in {declared}, .*set units to "{suggested}"'):
        check_body_size(numbers * declared_mm, declared, "here")
    check_body_size(numbers * true_unit_mm, suggested, "here")


def test_size_check_ignores_single_outliers_and_knows_no_remedy_for_nonsense():
    people = np.tile([[[0, 0, 0], [0, 0, 1700.0]]], (5, 1, 1))
    people[0] *= 100
    check_body_size(people, "mm", "here")
    with pytest.raises(ValueError, match="No unit makes this plausible"):
        check_body_size(people[:1] * 1e6, "mm", "here")


def test_votes_count_bent_knees_and_feet():
    assert left_right_votes(legs(), SMPL) == (32, 0)  # 8 people, 2 knees, 2 feet
    assert left_right_votes(legs(knee_forward=20), SMPL) == (16, 0)  # 2 atan(20 / 400) = 6 degrees: not bent
    assert left_right_votes(legs(knee_forward=-150), SMPL) == (16, 16)
    without_feet = legs()
    without_feet[:, [SMPL.index("left_foot"), SMPL.index("right_foot")]] = np.nan
    assert left_right_votes(without_feet, SMPL) == (16, 0)


def test_mirrored_and_swapped_bodies_are_caught():
    check_left_right(legs(), SMPL, "here")
    with pytest.raises(ValueError, match=r"^here: 32 of 32 bent knees and feet point to the back"):
        check_left_right(legs()[:, list(SMPL.mirror)], SMPL, "here")
    with pytest.raises(ValueError, match="left-handed"):
        check_left_right(legs() * [1, 1, -1], SMPL, "here")
    check_left_right(legs() * [-1, -1, 1], SMPL, "here")  # a rotation by 180 degrees


def test_little_evidence_is_no_evidence():
    check_left_right(legs(num_people=2)[:, list(SMPL.mirror)], SMPL, "here")
    coco_face = load_skeleton("coco_17")
    assert left_right_votes(np.full((3, 17, 3), np.nan), coco_face) == (0, 0)


def test_seated_people_point_forward():
    """Thighs level, shins down: the knee lies in front of the line from hip to ankle, and above it."""
    joints3d = legs()
    for side in ("left", "right"):
        hip = joints3d[:, SMPL.index(f"{side}_hip")]
        forward = (joints3d[:, SMPL.index(f"{side}_knee")] - hip) * [1, 1, 0] / 150
        joints3d[:, SMPL.index(f"{side}_knee")] = hip + 400 * forward
        joints3d[:, SMPL.index(f"{side}_ankle")] = hip + 400 * forward - [0, 0, 400]
        joints3d[:, SMPL.index(f"{side}_foot")] = hip + 520 * forward - [0, 0, 430]
    assert left_right_votes(joints3d, SMPL) == (32, 0)


def test_real_people_point_forward(real_samples):
    for folder, format_name in (("h36m/h36m_body3d.npz", "h36m_17"), ("mpi_inf_3dhp/3dhp_train.npz", "mpi_inf_3dhp_17"),
                                ("mpi_inf_3dhp/3dhp_test.npz", "mpi_inf_3dhp_17")):
        skeleton = load_skeleton(format_name)
        joints3d = np.load(real_samples / folder)["S"][..., :3]
        num_forward, num_backward = left_right_votes(joints3d, skeleton)
        assert num_forward > 0 and num_backward == 0
        assert left_right_votes(joints3d[:, list(skeleton.mirror)], skeleton) == (0, num_forward)


def test_near_image_by_hand():
    joints3d = np.array([[0, 0, 1000.0], [640, 0, 1000], [1000, 0, 1000], [0, 0, -1000], [np.nan] * 3])
    # x = 320, 640, 820 px; then behind the camera; then without label
    assert is_near_image(joints3d, INTRINSICS, IMAGE_SIZE, margin=0.0).tolist() == [True, False, False, False, False]
    assert is_near_image(joints3d, INTRINSICS, IMAGE_SIZE, margin=0.25).tolist() == [True, True, False, False, False]
    assert is_near_image(joints3d, INTRINSICS, IMAGE_SIZE).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(("reading", "pose_of"), [
    ("world_to_camera with rotation and translation, axes opencv", lambda w2c: (w2c[:3, :3], w2c[:3, 3])),
    ("world_to_camera with rotation and center, axes opencv",
     lambda w2c: (w2c[:3, :3], -w2c[:3, :3].T @ w2c[:3, 3])),
    ("camera_to_world, axes opencv", lambda w2c: (w2c[:3, :3].T, -w2c[:3, :3].T @ w2c[:3, 3])),
    ("camera_to_world, axes opengl",
     lambda w2c: (w2c[:3, :3].T @ np.diag([1, -1, -1]), -w2c[:3, :3].T @ w2c[:3, 3])),
    ("camera_to_world, axes opencv, its position in m, not mm",
     lambda w2c: (w2c[:3, :3].T, -w2c[:3, :3].T @ w2c[:3, 3] / 1000)),
])
def test_the_true_reading_of_a_pose_is_found(reading, pose_of):
    yaw, tilt = np.deg2rad([130.0, 10.0])
    rotation = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]) @ np.array(
        [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    person = np.array([200.0, 900, -300])
    world_to_camera = rigid(rotation, np.array([300.0, -200, 4000]) - rotation @ person)
    joints3d_world = person + np.random.default_rng(0).uniform(-400, 400, (17, 3))
    fits = readings_that_fit(joints3d_world, *pose_of(world_to_camera), INTRINSICS, IMAGE_SIZE)
    assert reading in fits
    assert len(fits) <= 3


def test_merged_formats_vote_with_each_pair_of_legs():
    h36m = load_skeleton("h36m_17")
    merged = merge_skeletons([SMPL, h36m])
    joints3d = np.full((8, merged.num_joints, 3), np.nan)
    joints3d[:, :24] = legs()
    for side in ("left", "right"):
        for joint in ("hip", "knee", "ankle"):
            name = f"{side}_{joint}"
            joints3d[:, merged.index(f"{name}_{h36m.family}")] = legs()[:, SMPL.index(name)]
    assert left_right_votes(joints3d, merged) == (48, 0)  # 16 knees, 16 feet; and 16 knees without feet


def test_bones_far_from_their_mean_or_longer_than_a_body():
    # mean 100 mm: 3 times 100 is no 150 mm off; mean 1000 mm: 0.1 times; nan: unknown
    edges = np.array([[0, i] for i in range(1, 9)])
    joints3d = np.zeros((9, 3))
    joints3d[1:, 0] = [100, 299, 240, 310, 99, 101, 3000, 3501]
    joints3d[4, 0] = np.nan
    means = np.array([100, 100, 79, 100, 1000, 1000, np.nan, np.nan])
    np.testing.assert_array_equal(implausible_bones(joints3d, edges, means), [0, 0, 1, 0, 1, 0, 0, 1])


def test_inside_a_box_with_margin():
    pixels = np.array([[10, 20], [9.9, 20], [14, 26], [14.1, 26], [np.nan, 20]])
    bbox = np.array([10, 20, 4, 6])
    np.testing.assert_array_equal(is_inside(pixels, bbox), [1, 0, 1, 0, 0])
    np.testing.assert_array_equal(is_inside(pixels, bbox, 0.5), [1, 1, 1, 1, 0])


@pytest.mark.parametrize("turns", range(4))
def test_faces_vote_by_where_their_left_eye_is(turns):
    coco = load_skeleton("coco_17")
    joints2d = np.full((1, 17, 2), np.nan)
    for name, position in (("nose", (50, 30)), ("left_eye", (55, 25)), ("right_eye", (45, 25)),
                           ("left_shoulder", (70, 60)), ("right_shoulder", (30, 60))):  # facing the camera, y down
        joints2d[0, coco.index(name)] = position
    joints2d = joints2d @ np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), turns)  # lying, upside down
    assert face_votes(joints2d, coco) == (1, 0)
    assert face_votes(joints2d[:, list(coco.mirror)], coco) == (0, 1)
    assert face_votes(joints2d * [-1, 1], coco) == (0, 1)
    joints2d[0, coco.index("nose")] = np.nan
    assert face_votes(joints2d, coco) == (0, 0)
    assert face_votes(joints2d[:, :16], load_skeleton("mpii_16")) == (0, 0)


def test_votes_decide_only_if_many_and_nearly_unanimous():
    assert are_swapped(2, 10) and not are_swapped(2, 9) and not are_swapped(3, 9)  # 10 / 12, 11 votes, 75 %
