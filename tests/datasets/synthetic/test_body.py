import numpy as np
import pytest

from datasets.synthetic import body, bones, landmarks, poses, surface


def _rest(**proportions):
    _, positions, carriers = landmarks.landmark_table()
    return body.build_rest_body(body.Shape(**{"height_mm": 1750.0} | proportions), positions, carriers)


def _transforms(rest, pose, position=(0.0, 1000.0, 0.0)):
    return bones.forward_kinematics(rest.pivots, poses.rotations_from_pose(pose), np.array(position))


def test_the_reference_shape_changes_nothing():
    template = surface.load_template()
    warped = body.warp_to_shape(template.vertices, template.chain, body.Shape(1750.0))
    np.testing.assert_allclose(warped, template.vertices, atol=1e-9)


@pytest.mark.parametrize("height", [1500.0, 1950.0])
def test_height_is_that_of_the_surface_whatever_the_proportions(height):
    rest = _rest(height_mm=height, legs=1.05, head=0.95, girth=1.1, hair="none")
    assert rest.vertices[:, 1].min() == pytest.approx(0, abs=2)
    assert rest.vertices[:, 1].max() == pytest.approx(height, abs=1)


def test_surface_is_symmetric_and_every_tube_is_closed_and_faces_outwards():
    template = surface.load_template()
    mirrored = template.vertices * [-1, 1, 1]
    distances = np.linalg.norm(mirrored[:, None] - template.vertices[None], axis=-1).min(axis=1)
    assert distances.max() < 1e-6
    for name in surface.SURFACES[:-1]:
        faces = template.faces[template.surface[template.faces[:, 0]] == surface.SURFACE_INDEX[name]]
        a, b, c = (template.vertices[faces[:, i]] - [0, 1000, 0] for i in range(3))
        assert np.einsum("fi,fi->", a, np.cross(b, c)) > 0, name
        assert (template.surface[faces] == surface.SURFACE_INDEX[name]).all()  # no triangle spans two surfaces


def test_skinning_a_rigid_motion_moves_everything_rigidly():
    rest = _rest(belly_mm=30.0)
    pose = np.zeros((len(bones.BONES), 3))
    pose[0] = 30, 10, 50
    transforms = _transforms(rest, pose, (100.0, 900.0, -50.0))
    vertices, normals, joints = body.skin(rest, transforms)
    rotation = poses.rotations_from_pose(pose)[0]
    move = np.array([100.0, 900.0, -50.0]) - rotation @ rest.pivots[0]
    np.testing.assert_allclose(vertices, rest.vertices @ rotation.T + move, atol=1e-2)
    np.testing.assert_allclose(joints, rest.landmarks @ rotation.T + move, atol=1e-2)
    np.testing.assert_allclose(normals, rest.normals @ rotation.T, atol=1e-4)
    assert body.lowest_point(rest, transforms) == pytest.approx(vertices[:, 1].min(), abs=1e-2)


def test_a_bent_elbow_and_knee_by_hand():
    rest = _rest()
    pose = np.zeros((len(bones.BONES), 3))
    for bone in ("left_forearm", "right_shin"):
        pose[bones.BONE_INDEX[bone], 0] = 90
    transforms = _transforms(rest, pose, rest.pivots[0])
    joints = np.einsum("bij,bj->bi", transforms[:, :, :3], rest.pivots) + transforms[:, :, 3]
    hand, elbow, foot, knee = (
        joints[bones.BONE_INDEX[b]] for b in ("left_hand", "left_forearm", "right_foot", "right_shin")
    )
    np.testing.assert_allclose(hand - elbow, [0, 0, 260], atol=1e-3)  # the forearm of 260 mm points forward
    np.testing.assert_allclose(foot - knee, [0, 15, -410], atol=1e-3)  # the shin backward; its back, by 15 mm, up


