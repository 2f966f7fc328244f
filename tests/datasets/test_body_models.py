"""Body models on made-up model files: hand-worked arms, an independent implementation, symmetries, and broken files."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from datasets.body_models import LANDMARK_NAMES, find_body_model, load_body_model, regress
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.body_model_files import arm_model, random_model, write_npz, write_pickle

QUARTER = np.pi / 2
NO_SHAPE, ORIGIN = np.zeros(10), np.zeros(3)


@pytest.fixture
def arm(tmp_path):
    return load_body_model(write_npz(tmp_path / "arm.npz", arm_model()))


def pose_of(num_joints=4, **joint_rotations):
    """[1, num_joints, 3] axis-angle, zero but for j0=..., j2=..."""
    pose = np.zeros((1, num_joints, 3))
    for joint, rotation in joint_rotations.items():
        pose[0, int(joint[1:])] = rotation
    return pose


def test_rest_pose_and_translation(arm):
    np.testing.assert_allclose(arm.joints(np.zeros((1, 12)), NO_SHAPE, [0, 0, 2]),
                               [[[0, 1000, 2000], [0, 1500, 2000], [300, 1500, 2000], [550, 1500, 2000]]], atol=1e-6)


def test_bent_joints_by_hand(arm):
    elbow = arm.joints(pose_of(j2=[0, 0, QUARTER]), NO_SHAPE, ORIGIN)[0]
    np.testing.assert_allclose(elbow[2:], [[300, 1500, 0], [300, 1750, 0]], atol=1e-6)
    both = arm.joints(pose_of(j1=[0, 0, QUARTER], j2=[0, 0, QUARTER]), NO_SHAPE, ORIGIN)[0]
    np.testing.assert_allclose(both[1:], [[0, 1500, 0], [0, 1800, 0], [-250, 1800, 0]], atol=1e-6)
    # the elbow turns about the upper arm's own axis first, then the shoulder: x, y, z of the arm become y, z, x
    order = arm.joints(pose_of(j1=[0, 0, QUARTER], j2=[QUARTER, 0, 0], j3=[1, 2, 3]), NO_SHAPE, ORIGIN)[0]
    np.testing.assert_allclose(order[3], [0, 2050, 0], atol=1e-6)
    # the root turns about the pelvis, which stays, and the translation comes after
    turned = arm.joints(pose_of(j0=[0, np.pi, 0]), NO_SHAPE, [1, 0, 0])[0]
    np.testing.assert_allclose(turned, [[1000, 1000, 0], [1000, 1500, 0], [700, 1500, 0], [450, 1500, 0]], atol=1e-6)


def test_shape_by_hand(arm):
    joints = arm.joints(pose_of(j2=[0, 0, QUARTER]), [2, -1], ORIGIN)  # forearm 0.2 m longer, 1 m down
    np.testing.assert_allclose(joints, [[[0, 0, 0], [0, 500, 0], [300, 500, 0], [300, 950, 0]]], atol=1e-4)
    # each pose with a shape of its own
    both = arm.joints(np.zeros((2, 12)), [[0.5], [1]], ORIGIN)
    np.testing.assert_allclose(both[:, 3], [[600, 1500, 0], [650, 1500, 0]], atol=1e-4)


def test_skinned_vertices_by_hand(arm):
    vertices = arm.vertices(pose_of(j2=[0, 0, QUARTER]), NO_SHAPE, ORIGIN)[0]
    np.testing.assert_allclose(vertices[[3, 7]], [[300, 1750, -100], [300, 1750, 100]], atol=1e-4)
    # (150, 1550) stays with the shoulder, and goes to (250, 1350) with the elbow: half way; so does its partner
    np.testing.assert_allclose(vertices[8:], [[200, 1450, 0], [250, 1400, 0]], atol=1e-4)


def rotation_matrix(x, y, z):
    return scipy.linalg.expm(np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))


def vertices_one_by_one(model, pose, betas, translation):
    """[num_vertices, 3] and [num_joints, 3], m: one vertex and one bone after the other, by 4 x 4 matrices."""
    template, parents = model["v_template"], model["kintree_table"][0].astype(np.int64)
    rotations = [rotation_matrix(*rotation) for rotation in pose]
    shaped = [template[v] + sum(betas[k] * model["shapedirs"][v, :, k] for k in range(len(betas)))
              for v in range(len(template))]
    rest = [sum(model["J_regressor"][j, v] * shaped[v] for v in range(len(template))) for j in range(len(parents))]
    to_world = []
    for j, rotation in enumerate(rotations):
        local = np.eye(4)
        local[:3, :3] = rotation
        local[:3, 3] = rest[j] if j == 0 else rest[j] - rest[parents[j]]
        to_world.append(local if j == 0 else to_world[parents[j]] @ local)
    result = []
    for v, point in enumerate(shaped):
        point = point.copy()
        for j in range(1, len(parents)):
            for row in range(3):
                for column in range(3):
                    feature = rotations[j][row, column] - (row == column)
                    point += feature * model["posedirs"][v, :, 9 * (j - 1) + 3 * row + column]
        posed = sum(model["weights"][v, j] * to_world[j] @ np.append(point - rest[j], 1) for j in range(len(parents)))
        result.append(posed[:3] + translation)
    return np.array(result), np.array([matrix[:3, 3] + translation for matrix in to_world])


@pytest.mark.parametrize("parents", [(-1, 0, 1, 2), (-1, 0, 0, 1, 1, 3, 0)])
def test_agrees_with_an_implementation_vertex_by_vertex(tmp_path, parents):
    content = random_model(parents=parents, seed=len(parents))
    model = load_body_model(write_npz(tmp_path / "body.npz", content))
    rng = np.random.default_rng(1)
    num_poses = 103  # more than one chunk, the last one not full
    poses = rng.normal(0, 1.5, (num_poses, len(parents), 3))
    betas, translations = rng.standard_normal((num_poses, 10)), rng.standard_normal((num_poses, 3))
    vertices, joints = model.vertices(poses, betas, translations), model.joints(poses, betas, translations)
    chosen = model.vertices(poses, betas[3], translations, indices=[7, 2])
    for i in (0, 3, 49, 50, 102):
        expected_vertices, expected_joints = vertices_one_by_one(content, poses[i], betas[i], translations[i])
        np.testing.assert_allclose(vertices[i], 1000 * expected_vertices, atol=1e-3)  # blend shapes are stored as float32
        np.testing.assert_allclose(joints[i], 1000 * expected_joints, atol=1e-9)
        with_shape_3, _ = vertices_one_by_one(content, poses[i], betas[3], translations[i])
        np.testing.assert_allclose(chosen[i], 1000 * with_shape_3[[7, 2]], atol=1e-3)


def test_turning_and_shifting_the_person_turns_and_shifts_the_joints(tmp_path):
    model = load_body_model(write_npz(tmp_path / "body.npz", random_model()))
    rng = np.random.default_rng(2)
    pose, betas = rng.standard_normal((5, 4, 3)), rng.standard_normal(10)
    matrices = np.array([[rotation_matrix(*rotation) for rotation in joints] for joints in pose])
    turn = rotation_matrix(-0.3, 1.1, 0.4)
    turned = matrices.copy()
    turned[:, 0] = turn @ matrices[:, 0]
    for method in (model.joints, model.vertices):
        points = method(pose, betas, ORIGIN)
        np.testing.assert_allclose(method(pose.reshape(5, 12), betas, ORIGIN), points, atol=1e-9)
        np.testing.assert_allclose(method(matrices, betas, ORIGIN), points, atol=1e-9)
        np.testing.assert_allclose(method(pose, betas, [1, -2, 3]) - [[1000, -2000, 3000]], points, atol=1e-9)
        pelvis = model.joints(pose, betas, ORIGIN)[:, :1]
        np.testing.assert_allclose(method(turned, betas, ORIGIN), (points - pelvis) @ turn.T + pelvis, atol=1e-9)


def test_mirrored_pose_of_a_symmetric_body_gives_mirrored_joints(tmp_path):
    content = random_model(parents=(-1, 0, 1, 1))  # a trunk, a head, two arms
    partner, flip, swap = np.arange(10)[::-1], np.array([-1, 1, 1]), [0, 1, 3, 2]
    for key in ("v_template", "shapedirs"):
        content[key] += (content[key][partner].swapaxes(1, -1) * flip).swapaxes(1, -1)
    content["J_regressor"] = (content["J_regressor"] + content["J_regressor"][swap][:, partner]) / 2
    model = load_body_model(write_npz(tmp_path / "body.npz", content))
    rng = np.random.default_rng(3)
    pose, betas, translation = rng.standard_normal((6, 4, 3)), rng.standard_normal((6, 10)), rng.standard_normal((6, 3))
    joints = model.joints(pose, betas, translation)
    mirrored = model.joints((pose * [1, -1, -1])[:, swap], betas, translation * flip)
    np.testing.assert_allclose(mirrored, (joints * flip)[:, swap], atol=1e-9)
    assert np.abs(joints - (joints * flip)[:, swap]).max() > 100  # the poses themselves are not symmetric


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_pickles_of_python_2_hold_the_same_model(tmp_path, protocol):
    content = random_model()
    parameters = np.random.default_rng(4).standard_normal((3, 12)), NO_SHAPE, ORIGIN
    read = load_body_model(write_pickle(tmp_path / "body.pkl", content, protocol))
    expected = load_body_model(write_npz(tmp_path / "body.npz", content))
    np.testing.assert_array_equal(read.vertices(*parameters), expected.vertices(*parameters))
    np.testing.assert_array_equal(read.parents, [-1, 0, 1, 2])
    # without chumpy, and with the root's parent as -1
    content["kintree_table"] = np.array([[-1, 0, 1, 2], [0, 1, 2, 3]])
    np.savez(tmp_path / "signed.npz", **content)
    np.testing.assert_array_equal(load_body_model(tmp_path / "signed.npz").parents, [-1, 0, 1, 2])


@pytest.mark.parametrize(("num_directions", "num_betas"), [(10, 10), (16, 16), (300, 300), (20, 10), (400, 300)])
def test_expression_follows_the_shape_directions(tmp_path, num_directions, num_betas):
    content = random_model(num_directions=num_directions)
    model = load_body_model(write_npz(tmp_path / "body.npz", content))
    assert (model.num_betas, model.num_expressions) == (num_betas, num_directions - num_betas)
    rest = np.zeros((1, 12))
    shift = model.joints(rest, [0] * (num_betas - 1) + [1], ORIGIN) - model.joints(rest, NO_SHAPE, ORIGIN)
    np.testing.assert_allclose(shift[0], 1000 * content["J_regressor"] @ content["shapedirs"][:, :, num_betas - 1], atol=1e-9)
    if model.num_expressions:
        shift = model.vertices(rest, [], ORIGIN, [[0, 2]]) - model.vertices(rest, [], ORIGIN)
        np.testing.assert_allclose(shift[0], 2000 * content["shapedirs"][:, :, num_betas + 1], atol=1e-3)
    else:
        with pytest.raises(ValueError, match=r"expression has shape \[1, 2\]; expected \[1 or 1, up to 0\]"):
            model.joints(rest, [], ORIGIN, [0, 2])


def test_regressed_points(tmp_path):
    model = load_body_model(write_npz(tmp_path / "body.npz", random_model()))
    rng = np.random.default_rng(5)
    parameters = rng.standard_normal((4, 4, 3)), rng.standard_normal(10), rng.standard_normal((4, 3))
    regressor = np.zeros((3, 10))
    regressor[0, 4], regressor[1, [2, 9]], regressor[2, [0, 1, 2]] = 1, [0.25, 0.75], [2, -0.5, -0.5]
    vertices = model.vertices(*parameters)
    expected = np.stack([vertices[:, 4], 0.25 * vertices[:, 2] + 0.75 * vertices[:, 9],
                         2 * vertices[:, 0] - (vertices[:, 1] + vertices[:, 2]) / 2], axis=1)
    for given in (regressor, scipy.sparse.csc_matrix(regressor)):
        np.testing.assert_allclose(regress(vertices, given), expected, atol=1e-9)
        np.testing.assert_allclose(regress(vertices[2], given), expected[2], atol=1e-9)
        np.testing.assert_allclose(model.regressed_joints(given, *parameters), expected, atol=1e-9)
    for wrong in (regressor[:, :9], np.full((3, 10), np.nan)):
        with pytest.raises(ValueError, match=r"regressor has shape .* \[num_points, 10\]"):
            model.regressed_joints(wrong, *parameters)


def numbered_model(num_vertices, **more):
    """Two joints and a surface whose vertex i is at (i, 0, 0) m."""
    content = random_model(num_vertices, (-1, 0))
    content["v_template"] = np.arange(num_vertices)[:, None] * np.array([1.0, 0, 0])
    content["posedirs"] *= 0
    return {**content, **more}


def test_landmarks_of_smplx_in_the_official_order(tmp_path):
    triangles = {"f": np.array([[0, 1, 2], [30, 10, 50]], np.uint32), "lmk_faces_idx": np.array([1, 0]),
                 "lmk_bary_coords": np.array([[0.5, 0.25, 0.25], [0, 0, 1.0]])}
    model = load_body_model(write_npz(tmp_path / "body.npz", numbered_model(10475, **triangles)))
    points = model.joints_and_landmarks(np.zeros((1, 6)), NO_SHAPE, ORIGIN)[0]
    assert points.shape == (2 + 21 + 2, 3)
    np.testing.assert_allclose(points[:2], model.joints(np.zeros((1, 6)), NO_SHAPE, ORIGIN)[0])
    vertices = dict(zip(LANDMARK_NAMES, (points[2:23, 0] / 1000).round(), strict=True))
    assert (vertices["nose"], vertices["left_ear"], vertices["right_ear"]) == (9120, 6, 616)
    assert (vertices["left_eye"], vertices["right_eye"]) == (9448, 9929)
    assert (vertices["left_heel"], vertices["right_big_toe"]) == (8846, 8463)
    assert (vertices["left_thumb_tip"], vertices["right_middle_tip"]) == (5361, 7794)
    np.testing.assert_allclose(points[23:], [[30000, 0, 0], [2000, 0, 0]], atol=1e-6)  # 30 / 2 + (10 + 50) / 4; corner 2


def test_landmarks_of_smpl(tmp_path):
    model = load_body_model(write_npz(tmp_path / "body.npz", numbered_model(6890)))
    points = model.joints_and_landmarks(np.zeros((1, 6)), NO_SHAPE, ORIGIN)[0]
    np.testing.assert_array_equal((points[2:, 0] / 1000).round()[[0, 2, 7, 11, 20]], [332, 2800, 3387, 2746, 6133])


def test_landmark_names_fit_the_joint_format_of_smplx_data():
    of_127 = [*range(55, 67), 68, 71, 73]  # of the 127 points of SMPL-X, 55 are joints
    assert [LANDMARK_NAMES[i - 55] for i in of_127] == list(load_skeleton("smplx_42").joint_names[27:])


def smplx_file(path):
    rng = np.random.default_rng(6)
    content = random_model(parents=(-1, *range(54)))
    hands = {f"hands_{key}{side}": rng.standard_normal(shape)
             for key, shape in (("mean", 45), ("components", (45, 45))) for side in "lr"}
    return write_npz(path, {**content, **hands}), hands


def test_smplx_pose_from_the_parts_of_a_fit(tmp_path):
    path, hands = smplx_file(tmp_path / "SMPLX_MALE.npz")
    model = load_body_model(path)
    rng = np.random.default_rng(7)
    parts = {name: rng.standard_normal((2, width)) for name, width in (
        ("left_hand_pose", 12), ("right_hand_pose", 45), ("body_pose", 63), ("reye_pose", 3), ("leye_pose", 3),
        ("global_orient", 3), ("jaw_pose", 3), ("transl", 3))}
    left = hands["hands_meanl"] + sum(parts["left_hand_pose"][1, k] * hands["hands_componentsl"][k] for k in range(12))
    pose = model.smplx_pose(parts)
    assert pose.shape == (2, 165)
    np.testing.assert_allclose(pose[1], np.concatenate([
        parts["global_orient"][1], parts["body_pose"][1], parts["jaw_pose"][1], parts["leye_pose"][1], parts["reye_pose"][1],
        left, hands["hands_meanr"] + parts["right_hand_pose"][1]]))
    assert model.joints(pose, NO_SHAPE, ORIGIN).shape == (2, 55, 3)
    with pytest.raises(ValueError, match="jaw_pose missing"):
        model.smplx_pose({name: values for name, values in parts.items() if name != "jaw_pose"})
    with pytest.raises(ValueError, match=r"body_pose has shape \[2, 69\]; expected \[2, 63\]"):
        model.smplx_pose({**parts, "body_pose": np.zeros((2, 69))})
    with pytest.raises(ValueError, match=r"left_hand_pose has shape \[1, 12\]; expected \[2, 45\] or fewer"):
        model.smplx_pose({**parts, "left_hand_pose": np.zeros((1, 12))})
    without = load_body_model(write_npz(tmp_path / "SMPLX_FEMALE.npz", random_model()))
    with pytest.raises(ValueError, match=r"SMPLX_FEMALE.npz has no hands_meanl"):
        without.smplx_pose(parts)


def test_wrong_parameters_are_explained(arm):
    good = {"pose": np.zeros((3, 12)), "betas": NO_SHAPE, "translation": ORIGIN}
    bad_pose = np.zeros((3, 12))
    bad_pose[1, 5] = np.nan
    mirror = np.tile(np.diag([1.0, 1, -1]), (3, 4, 1, 1))
    for changes, message in [
            ({"pose": np.zeros((3, 72))}, r"pose has shape \[3, 72\]; expected \[n, 12\], .* as .*arm\.npz has 4 joints"),
            ({"pose": np.zeros(12)}, r"pose has shape \[12\]"),
            ({"pose": bad_pose}, r"pose holds nan or infinity in 1 of 3 rows, first in pose\[1\]"),
            ({"pose": mirror}, r"pose\[0, 0\] is no rotation matrix"),
            ({"pose": np.tile(2 * np.eye(3), (3, 4, 1, 1))}, r"pose\[0, 0\] is no rotation matrix"),
            ({"betas": np.zeros(11)}, r"betas has shape \[1, 11\]; expected \[1 or 3, up to 10\], as .*arm\.npz has 10"),
            ({"betas": np.zeros((2, 10))}, r"betas has shape \[2, 10\]"),
            ({"betas": [np.inf]}, r"betas holds nan"),
            ({"translation": np.zeros((2, 3))}, r"translation has shape \[2, 3\]; expected \[3\] or \[3, 3\]"),
            ({"translation": [0, np.nan, 0]}, r"translation holds nan")]:
        for method in (arm.joints, arm.vertices):
            with pytest.raises(ValueError, match=message):
                method(**{**good, **changes})


def test_no_poses_and_no_landmarks(arm):
    for betas in (NO_SHAPE, np.zeros((0, 10))):
        nothing = np.zeros((0, 12)), betas, ORIGIN
        assert arm.joints(*nothing).shape == arm.joints_and_landmarks(*nothing).shape == (0, 4, 3)
        assert arm.vertices(*nothing).shape == (0, 10, 3)
    poses = np.random.default_rng(8).standard_normal((2, 12)), NO_SHAPE, ORIGIN
    np.testing.assert_array_equal(arm.joints_and_landmarks(*poses), arm.joints(*poses))  # 10 vertices: no known surface


@pytest.mark.parametrize("key", ["v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table"])
@pytest.mark.parametrize("write", [write_npz, write_pickle])
def test_wrong_model_files_are_explained(tmp_path, key, write):
    path = tmp_path / f"body.{'npz' if write is write_npz else 'pkl'}"
    content = random_model()
    if write is write_npz:
        write_npz(path, {k: v for k, v in content.items() if k != key})
        with pytest.raises(ValueError, match=rf"body\.npz has no {key}; is it"):
            load_body_model(path)
    for cut in (content[key][:-1], content[key][:, :-1]):
        write(path, {**content, key: cut})
        with pytest.raises(ValueError, match=rf"{path.name}: \w+ has shape \[.*\]; expected \["):
            load_body_model(path)
    if key != "kintree_table":
        broken = content[key].copy()
        broken.flat[3] = np.nan
        write(path, {**content, key: broken})
        with pytest.raises(ValueError, match=rf"{path.name}: {key} holds nan"):
            load_body_model(path)


@pytest.mark.parametrize("table", [
    [[0, 0, 1, 2], [0, 1, 2, 3]],  # no root
    [[-1, 2, 0, 2], [0, 1, 2, 3]],  # a child before its parent
    [[-1, -1, 1, 2], [0, 1, 2, 3]],  # two roots
    [[-1, 0, 1, 2], [0, 2, 1, 3]],  # another order of joints
])
def test_wrong_trees_are_explained(tmp_path, table):
    write_npz(tmp_path / "body.npz", {**random_model(), "kintree_table": np.array(table)})
    with pytest.raises(ValueError, match=r"body\.npz: kintree_table is .*; expected parents"):
        load_body_model(tmp_path / "body.npz")


def test_files_that_are_no_models_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"body\.npz is missing"):
        load_body_model(tmp_path / "body.npz")
    whole = write_npz(tmp_path / "body.npz", random_model()).read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match=r"short\.npz cannot be read"):
        load_body_model(tmp_path / "short.npz")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"array\.npz cannot be read"):
        load_body_model(tmp_path / "array.npz")
    write_npz(tmp_path / "pickled.npz", {**random_model(), "weights": np.array({"a": 1})})
    with pytest.raises(ValueError, match=r"pickled\.npz cannot be read as a \.npz file with the array weights"):
        load_body_model(tmp_path / "pickled.npz")
    landmarks = {"lmk_faces_idx": np.array([12]), "lmk_bary_coords": np.ones((1, 3)) / 3}
    with pytest.raises(ValueError, match=r"lmk\.npz: lmk_faces_idx counts from 12 to 12; expected 0 to 11"):
        load_body_model(write_npz(tmp_path / "lmk.npz", {**random_model(), **landmarks}))


def test_sparse_regressor_with_indices_outside_is_refused(tmp_path):
    content = random_model()
    write_pickle(tmp_path / "body.pkl", content)
    regressor = scipy.sparse.csc_matrix(content["J_regressor"])
    data = (tmp_path / "body.pkl").read_bytes()
    wrong = regressor.indices.copy()
    wrong[5] = 1000
    assert data.count(regressor.indices.tobytes()) == 1
    (tmp_path / "body.pkl").write_bytes(data.replace(regressor.indices.tobytes(), wrong.tobytes()))
    with pytest.raises(ValueError, match=r"body\.pkl"):
        load_body_model(tmp_path / "body.pkl")


@pytest.mark.parametrize(("kind", "gender", "file"), [
    ("smpl", "neutral", "SMPL_NEUTRAL.pkl"),
    ("smpl", "male", "SMPL_python_v.1.0.0/smpl/models/basicmodel_m_lbs_10_207_0_v1.0.0.pkl"),
    ("smpl", "female", "smpl/models/basicModel_f_lbs_10_207_0_v1.0.0.pkl"),
    ("smpl", "female", "SMPL_python_v.1.1.0/smpl/models/basicmodel_f_lbs_10_207_0_v1.1.0.pkl"),
    ("smplh", "male", "smplh/male/model.npz"),
    ("smplh", "female", "smplh/female/model.npz"),
    ("smplh", "female", "mano_v1_2/models/SMPLH_female.pkl"),
    ("smplx", "male", "models_smplx_v1_1/models/smplx/SMPLX_MALE.npz"),
    ("smplx", "neutral", "smplx/SMPLX_NEUTRAL.pkl"),
])
def test_official_files_are_found(tmp_path, kind, gender, file):
    for other in (file, "dmpls/male/model.npz", "dmpls/female/model.npz", "SMPL_MALE.txt", "smplx/SMPLX_FEMALE.npz"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).touch()
    assert find_body_model(tmp_path, kind, gender) == tmp_path / file
    if kind == "smplh" and file.endswith("npz"):  # the folder itself may be given
        assert find_body_model(tmp_path / "smplh", kind, gender) == tmp_path / file


@pytest.mark.parametrize(("kind", "gender", "names", "site"), [
    ("smpl", "female", r"SMPL_FEMALE\.pkl \(or basicModel_f_lbs_10_207_0_v1\.0\.0\.pkl", "https://smpl.is.tue.mpg.de,"),
    ("smplh", "male", r"smplh/male/model\.npz", "https://mano.is.tue.mpg.de,"),
    ("smplx", "neutral", r"SMPLX_NEUTRAL\.npz", "https://smpl-x.is.tue.mpg.de,"),
])
def test_missing_model_files_are_named_with_their_site(tmp_path, kind, gender, names, site):
    for folder in (tmp_path, tmp_path / "nowhere", None):
        with pytest.raises(FileNotFoundError, match=rf"the {gender} .*{names}.*{site}.*--body-models=DIR"):
            find_body_model(folder, kind, gender)


def test_unknown_kinds_and_genders_are_refused(tmp_path):
    for kind, gender in (("star", "male"), ("smpl", "m")):
        with pytest.raises(ValueError, match="kinds: smpl, smplh, smplx; genders: neutral, male, female"):
            find_body_model(tmp_path, kind, gender)
