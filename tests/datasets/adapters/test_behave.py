"""The BEHAVE adapter on sequences in the authors' layout: Kinects, SMPL-H parameters of a made-up body, painted dots."""

import json
import os
import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import behave
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset, decode_mask
from posepile.geometry.skeleton import load_skeleton, skeleton_from_dict
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_jpeg
from tests.datasets.body_model_files import posed_rigid_points, rigid_model, write_pickle

ADAPTER = behave.ADAPTER
SMPL, BODY_25 = load_skeleton("smpl_24"), load_skeleton("body_25")
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
SIZE = {"male": 1.0, "female": 0.92}
WIDTH, HEIGHT = 1280, 960
SEQUENCE = "Date03_Sub03_chairwood_sit"
PLACE = np.array([0.05, 0.0, 2.6])
K1, K2, P1, P2, K3, K4, K5, K6 = 0.5, -2.6, 0.0007, -0.0003, 1.5, 0.38, -2.4, 1.43
# The Kinects' rotations, as vectors, and positions in the world, m, which is Kinect 1's frame.
TO_WORLD = {0: ([0.05, 0.5, -0.04], [-1.35, -0.1, 0.4]), 1: ([0, 0, 0], [0, 0, 0]),
            2: ([0.2, 2.6, 0.03], [-1.37, 0.05, 5.01])}


def rotation(kinect):
    return cv2.Rodrigues(np.float64(TO_WORLD[kinect][0]))[0]


def color(kinect):
    return {"fx": 640.0 + kinect, "fy": 642.5, "cx": 637.5, "cy": 488.25 + kinect}


def image_points(points, kinect):
    """[n, 2] px, by OpenCV; the world's points X = Rf X_camera + tf."""
    to_camera = rotation(kinect).T
    translation = -to_camera @ TO_WORLD[kinect][1] * 1000
    k = color(kinect)
    matrix = np.array([[k["fx"], 0, k["cx"]], [0, k["fy"], k["cy"]], [0, 0, 1]])
    return cv2.projectPoints(points, cv2.Rodrigues(to_camera)[0], translation, matrix,
                             np.array([K1, K2, P1, P2, K3, K4, K5, K6]))[0][:, 0]


def rest_joints(gender):
    return SIZE[gender] * body(SMPL, (0, 0, 0)) * [1, -1, -1]  # y up


def fit(offset=0.0):
    """Parameters of SMPL-H, with 90 numbers of fingers that mean nothing to SMPL."""
    rng = np.random.default_rng(0)
    pose = 0.1 * rng.standard_normal(156)
    pose[:3] = 3.1, 0.1, -0.1
    return {"pose": pose, "betas": np.array([0.5, *[0] * 9]), "trans": PLACE + np.array([offset, 0, 0])}


def triangulated(offset=0.0):
    """[25, 3] mm."""
    joints = body(BODY_25, PLACE + np.array([offset + 0.03, -0.02, 0.01]))
    joints[0] = PLACE + np.array([offset + 0.2, 0.95, 0])  # the nose, off all other dots
    return 1000 * joints


def truth(gender="male", offset=0.0):
    """[49, 3] mm, world."""
    parameters = fit(offset)
    joints = posed_rigid_points(1.05 * rest_joints(gender), range(24), PARENTS, parameters["pose"][:72].reshape(24, 3),
                                parameters["trans"])
    return np.concatenate([1000 * joints, triangulated(offset)])


def painted_joints(second, kinect):
    """SMPL's or BODY_25's joints: they lie on one another."""
    return range(24) if (second + kinect) % 2 else range(24, 49)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_calibrations(folder, date="Date03", kinects=(0, 1, 2)):
    for kinect in kinects:
        k = color(kinect)
        write_json(folder / "intrinsics" / str(kinect) / "calibration.json", {"color": {
            **k, "k1": K1, "k2": K2, "k3": K3, "k4": K4, "k5": K5, "k6": K6, "p1": P1, "p2": P2, "width": WIDTH,
            "height": HEIGHT, "opencv": [k["fx"], k["fy"], k["cx"], k["cy"], K1, K2, P1, P2, K3, K4, K5, K6]}, "depth": {}})
        write_json(folder / date / "config" / str(kinect) / "config.json", {
            "rotation": rotation(kinect).ravel().tolist(), "translation": TO_WORLD[kinect][1]})


