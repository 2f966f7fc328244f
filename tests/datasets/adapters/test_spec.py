"""The SPEC-SYN adapter on annotations in the authors' layout, with a made-up body model in the format of SMPL's."""

import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import spec
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint
from tests.datasets.body_model_files import posed_rigid_points, rigid_model, write_pickle

ADAPTER = spec.ADAPTER
SKELETON = load_skeleton("smpl_24")
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
TO_CAMERA_AXES = np.diag([1.0, -1, -1])  # SMPL's y axis points up, and people face +z
REST = body(SKELETON, (0, 0, 0)) @ TO_CAMERA_AXES + [0, -0.24, 0.03]  # m
WIDTH, HEIGHT = 960, 640
INTRINSICS = np.array([[700.0, 0, 470], [0, 700, 330], [0, 0, 1]])
OPENPOSE = ["nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
            "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
            "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe",
            "right_heel"]
FITTED = [name for name in OPENPOSE if name in ("neck", "pelvis") or name.split("_")[-1] in (
    "shoulder", "elbow", "wrist", "hip", "knee", "ankle")]
LSP = ["right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
       "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"]
# place: m, before the camera; shape: of the model, larger by tenths, and taller by tenths
ANNA = {"place": (-0.7, 0.1, 3.6), "turn": 0.3, "shape": (1.0, 1.0), "size": 1.0}
BERT = {"place": (0.85, 0.0, 3.7), "turn": -0.4, "shape": (-0.5, 0.7), "size": 0.95}
FIRST, SECOND = "images/archviz_0_x_12_1.png", "images/archviz_0_x_7_0.png"


def world_to_camera():
    """[3, 3]: the camera looks 25 degrees down and is rolled by 10."""
    pitch, roll = np.deg2rad(25), np.deg2rad(10)
    return (np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
            @ np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]))


def pose_of(person):
    """[24, 3]: turned about the vertical, the left elbow and the right knee bent."""
    pose = np.zeros((24, 3))
    pose[0], pose[18], pose[5] = (0.1, person["turn"], 0), (0, -0.5, 0.2), (0.3, 0, 0)
    return pose


def truth(person):
    """[24, 3] m, camera frame: the model, moved to the person's place and scaled about the camera."""
    larger, taller = np.multiply(0.1, person["shape"])
    rest = REST * [1 + larger, 1 + larger + taller, 1 + larger]
    joints = posed_rigid_points(rest, range(24), PARENTS, pose_of(person), np.zeros(3)) @ TO_CAMERA_AXES
    return person["size"] * (joints - joints[0] + person["place"])


def project_px(points):
    return points[:, :2] / points[:, 2:] * INTRINSICS[[0, 1], [0, 1]] + INTRINSICS[:2, 2]


def row_of(person, image):
    joints = dict(zip(SKELETON.joint_names, truth(person), strict=True))
    openpose = np.tile([1e4, -1e4, 1.0], (25, 1))  # joints that SMPL does not have
    for name in FITTED:
        openpose[OPENPOSE.index(name), :2] = project_px(joints[name][None])[0]
    limbs = np.zeros((24, 4))  # in a frame of their own; nothing where LSP has no joint
    turn = cv2.Rodrigues(np.array([0.5, 1.0, -2.0]))[0]
    limbs[:12] = np.column_stack([np.array([joints[name] for name in LSP]) @ turn + [3, -1, 2], np.ones(12)])
    return {"imgname": image, "pose": pose_of(person).ravel(), "shape": np.array([*person["shape"], *8 * [0.0]]), "S": limbs,
            "openpose_gt": openpose, "cam_int": INTRINSICS, "cam_rotmat": world_to_camera(), "cam_trans": np.full(3, 7.0),
            "center": np.zeros(2), "scale": 1.0, "focal_length": 700.0, "cam_pitch": 0.4}


def write_rows(raw_dir, rows, split="train"):
    path = raw_dir / "spec-syn" / "annotations" / f"{split}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{key: np.array([row[key] for row in rows]) for key in rows[0]})


def write_picture(raw_dir, name, person):
    path = raw_dir / "spec-syn" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = gray_image(WIDTH, HEIGHT)
    paint(image, project_px(truth(person)))
    assert cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture(name="models", scope="module")
def make_models(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("models"), rigid_model(REST, range(24), PARENTS, num_vertices=30)
    model["shapedirs"][6:, 1, 1] = 0.1 * REST[:, 1]
    write_pickle(folder / "smpl" / "models" / "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl", model)
    return folder


def load_all(raw_dir, models, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split, body_models=models)
            for item in ADAPTER.load_unit(raw_dir, unit, body_models=models)]


def people_of(items):
    return [item.provenance["person"] for item in items]


