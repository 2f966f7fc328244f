import functools
import itertools

import cv2
import numpy as np
import pytest

from datasets.synthetic import bones, generator, landmarks, pictures, poses, scenes
from datasets.synthetic.surface import PARTS
from posepile.geometry.camera import project, transform
from posepile.geometry.skeleton import load_skeleton, skeleton_from_dict


@functools.cache
def _examples():
    return [generator.render_example("synthetic_test", "test", index * 19, dense=True) for index in range(31)]


def _portrait(look, pose, seed=0, **kwargs):
    subject = pictures.sample_subject(np.random.default_rng(seed), look)
    return pictures.render_subject(np.random.default_rng(seed + 1), subject, pose=pose, **kwargs)


@pytest.mark.parametrize("look", list(scenes.LOOKS))
def test_left_is_on_the_right_of_the_image_for_a_person_facing_the_camera(look):
    pose = poses.LEG_POSES["stand"] + poses.ARM_POSES["hang"]
    skeleton = load_skeleton("smpl_24")
    example = _portrait(look, pose, dense=True)
    joints = example.joints3d(skeleton)
    for joint in ("shoulder", "hip", "wrist", "knee"):
        left, right = (joints[skeleton.index(f"{side}_{joint}")] for side in ("left", "right"))
        assert left[0] - right[0] > 60
    columns = [np.nonzero(example.parts == PARTS.index(f"{side}_thigh"))[1].mean() for side in ("left", "right")]
    assert columns[0] > columns[1]
    assert joints[skeleton.index("head"), 1] < joints[skeleton.index("pelvis"), 1]  # y is down
    toes, ankle = (joints[skeleton.index(f"left_{joint}")] for joint in ("foot", "ankle"))
    assert toes[2] < ankle[2] - 50  # towards the camera


def test_yaw_turns_the_person_to_their_left():
    pose = poses.LEG_POSES["stand"] + poses.ARM_POSES["hang"]
    pose[0, 2] = 90
    skeleton = load_skeleton("coco_19")
    joints = _portrait("studio", pose).joints3d(skeleton)
    nose, pelvis = joints[skeleton.index("nose")], joints[skeleton.index("pelvis")]
    assert nose[0] > pelvis[0] + 50  # their left is the image's right
    assert joints[skeleton.index("left_hip"), 2] > joints[skeleton.index("right_hip"), 2] + 50


def test_interior_landmarks_lie_on_the_body():
    interior = (
        "pelvis",
        "spine1",
        "spine2",
        "spine3",
        "left_knee",
        "right_knee",
        "left_elbow",
        "right_ankle",
        "neck",
        "head",
    )
    skeleton = load_skeleton("smpl_24")
    for example in _examples():
        near_person = cv2.dilate(np.uint8(example.mask), np.ones((3, 3)))
        pixels = np.round(project(example.landmarks3d, example.intrinsics)).astype(int)
        assert near_person[pixels[:, 1], pixels[:, 0]].mean() > 0.97
        joints = np.round(project(example.joints3d(skeleton), example.intrinsics)).astype(int)
        for joint in interior:
            column, row = joints[skeleton.index(joint)]
            assert near_person[row, column], joint


def test_joints_are_just_behind_the_surface_that_is_seen():
    """Independent of the projection alone: where nothing hides a joint, the depth image is a limb's radius nearer."""
    skeleton = load_skeleton("smpl_24")
    offsets = []
    for example in _examples():
        joints = example.joints3d(skeleton)
        pixels = np.round(project(joints, example.intrinsics)).astype(int)
        for joint, part in (
            ("left_knee", ("left_thigh", "left_shin")),
            ("right_elbow", ("right_upper_arm", "right_forearm")),
            ("head", ("head", "neck")),
        ):
            column, row = pixels[skeleton.index(joint)]
            if PARTS[example.parts[row, column]] in part:
                offsets.append(joints[skeleton.index(joint), 2] - example.depth_mm[row, column])
    assert len(offsets) > 40
    assert np.percentile(offsets, 5) > 0 and np.percentile(offsets, 95) < 160