def write_moment(folder, second, offset=0.0, gender="male", kinects=(0, 1), mask_suffix="jpg"):
    moment = folder / f"t{second:04d}.000"
    joints = truth(gender, offset)
    for kinect in kinects:
        picture = gray_image(WIDTH, HEIGHT)
        points = image_points(joints, kinect)
        paint(picture, points[painted_joints(second, kinect)], radius=5)
        write_jpeg(moment / f"k{kinect}.color.jpg", picture)
        mask = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)  # of values that JPEG can blur, on both sides of 127
        low, high = np.int64(points.min(axis=0)), np.int64(points.max(axis=0))
        mask[low[1]:high[1], low[0]:high[0]] = 145
        assert cv2.imwrite(str(moment / f"k{kinect}.person_mask.{mask_suffix}"), mask)
        (moment / f"k{kinect}.depth.png").touch()
    (moment / "person" / "fit02").mkdir(parents=True, exist_ok=True)
    (moment / "person" / "fit02" / "person_fit.pkl").write_bytes(pickle.dumps(fit(offset)))
    numbers = np.column_stack([triangulated(offset) / 1000, np.full(25, 0.7)])
    write_json(moment / "person" / "person_J3d.json", {"body_joints3d": numbers.ravel().tolist()})
    return moment


def write_info(folder, gender="male", date="Date03", **changes):
    write_json(folder / "info.json", {"config": f"../../calibs/{date}/config", "intrinsic": "../../calibs/intrinsics",
                                      "empty": "", "cat": "chairwood", "gender": gender, "kinects": [0, 1, 2, 3][:3],
                                      "beta": "", **changes})


@pytest.fixture(scope="module", name="models")
def make_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for gender in SIZE:
        write_pickle(folder / "smpl" / f"SMPL_{gender.upper()}.pkl", rigid_model(rest_joints(gender), range(24), PARENTS, 30))
    return folder


@pytest.fixture(name="raw_dir")
def make_raw_dir(tmp_path):
    """A sequence of two seconds, the training split, and no other ones."""
    raw_dir = tmp_path / "raw"
    write_calibrations(raw_dir / "calibs")
    write_info(raw_dir / "sequences" / SEQUENCE)
    for second, offset in ((3, 0.0), (4, 0.15)):
        write_moment(raw_dir / "sequences" / SEQUENCE, second, offset)
    write_json(raw_dir / "split.json", {"train": [SEQUENCE], "test": []})
    return raw_dir


@pytest.fixture
def load_all(raw_dir, models):
    def load():
        return [item for unit in ADAPTER.list_units(raw_dir, "train", body_models=models)
                for item in ADAPTER.load_unit(raw_dir, unit, body_models=models)]
    return load


def keys(items):
    return [(item.provenance["frame"], item.provenance["camera"]) for item in items]


def test_prepared_joints_lie_on_the_dots(raw_dir, tmp_path, models):
    other = raw_dir / "sequences" / "Date01_Sub06_backpack_hug"
    write_calibrations(raw_dir / "calibs", "Date01")
    write_info(other, "female", "Date01")
    write_moment(other, 7, gender="female", kinects=(0, 1, 2), mask_suffix="png")
    write_json(raw_dir / "split.json", {"train": [SEQUENCE], "test": [other.name]})
    manifest = prepare(ADAPTER, raw_dir, tmp_path / "data", body_models=models, workers=1, progress=False)
    assert not manifest["skipped"]
    dataset = PreparedDataset(tmp_path / "data" / "behave")
    assert list(dataset.splits()) == ["train", "test"]
    assert dataset.skeleton.joint_names == (*(f"{name}_smpl" for name in SMPL.joint_names),
                                            *(f"{name}_coco" for name in BODY_25.joint_names))
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert keys(examples) == [(3, "k0"), (3, "k1"), (4, "k0"), (4, "k1")]
    for i, example in enumerate(examples):
        second, kinect = 3 + i // 2, i % 2
        check_crop(example, truth(offset=0.15 * (second - 3)), painted_joints(second, kinect))
        height, width = example.decode_image().shape[:2]
        mask = decode_mask(example.mask_rle, height, width)
        inside = np.count_nonzero(mask) / example.bbox[2:].prod()
        assert 0.8 < inside < 1  # 1 / 1.05^2 = 0.91, with some tilt
    assert examples[2].provenance == {"source": f"sequences/{SEQUENCE}/t0004.000/k0.color.jpg", "sequence": SEQUENCE,
                                      "subject": "Sub03", "camera": "k0", "frame": 4}
    examples = [dataset.read("test", i) for i in range(dataset.num_examples("test"))]
    assert keys(examples) == [(7, "k0"), (7, "k1"), (7, "k2")]
    for kinect, example in enumerate(examples):
        check_crop(example, truth("female"), painted_joints(7, kinect))
        assert example.mask_rle is not None