def test_prepared_joints_lie_on_their_dots(tmp_path, models):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    write_rows(raw_dir, [row_of(ANNA, SECOND), row_of(ANNA, FIRST), row_of(BERT, SECOND)])
    write_rows(raw_dir, [row_of(BERT, FIRST)], "test")
    write_picture(raw_dir, FIRST, ANNA)
    write_picture(raw_dir, SECOND, BERT)
    manifest = prepare(ADAPTER, raw_dir, data_root, body_models=models, workers=1, progress=False)
    assert list(manifest["splits"]) == ["train", "test"] and not manifest["skipped"]
    assert manifest["skeleton"] == SKELETON.to_dict()
    dataset = PreparedDataset(data_root / "spec")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert people_of(examples) == [1, 0, 2]  # image by image
    assert examples[2].provenance == {"source": f"spec-syn/{SECOND}", "person": 2}
    for example, person in ((examples[0], ANNA), (examples[2], BERT)):
        check_crop(example, 1000 * truth(person) @ world_to_camera())
    assert dataset.num_examples("test") == 1


def test_camera_and_boxes_that_reach_beyond_the_image(tmp_path, models):
    cut_off = {**BERT, "place": (0.2, 1.0, 3.0)}
    write_rows(tmp_path, [row_of(cut_off, FIRST)])
    (example,) = load_all(tmp_path, models)
    np.testing.assert_array_equal(example.camera.intrinsics, INTRINSICS)
    np.testing.assert_allclose(example.camera.world_to_camera[:3], np.column_stack([world_to_camera(), np.zeros(3)]))
    np.testing.assert_allclose(example.camera.up, -world_to_camera()[:, 1])
    assert example.camera.distortion is None and example.mask is None
    low, high = (limit(project_px(truth(cut_off)), axis=0) for limit in (np.min, np.max))
    np.testing.assert_allclose(example.bbox[2:], 1.15 * (high - low), rtol=1e-4)
    np.testing.assert_allclose(example.bbox[:2] + example.bbox[2:] / 2, (low + high) / 2, rtol=1e-4)
    assert example.bbox[1] + example.bbox[3] > HEIGHT + 50


def test_size_is_that_of_the_limbs_in_s(tmp_path, models):
    row = row_of(ANNA, FIRST)
    row["S"] = row["S"].copy()
    row["S"][:, :3] *= 1.2
    row["S"][12:] = 9.0  # not of limbs
    write_rows(tmp_path, [row])
    (example,) = load_all(tmp_path, models)
    np.testing.assert_allclose(example.joints3d_world, 1200 * truth(ANNA) @ world_to_camera(), atol=0.01)


def test_openpose_joints_that_are_a_little_elsewhere_are_fitted(tmp_path, models):
    row = row_of(ANNA, FIRST)
    offset = np.zeros((25, 2))
    offset[[OPENPOSE.index("left_hip"), OPENPOSE.index("right_hip")], 1] = 8  # 4 cm
    offset[OPENPOSE.index("left_wrist")] = 300  # and not known
    row["openpose_gt"] = row["openpose_gt"] + np.column_stack([offset, np.zeros(25)])
    row["openpose_gt"][OPENPOSE.index("left_wrist"), 2] = 0
    write_rows(tmp_path, [row])
    (example,) = load_all(tmp_path, models)
    np.testing.assert_allclose(project_px(example.joints3d_world @ world_to_camera().T / 1000), project_px(truth(ANNA)), atol=8)


@pytest.mark.parametrize("broken", [np.inf, np.nan])
def test_a_joint_that_is_not_finite_is_not_known_and_does_not_widen_the_tolerance(tmp_path, models, broken):
    row = row_of(ANNA, FIRST)
    row["openpose_gt"] = row["openpose_gt"].copy()
    row["openpose_gt"][OPENPOSE.index("left_wrist"), 0] = broken
    wrong = {**row, "openpose_gt": row["openpose_gt"] + 300 * (np.arange(25) == 11)[:, None] * [1, 0, 0]}  # an ankle
    write_rows(tmp_path, [row, wrong])
    example, fault = load_all(tmp_path, models)
    np.testing.assert_allclose(example.joints3d_world, 1000 * truth(ANNA) @ world_to_camera(), atol=0.01)
    assert "row 1: pose and openpose_gt: no camera sees the 13" in str(fault)


def test_small_people_are_left_out_and_nothing_is_sampled(tmp_path, models):
    far = {**ANNA, "place": (0.0, 0.0, 9.0)}
    side = np.ptp(project_px(truth(far)), axis=0).min() * 1.15
    nearer, farther = ({**far, "place": (0.0, 0.0, 9.0 * side / limit)} for limit in (103, 97))
    write_rows(tmp_path, [row_of(person, FIRST) for person in (nearer, farther, nearer)])
    assert people_of(load_all(tmp_path, models)) == [0, 2]