def test_landmarks_of_a_bone_keep_their_distances_in_every_pose():
    rng = np.random.default_rng(4)
    rest = _rest(height_mm=1600.0, arms=1.04)
    for _ in range(5):
        pose, _ = poses.sample_pose(rng)
        _, _, joints = body.skin(rest, _transforms(rest, pose))
        for bone in range(len(bones.BONES)):
            carried = np.flatnonzero(rest.landmark_bones == bone)
            expected = np.linalg.norm(rest.landmarks[carried][:, None] - rest.landmarks[carried], axis=-1)
            measured = np.linalg.norm(joints[carried][:, None] - joints[carried], axis=-1)
            np.testing.assert_allclose(measured, expected, atol=0.05)


def test_mirrored_pose_gives_mirrored_landmarks():
    rest = _rest(height_mm=1700.0, shoulders=1.05)
    names, _, _ = landmarks.landmark_table()
    swap = {"left": "right", "right": "left"}
    index = {name: i for i, name in enumerate(names)}
    mirror = [index[family, "_".join([swap.get(p, p) for p in joint.split("_")])] for family, joint in names]
    pose, _ = poses.sample_pose(np.random.default_rng(8))
    _, _, joints = body.skin(rest, _transforms(rest, pose))
    _, _, mirrored = body.skin(rest, _transforms(rest, poses.mirror_pose(pose)))
    np.testing.assert_allclose(mirrored, joints[mirror] * [-1, 1, 1], atol=1e-2)


def test_sampled_shapes_span_the_height_range():
    shapes = [body.sample_shape(np.random.default_rng(seed)) for seed in range(200)]
    heights = np.array([shape.height_mm for shape in shapes])
    low, high = body.HEIGHT_RANGE_MM
    assert low <= heights.min() < low + 30 and high - 30 < heights.max() <= high
    assert {shape.hair for shape in shapes} == {"short", "long", "none"}


def _is_inside(points, vertices, faces):
    """[p] whether points are inside a closed mesh, by its winding number (van Oosterom and Strackee, 1983)."""
    a, b, c = (vertices[faces[:, i]] - points[:, None] for i in range(3))
    norm_a, norm_b, norm_c = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
    volume = np.einsum("pfi,pfi->pf", a, np.cross(b, c))
    ab, bc, ca = (np.einsum("pfi,pfi->pf", x, y) for x, y in ((a, b), (b, c), (c, a)))
    angle = 2 * np.arctan2(volume, norm_a * norm_b * norm_c + ab * norm_c + bc * norm_a + ca * norm_b)
    return angle.sum(axis=1) / (4 * np.pi) > 0.5


def test_arms_of_sampled_poses_stay_out_of_trunk_and_head():
    """Independent of the rough test that `sample_pose` makes: against the posed surface itself."""
    rest, template, rng = _rest(hair="none"), surface.load_template(), np.random.default_rng(0)
    tubes = [
        template.faces[template.surface[template.faces[:, 0]] == surface.SURFACE_INDEX[name]]
        for name in ("torso", "head")
    ]
    center = np.array([[0.0, 1200.0, 0.0], [0.0, 1200.0, 400.0]])
    np.testing.assert_array_equal(_is_inside(center, rest.vertices, tubes[0]), [True, False])
    num_hits = 0
    for _ in range(80):
        transforms = _transforms(rest, poses.sample_pose(rng)[0])
        vertices, _, _ = body.skin(rest, transforms)
        joints = np.einsum("bij,bj->bi", transforms[:, :, :3], rest.pivots) + transforms[:, :, 3]
        for side in bones.SIDES:
            elbow, wrist = (joints[bones.BONE_INDEX[f"{side}_{bone}"]] for bone in ("forearm", "hand"))
            points = elbow + np.array([[0.35], [0.7], [1.0]]) * (wrist - elbow)
            num_hits += any(_is_inside(points, vertices, faces).any() for faces in tubes)
    assert num_hits == 0