def test_boxes_hold_the_joints_in_the_image(raw_dir, load_all):
    write_moment(raw_dir / "sequences" / SEQUENCE, 5, 2.3)
    examples = load_all()
    points = image_points(truth(), 1)
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(examples[1].bbox[2:], 1.05 * (high - low), rtol=1e-6)
    np.testing.assert_allclose(examples[1].bbox[:2] + examples[1].bbox[2:] / 2, (low + high) / 2, rtol=1e-6)
    points = image_points(truth(offset=2.3), 1)  # half out of view at the right
    low, high = points.min(axis=0), points.max(axis=0)
    assert keys(examples[-1:]) == [(5, "k1")] and high[0] > WIDTH + 20
    left = (low + high)[0] / 2 - 1.05 * (high - low)[0] / 2
    np.testing.assert_allclose(examples[-1].bbox[[0, 2]], [left, WIDTH - 0.5 - left], rtol=1e-6)


def test_who_is_out_of_view_is_left_out(raw_dir, load_all):
    write_moment(raw_dir / "sequences" / SEQUENCE, 5, 9.0, kinects=(1,))
    assert keys(load_all()) == [(3, "k0"), (3, "k1"), (4, "k0"), (4, "k1")]


def test_up_is_against_the_y_axis_of_kinect_1(load_all):
    examples = load_all()
    np.testing.assert_allclose(examples[1].camera.up, [0, -1, 0])
    np.testing.assert_allclose(examples[0].camera.up, rotation(0).T @ [0, -1, 0])


def test_masks_are_what_is_above_127(load_all, raw_dir):
    mask = load_all()[0].mask
    points = image_points(truth(), 0)
    low, high = np.int64(points.min(axis=0)), np.int64(points.max(axis=0))
    assert mask[low[1] + 2:high[1] - 2, low[0] + 2:high[0] - 2].all()
    mask = mask.copy()
    mask[low[1] - 2:high[1] + 2, low[0] - 2:high[0] + 2] = False
    assert not mask.any()
    (raw_dir / "sequences" / SEQUENCE / "t0003.000" / "k0.person_mask.jpg").unlink()
    assert load_all()[0].mask is None


def test_moments_are_kept_after_a_movement_unless_someone_has_been_there(raw_dir, load_all):
    for second, offset in ((5, 0.21), (6, 0.26), (7, 0.01), (8, 0.36)):
        write_moment(raw_dir / "sequences" / SEQUENCE, second, offset, kinects=(1,))
    assert keys(load_all())[4:] == [(6, "k1"), (8, "k1")]


def test_joints_that_were_not_found_have_no_label(raw_dir, load_all):
    path = raw_dir / "sequences" / SEQUENCE / "t0003.000" / "person" / "person_J3d.json"
    numbers = np.array(json.loads(path.read_text())["body_joints3d"]).reshape(25, 4)
    numbers[0, 3] = 0  # nose
    numbers[24, :3] = 0  # right_heel
    numbers[7, 1] = np.nan
    write_json(path, {"body_joints3d": numbers.ravel().tolist()})
    joints = load_all()[0].joints3d_world
    is_missing = np.isnan(joints)
    assert is_missing[[24, 24 + 7, 48]].all() and np.count_nonzero(is_missing) == 9
    np.testing.assert_allclose(joints[25:31], truth()[25:31])


def test_moments_without_parameters_joints_or_pictures_are_left_out(raw_dir, load_all):
    folder = raw_dir / "sequences" / SEQUENCE
    for second in (5, 6, 7):
        write_moment(folder, second, 0.2 * second)
    (folder / "t0005.000" / "person" / "person_J3d.json").unlink()
    (folder / "t0006.000" / "person" / "fit02" / "person_fit.pkl").unlink()
    (folder / "t0007.000" / "k0.color.jpg").unlink()
    (folder / "t0007.000" / "k3.color.jpg").touch()  # not among the kinects of info.json
    (folder / "others").mkdir()
    assert keys(load_all()) == [(3, "k0"), (3, "k1"), (4, "k0"), (4, "k1"), (7, "k1")]


@pytest.mark.parametrize(("content", "message"), [
    ({**fit(), "trans": np.full(3, np.nan)}, "translation holds nan"), ({"pose": fit()["pose"]}, "betas"),
    ({**fit(), "pose": np.zeros(60)}, r"pose has shape \[1, 66\]"), ([1], "does not hold"),
    (os.getcwd, r"posix\.getcwd, which is refused")])
def test_broken_parameters_are_reported_and_the_rest_goes_on(raw_dir, load_all, content, message):
    path = raw_dir / "sequences" / SEQUENCE / "t0003.000" / "person" / "fit02" / "person_fit.pkl"
    path.write_bytes(pickle.dumps(content))
    error, *examples = load_all()
    with pytest.raises(ValueError, match=rf"t0003\.000/person/fit02/person_fit\.pkl.*{message}"):
        raise error
    assert keys(examples) == [(4, "k0"), (4, "k1")]


@pytest.mark.parametrize("content", [
    {"body_joints3d": [1.0] * 99}, {}, [], {"body_joints3d": "none"}, {"body_joints3d": [10**400] * 100}])