def test_units_are_runs_of_images(tmp_path, models, monkeypatch):
    monkeypatch.setattr(spec, "IMAGES_PER_UNIT", 2)
    names = [f"images/{letter}.png" for letter in "cabca"]
    write_rows(tmp_path, [row_of(ANNA, name) for name in names])
    units = ADAPTER.list_units(tmp_path, "train", body_models=models)
    assert units == [{"split": "train", "first": 0}, {"split": "train", "first": 2}]
    assert [people_of(ADAPTER.load_unit(tmp_path, unit, body_models=models)) for unit in units] == [[1, 4, 2], [0, 3]]
    assert ADAPTER.list_units(tmp_path, "validation", body_models=models) == []
    assert ADAPTER.list_units(tmp_path, "test", body_models=models) == []  # was not unpacked


@pytest.mark.parametrize(("changes", "message"), [
    ({"imgname": "../../secret.png"}, r"train\.npz: row 1: imgname: the path .* leaves the folder"),
    ({"pose": np.full(72, np.nan)}, r"train\.npz: row 1: pose holds nan"),
    ({"openpose_gt": np.zeros((25, 3))}, r"train\.npz: row 1: pose and openpose_gt: 0 points are known"),
    ({"openpose_gt": row_of(BERT, FIRST)["openpose_gt"] + 300 * (np.arange(25) == 11)[:, None] * [1, 0, 0]},  # an ankle
     r"train\.npz: row 1: pose and openpose_gt: no camera sees the 14 .* lie \d\d\.\d px from it"),
    ({"S": np.zeros((24, 4))}, r"train\.npz: row 1: S has no 12 joints"),
    ({"S": np.full((24, 4), np.nan)}, r"train\.npz: row 1: S has no 12 joints"),
    ({"cam_int": np.zeros((3, 3))}, r"train\.npz: row 1: intrinsics must be"),
    ({"cam_rotmat": np.diag([1.0, 1, -1])}, r"train\.npz: row 1: .* determinant -1"),
])
def test_faults_of_a_person_are_reported_and_the_rest_is_read(tmp_path, models, changes, message):
    write_rows(tmp_path, [row_of(ANNA, FIRST), {**row_of(BERT, FIRST), **changes}, row_of(BERT, FIRST)])
    fault, *others = sorted(load_all(tmp_path, models), key=lambda item: not isinstance(item, ValueError))
    assert people_of(others) == [0, 2]
    with pytest.raises(ValueError, match=message):
        raise fault


@pytest.mark.parametrize(("key", "value", "message"), [
    ("S", None, r"train\.npz cannot be read as a \.npz file with the array S: .*S is not a file in the archive"),
    ("pose", np.zeros((1, 72)), r"array pose: it has shape \[1, 72\]; expected \[2, 72\]"),
    ("openpose_gt", np.zeros((2, 14, 3)), r"array openpose_gt: it has shape \[2, 14, 3\]; expected \[2, 25, 3\]"),
    ("imgname", np.array([None, None]), r"array imgname: Object arrays cannot be loaded"),
])
def test_wrong_annotations_are_named(tmp_path, models, key, value, message):
    write_rows(tmp_path, [row_of(ANNA, FIRST), row_of(BERT, FIRST)])
    path = tmp_path / "spec-syn" / "annotations" / "train.npz"
    content = dict(np.load(path))
    content.pop(key)
    np.savez(path, **content, **({} if value is None else {key: value}))
    with pytest.raises(ValueError, match=message):
        load_all(tmp_path, models)


def test_missing_files_are_named(tmp_path, models):
    with pytest.raises(FileNotFoundError, match=r"neither .*annotations/train\.npz nor .*test\.npz is there\. Get "
                                                r"spec-syn\.zip from https://spec\.is\.tue\.mpg\.de"):
        ADAPTER.list_units(tmp_path, "train", body_models=models)
    write_rows(tmp_path, [row_of(ANNA, FIRST)])
    for folder in (None, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"neutral SMPL model is needed, .*--body-models=DIR"):
            ADAPTER.list_units(tmp_path, "train", body_models=folder)
    other = write_pickle(tmp_path / "models" / "SMPL_NEUTRAL.pkl", rigid_model(REST[:4], range(4), PARENTS[:4], 9))
    with pytest.raises(ValueError, match=r"SMPL_NEUTRAL\.pkl has 4 joints, expected the 24 of SMPL"):
        load_all(tmp_path, other.parent)


def test_adapter_can_be_sent_to_a_worker():
    adapter = pickle.loads(pickle.dumps(ADAPTER))
    assert adapter.name == "spec" and adapter.uses_body_models and adapter.detection_rule.min_iou == 0.3