def test_parts_depth_and_mask_agree():
    seen = set()
    for example in _examples():
        np.testing.assert_array_equal(example.mask, example.parts > 0)
        np.testing.assert_array_equal(example.mask, np.isfinite(example.depth_mm))
        assert (
            cv2.connectedComponents(np.uint8(example.mask))[0] <= 4
        )  # background, the person, at most a detached hand or so
        seen |= set(np.unique(example.parts))
        pelvis_depth = example.joints3d(load_skeleton("smpl_24"))[0, 2]
        assert np.abs(example.depth_mm[example.mask] - pelvis_depth).max() < 1400
    assert seen == set(range(len(PARTS)))


def test_camera_distance_box_and_world():
    for example in _examples():
        pelvis = example.joints3d(load_skeleton("h36m_17"))[:1]
        assert 2500 < pelvis[0, 2] < 6000
        rows, columns = np.nonzero(example.mask)
        x, y, width, height = example.bbox
        np.testing.assert_allclose([columns.min() - 0.5, rows.min() - 0.5], [x, y], atol=1.5)
        np.testing.assert_allclose([np.ptp(columns) + 1, np.ptp(rows) + 1], [width, height], atol=2.5)
        assert max(width, height) == pytest.approx(72, abs=3)
        center = (generator.IMAGE_SIDE - 1) / 2
        np.testing.assert_allclose([x + width / 2, y + height / 2], center, atol=4)
        camera_to_world = np.linalg.inv(example.world_to_camera)
        heights = transform(example.landmarks3d, camera_to_world)[:, 1]
        assert heights.min() > -5 and heights.max() < 2700  # the floor is at y = 0
        assert 300 < camera_to_world[1, 3] < 5000
        np.testing.assert_allclose((example.world_to_camera[:3, :3] @ [0, 1, 0])[0], 0, atol=1e-6)  # upright


def test_joints_of_equal_name_are_10_to_60_mm_apart():
    names, _, _ = landmarks.landmark_table()
    families = {joint: {f: i for i, (f, j) in enumerate(names) if j == joint} for _, joint in names}
    num_pairs = 0
    for joint, indices in families.items():
        for a, b in itertools.combinations([f for f in indices if f != landmarks.PHOTOS_FAMILY], 2):
            distances = [np.linalg.norm(e.landmarks3d[indices[a]] - e.landmarks3d[indices[b]]) for e in _examples()]
            assert min(distances) >= 10 and max(distances) <= 60, (joint, a, b)
            num_pairs += 1
    assert num_pairs > 90  # 12 joints that all four families have make 72


def test_formats_of_one_family_share_their_landmarks():
    example = _examples()[0]
    for small, large in (("h36m_17", "h36m_25"), ("mpi_inf_3dhp_17", "mpi_inf_3dhp_28"), ("coco_17", "coco_19")):
        small, large = load_skeleton(small), load_skeleton(large)
        picked = [large.index(joint) for joint in small.joint_names]
        np.testing.assert_array_equal(example.joints3d(small), example.joints3d(large)[picked])


def test_all_formats_at_once_are_the_formats_one_by_one():
    merged, example = skeleton_from_dict(generator.ALL_FORMATS), _examples()[3]
    assert merged.num_joints == 77
    np.testing.assert_array_equal(
        example.joints3d(merged), np.concatenate([example.joints3d(f) for f in merged.formats])
    )


def test_an_unknown_landmark_is_refused_by_name():
    with pytest.raises(ValueError, match=r"mpii.*smpl, h36m, 3dhp, coco"):
        _examples()[0].joints3d(load_skeleton("mpii_16"))


def test_seated_people_get_a_stool_that_is_not_part_of_the_mask():
    pose = poses.LEG_POSES["sit"] + poses.ARM_POSES["on_lap"]
    pose[0, 2] = 70
    with_stool, without = (_portrait("gym", pose, is_seated=seated, dense=True) for seated in (True, False))
    changed = np.abs(with_stool.image.astype(int) - without.image).max(axis=-1) > 25
    assert np.count_nonzero(changed & ~without.mask) > 60  # its pixels
    assert not (with_stool.mask & ~without.mask).any()  # it may hide a leg, but adds nothing to the person


def test_image_side_out_of_range_is_refused():
    with pytest.raises(ValueError, match="image_side is 4096"):
        _portrait("studio", np.zeros((len(bones.BONES), 3)), image_side=4096)