def test_broken_joints_are_reported_and_the_rest_goes_on(raw_dir, load_all, content):
    write_json(raw_dir / "sequences" / SEQUENCE / "t0003.000" / "person" / "person_J3d.json", content)
    error, *examples = load_all()
    assert "person_J3d.json: expected body_joints3d, 25 x (x, y, z, score)" in str(error)
    assert keys(examples) == [(4, "k0"), (4, "k1")]


def test_broken_masks_are_reported_and_the_rest_goes_on(raw_dir, load_all):
    (raw_dir / "sequences" / SEQUENCE / "t0003.000" / "k0.person_mask.jpg").write_bytes(b"nothing")
    error, *examples = load_all()
    assert isinstance(error, ValueError) and "k0.person_mask.jpg" in str(error)
    assert keys(examples) == [(3, "k1"), (4, "k0"), (4, "k1")]
    write_jpeg(raw_dir / "sequences" / SEQUENCE / "t0003.000" / "k0.person_mask.jpg", gray_image(WIDTH // 2, HEIGHT // 2))
    error, *examples = load_all()
    assert "k0.person_mask.jpg has 640 x 480 px, its camera is calibrated for 1280 x 960" in str(error) and len(examples) == 3


@pytest.mark.parametrize(("changes", "message"), [
    ({"gender": "unknown"}, r"info.json: expected gender \(female or male\)"), ({"kinects": 4}, "info.json: .* a list kinects"),
    ({"kinects": [[0]]}, "info.json: .* a list kinects of numbers"),
    ({"config": "../../../../etc"}, r"info\.json: config: the path .* leaves"),
    ({"intrinsic": None}, "info.json: expected")])
def test_wrong_descriptions_are_errors(raw_dir, load_all, changes, message):
    write_info(raw_dir / "sequences" / SEQUENCE, **changes)
    with pytest.raises(ValueError, match=message):
        load_all()


def test_missing_and_broken_calibrations_are_errors(raw_dir, load_all):
    path = raw_dir / "calibs" / "Date03" / "config" / "2" / "config.json"
    for content, message in (({}, "is not a calibration of BEHAVE: KeyError.'rotation'"),
                             ({"rotation": [1] * 9, "translation": [0, 0, 0]}, "orthonormal")):
        write_json(path, content)
        with pytest.raises(ValueError, match=rf"Date03/config/2/config\.json.* {message}"):
            load_all()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"config/2/config\.json is missing\. Get .*virtualhumans"):
        load_all()
    path = raw_dir / "calibs" / "intrinsics" / "2" / "calibration.json"
    write_json(path.parents[2] / "Date03" / "config" / "2" / "config.json", {})
    for changes in ({"opencv": [640, 640, 640, 480]}, {"width": float("inf")}, {"fx": None, "opencv": None}):
        write_json(path, {"color": {**color(2), "width": WIDTH, "height": HEIGHT, "opencv": [0.0] * 12, **changes}})
        with pytest.raises(ValueError, match=r"intrinsics/2/calibration\.json is not a calibration"):
            load_all()


def test_splits_are_those_of_the_file(tmp_path, models, caplog):
    for name in ("b", "a", "c", "d"):
        write_info(tmp_path / "sequences" / name)
    write_json(tmp_path / "split.json", {"train": ["b", "a"], "test": ["d", "e"]})
    assert ADAPTER.list_units(tmp_path, "train", body_models=models) == ["a", "b"]
    assert ADAPTER.list_units(tmp_path, "validation", body_models=models) == []
    assert not caplog.records
    assert ADAPTER.list_units(tmp_path, "test", body_models=models) == ["d"]
    assert "test: 1 of the 2 sequences" in caplog.text and "e for one" in caplog.text
    for content in ({"train": ["b", "a"]}, {"train": [["b"]], "test": []}, {"train": [], "test": 5}, ["b"]):
        write_json(tmp_path / "split.json", content)
        with pytest.raises(ValueError, match=r"split\.json is not the split of BEHAVE"):
            ADAPTER.list_units(tmp_path, "train", body_models=models)


def test_missing_files_are_named(raw_dir, models):
    with pytest.raises(FileNotFoundError, match=r"female SMPL model is needed, SMPL_FEMALE\.pkl"):
        ADAPTER.list_units(raw_dir, "train", body_models=None)
    (raw_dir / "split.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"split\.json is missing\. Get .*virtualhumans"):
        ADAPTER.list_units(raw_dir, "train", body_models=models)
    with pytest.raises(FileNotFoundError, match=r"no file .*sequences/\*/info\.json\. Get .*virtualhumans"):
        ADAPTER.list_units(raw_dir / "calibs", "train", body_models=models)


def test_adapter_can_be_sent_to_a_worker():
    adapter = pickle.loads(pickle.dumps(ADAPTER))
    assert skeleton_from_dict(adapter.label_skeleton(None)).num_joints == 49 and adapter.detection_rule.min_iou == 0.5
