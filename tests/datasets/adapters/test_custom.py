"""The bring-your-own adapter: the documented example by hand, every convention and error, and the real 3D samples."""

import copy
import json
import pickle
import re

import cv2
import numpy as np
import pytest

from datasets.adapters import custom
from datasets.cropping import crop_example
from datasets.plausibility import rigid
from datasets.raw_example import RawExample
from datasets.registry import load_adapter
from posepile.geometry.camera import project, transform
from posepile.geometry.skeleton import load_skeleton, skeleton_from_dict
from tests.conftest import REPOSITORY
from tests.datasets.adapters.custom_conversion import (
    link_2d_samples_for_training,
    write_h36m_custom,
    write_mpi_inf_3dhp_custom,
)

ADAPTER = custom.ADAPTER
# A camera 4 m in front of the origin and 1 m above it, the world's z axis pointing up.
ROTATION, CENTER = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), np.array([0, -4000.0, 1000])
JOINT_NAMES = ["head", "pelvis", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"]
SKELETON = {"name": "rig_8", "joints": JOINT_NAMES, "edges": ["head-pelvis-left_hip-left_knee-left_ankle"],
            "mirror_pairs": [["left_hip", "right_hip"], ["left_knee", "right_knee"], ["left_ankle", "right_ankle"]]}
JOINTS3D = [[0.0, 0, 1650], [0, 0, 950], [100, 0, 920], [-100, 0, 920], [100, -150, 500], [-100, -150, 500],
            [100, 0, 80], [-100, 0, 80]]


def content_3d():
    """One image with one person, who faces the camera."""
    return {
        "skeleton": copy.deepcopy(SKELETON), "units": "mm",
        "cameras": {"front": {"intrinsics": [500, 500, 320, 240],
                              "world_to_camera": {"rotation": ROTATION.tolist(), "center": CENTER.tolist()}}},
        "images": [{"file": "a.png", "camera": "front", "people": [{"joints3d_world": copy.deepcopy(JOINTS3D)}]}]}


def content_2d():
    pixels = [[320 + 10 * i, 100 + 30 * i] for i in range(8)]
    return {"skeleton": copy.deepcopy(SKELETON), "images": [{"file": "a.png", "people": [{"joints2d": pixels}]}]}


def write(folder, content, name="annotations.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    for image in content.get("images", ()):
        if isinstance(image, dict) and image.get("file", "").startswith(("a", "b", "c", "front", "side", "photo")):
            path = folder / image["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                cv2.imwrite(str(path), np.full((480, 640, 3), 99, np.uint8))
    return folder


def load_all(folder, split="train"):
    return [item for unit in ADAPTER.list_units(folder, split) for item in ADAPTER.load_unit(folder, unit)]


def load_one(folder):
    (item,) = load_all(folder)
    if isinstance(item, ValueError):
        raise item
    return item


def projected(example):
    joints3d_camera = transform(np.float64(example.joints3d_world), example.camera.world_to_camera)
    return project(joints3d_camera, example.camera.intrinsics, example.camera.distortion)


def set_entry(content, path, value):
    """Sets content[a][b][c] for a path such as "images.0.file"; ... deletes the entry."""
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in parents:
        content = content[key]
    if value is ...:
        del content[last]
    else:
        content[last] = value


# ------------------------------------------------------------------------------------------------- the documentation


def documented_examples():
    text = (REPOSITORY / "docs" / "custom_dataset.md").read_text()
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]


def test_the_documented_example_by_hand(tmp_path):
    folder = write(tmp_path, documented_examples()[0])
    assert ADAPTER.label_kind(folder) == "3d"
    assert skeleton_from_dict(ADAPTER.label_skeleton(folder)).joint_names == tuple(JOINT_NAMES)
    (front,), (side,) = load_all(folder, "train"), load_all(folder, "validation")
    assert load_all(folder, "test") == []
    # front: (0, 0.05, 4) m -> 500 * 0.05 / 4 = 6.25 below the principal point; the head 0.65 m above it; left hip right
    np.testing.assert_allclose(projected(front)[:3], [[320, 158.75], [320, 246.25], [332.5, 250]], atol=1e-3)
    assert np.isnan(front.joints3d_world[7]).all()
    np.testing.assert_allclose(front.joints3d_world[6], [100, 0, 80])
    np.testing.assert_allclose(front.camera.world_up, [0, 0, 1])
    assert front.provenance == {"source": "front/000017.jpg", "sequence": "standing", "frame": 17, "camera": "front",
                                "subject": "anna"}
    # side: x is the world's y, depth 4 m minus the world's x; the left knee, 20 mm to the front, 3.9 m away
    np.testing.assert_allclose(transform(np.float64(side.joints3d_world), side.camera.world_to_camera)[[1, 4]],
                               [[0, 50, 4000], [-20, 500, 3900]], atol=1e-3)
    np.testing.assert_array_equal(side.bbox, [270, 120, 100, 260])
    assert np.isnan(side.joints3d_world[[3, 5, 7]]).all()
    for example in (front, side):
        crop_example(example)


def test_the_documented_2d_example(tmp_path):
    folder = write(tmp_path, documented_examples()[1])
    example = load_one(folder)
    assert ADAPTER.label_kind(folder) == "2d" and example.camera is None and example.joints3d_world is None
    skeleton = load_skeleton("coco_17")
    np.testing.assert_array_equal(example.joints2d[[skeleton.index("nose"), skeleton.index("right_shoulder")]],
                                  [[311, 92], [274, 163]])
    assert np.isfinite(example.joints2d).all(axis=1).sum() == 3
    np.testing.assert_allclose(example.bbox, [268.15, 86.675, 89.7, 81.65], atol=1e-3)  # 78 x 71 px, times 1.15


# ------------------------------------------------------------------------------------------------------- conventions


def pose(kind, factor=1.0):
    """The same camera in every form; factor: mm -> unit of the file."""
    translation, center = (-factor * ROTATION @ CENTER).tolist(), (factor * CENTER).tolist()
    to_world = ROTATION.T.tolist()
    return {
        "translation": {"world_to_camera": {"rotation": ROTATION.tolist(), "translation": translation}},
        "center": {"world_to_camera": {"rotation": ROTATION.tolist(), "center": center}},
        "rotation vector": {"world_to_camera": {"rotation": [np.pi / 2, 0, 0], "translation": translation}},
        "column vector": {"world_to_camera": {"rotation": ROTATION.tolist(),
                                              "translation": [[t] for t in translation]}},
        "camera to world": {"camera_to_world": {"rotation": to_world, "translation": center}},
        "camera to world, center": {"camera_to_world": {"rotation": to_world, "center": center}},
        "3 x 4": {"world_to_camera": np.column_stack([ROTATION, translation]).tolist()},
        "4 x 4": {"camera_to_world": np.vstack([np.column_stack([to_world, center]), [0, 0, 0, 1]]).tolist()},
        # OpenGL: the camera's y axis points up and its z axis backward
        "opengl": {"axes": "opengl", "camera_to_world": {
            "rotation": (ROTATION.T @ np.diag([1, -1, -1])).tolist(), "translation": center}},
    }[kind]


@pytest.mark.parametrize("units", ["mm", "cm", "m"])
@pytest.mark.parametrize("kind", ["translation", "center", "rotation vector", "column vector", "camera to world",
                                  "camera to world, center", "3 x 4", "4 x 4", "opengl"])
def test_every_form_of_a_pose_gives_the_same_example(tmp_path, kind, units):
    factor = {"mm": 1.0, "cm": 0.1, "m": 0.001}[units]
    content = content_3d()
    content["units"] = units
    content["cameras"]["front"] = {"intrinsics": [500, 500, 320, 240], **pose(kind, factor)}
    content["images"][0]["people"][0]["joints3d_world"] = (factor * np.array(JOINTS3D)).tolist()
    example = load_one(write(tmp_path, content))
    np.testing.assert_allclose(example.joints3d_world, JOINTS3D, atol=1e-3)
    np.testing.assert_allclose(example.camera.world_to_camera[:3, :3], ROTATION, atol=1e-9)
    np.testing.assert_allclose(example.camera.world_to_camera[:3, 3], [0, 1000, 4000], atol=1e-9)
    np.testing.assert_allclose(projected(example)[1], [320, 246.25], atol=1e-3)


def test_rig_and_joints_may_have_different_units(tmp_path):
    content = content_3d()
    content["cameras"]["front"] = {"intrinsics": [500, 500, 320, 240], "units": "m", **pose("center", 0.001)}
    np.testing.assert_allclose(projected(load_one(write(tmp_path, content)))[1], [320, 246.25], atol=1e-3)


@pytest.mark.parametrize("axes", ["opencv", "opengl"])
@pytest.mark.parametrize("has_pose", [True, False])
def test_joints_in_the_camera_frame(tmp_path, axes, has_pose):
    content = content_3d()
    joints3d_camera = (np.array(JOINTS3D) - CENTER) @ ROTATION.T
    flip = np.diag([1.0, -1, -1]) if axes == "opengl" else np.eye(3)
    content["cameras"]["front"] = {"intrinsics": [500, 500, 320, 240], "axes": axes}
    if has_pose:
        content["cameras"]["front"] |= pose("opengl" if axes == "opengl" else "center")
    content["images"][0]["people"] = [{"joints3d_camera": (joints3d_camera @ flip).tolist()}]
    example = load_one(write(tmp_path, content))
    np.testing.assert_allclose(example.joints3d_world, JOINTS3D if has_pose else joints3d_camera, atol=1e-3)
    np.testing.assert_allclose(projected(example)[:2], [[320, 158.75], [320, 246.25]], atol=1e-3)


def test_a_camera_may_be_given_in_its_image(tmp_path):
    content = content_3d()
    content["images"][0]["camera"] = content["cameras"].pop("front")
    example = load_one(write(tmp_path, content))
    np.testing.assert_allclose(projected(example)[1], [320, 246.25], atol=1e-3)
    assert "camera" not in example.provenance


@pytest.mark.parametrize(("value", "direction"), [
    ("z", [0, 0, 1]), ("-y", [0, -1, 0]), ("+x", [1, 0, 0]), ([0, 3, 4], [0, 0.6, 0.8])])
def test_world_up(tmp_path, value, direction):
    content = {**content_3d(), "world_up": value}
    np.testing.assert_allclose(load_one(write(tmp_path, content)).camera.world_up, direction)


def test_matrix_intrinsics_with_distortion(tmp_path):
    content = content_3d()
    content["cameras"]["front"] |= {"intrinsics": [[500, 0, 320], [0, 400, 240], [0, 0, 1]],
                                    "distortion": [0.4, 0, 0, 0]}
    pixels = projected(load_one(write(tmp_path, content)))
    # head: y / z = -0.1625, times 1 + 0.4 * 0.1625^2
    np.testing.assert_allclose(pixels[0], [320, 240 - 400 * 0.1625 * (1 + 0.4 * 0.1625 ** 2)], atol=1e-3)


def test_default_box_is_the_visible_part_of_the_enlarged_joints(tmp_path):
    example = load_one(write(tmp_path, content_3d()))
    # x 320 -+ 12.5 / (at 3.85 m: 12.99), y 158.75 .. 355: 1.15 times as large about the centre
    np.testing.assert_allclose(example.bbox, [305.065, 144.031, 29.870, 225.687], atol=2e-3)
    content = content_3d()
    content["cameras"]["front"]["intrinsics"] = [500, 500, 320, 100]  # moves everything up by 140 px: head at 18.75
    np.testing.assert_allclose(load_one(write(tmp_path, content)).bbox[[1, 3]], [4.031, 225.687], atol=2e-3)
    content["cameras"]["front"]["intrinsics"] = [500, 500, 320, 70]
    np.testing.assert_allclose(load_one(write(tmp_path, content)).bbox[[1, 3]], [-0.5, 200.218], atol=2e-3)


def test_masks_may_be_black_and_white_or_zero_and_one(tmp_path):
    content = content_3d()
    content["images"][0]["people"][0]["mask"] = "masks/a.png"
    write(tmp_path, content)
    (tmp_path / "masks").mkdir()
    expected = np.zeros((480, 640), bool)
    expected[140:400, 300:340] = True
    for white in (255, 1):
        cv2.imwrite(str(tmp_path / "masks" / "a.png"), np.uint8(white * expected))
        np.testing.assert_array_equal(load_one(tmp_path).mask, expected)


def test_several_files_share_what_dataset_json_says(tmp_path):
    general = content_3d()
    (image,) = general.pop("images")
    write(tmp_path, {**general, "split": "validation"}, "dataset.json")
    write(tmp_path, {"images": [image, {**image, "file": "b.png", "split": "train"}]}, "walk.json")
    other = {"intrinsics": [500, 500, 300, 240], **pose("center")}
    write(tmp_path, {"images": [{**image, "camera": "other", "file": "c.png"}], "cameras": {"other": other}},
          "run.json")
    assert [unit["file"] for unit in ADAPTER.list_units(tmp_path, "validation")] == ["run.json", "walk.json"]
    run, walk = load_all(tmp_path, "validation")
    assert [e.provenance["sequence"] for e in (run, walk)] == ["run", "walk"]
    np.testing.assert_allclose([projected(run)[1, 0], projected(walk)[1, 0]], [300, 320], atol=1e-3)
    assert [e.image.name for e in load_all(tmp_path, "train")] == ["b.png"]


def test_units_are_runs_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(custom, "IMAGES_PER_UNIT", 2)
    content = content_3d()
    content["images"] = [{**content["images"][0], "file": f"a{i}.png", "split": "test" if i == 1 else "train"}
                         for i in range(6)]
    write(tmp_path, content)
    units = ADAPTER.list_units(tmp_path, "train")
    assert [unit["images"] for unit in units] == [[0, 2], [3, 4], [5]]
    assert json.loads(json.dumps(units)) == units
    assert [e.provenance["frame"] for e in load_all(tmp_path, "train")] == [0, 2, 3, 4, 5]


def test_adapter_can_be_sent_to_a_worker(tmp_path):
    assert pickle.loads(pickle.dumps(ADAPTER)).label_kind(write(tmp_path, content_2d())) == "2d"


# ------------------------------------------------------------------------------------------------------------ errors

WHERE = r"annotations\.json: "
PERSON = r"annotations\.json: images\[0\]\.people\[0\]"


@pytest.mark.parametrize(("path", "value", "message"), [
    ("imges", [], WHERE + r"unknown entry 'imges'\. Did you mean 'images'\?"),
    ("skeleton", ..., r'annotations\.json: the entry "skeleton" is missing\. docs/custom_dataset\.md'),
    ("images", ..., r'the entry "images" is missing'),
    ("skeleton", "h36m17", WHERE + r"skeleton: expected one of .*h36m_17.*Did you mean 'h36m_17'\?"),
    ("skeleton", 17, WHERE + "skeleton: expected the name of a format or a table"),
    ("skeleton.mirror_pairs", [["left_hip", "right_hp"]], WHERE + "skeleton: .*'right_hp'"),
    ("units", "inches", WHERE + "units: expected one of mm, cm, m; got 'inches'"),
    ("units", ..., WHERE + r"cameras\.front: the unit of its position is missing.*\"units\""),
    ("split", "val", WHERE + r"split: expected one of train, validation, test; got 'val'"),
    ("world_up", [0, 0, 0], WHERE + r"world_up: \(0, 0, 0\) is no direction"),
    ("world_up", "up", WHERE + "world_up: expected 3 finite numbers, got 'up'"),
    ("images", {}, WHERE + r"images must be a list"),
    ("images.0.split", "tset", r"images\[0\]\.split: .*Did you mean 'test'\?"),
    ("images.0.camera", "fornt", r"images\[0\]\.camera: no camera is called 'fornt'\. Did you mean 'front'\?"),
    ("images.0.file", "../a.png", r"images\[0\]\.file: the path '\.\./a\.png' leaves the folder"),
    ("images.0.file", "/etc/passwd", r"images\[0\]\.file: the path '/etc/passwd' leaves the folder"),
    ("images.0.file", ..., r"images\[0\]\.file: expected a file path"),
    ("images.0.file", "missing.png", r"none of its 1 images exists.*missing\.png"),
    ("images.0.people", {"joints3d_world": []}, r"images\[0\]\.people must be a list"),
    ("images.0", "a.png", r"images\[0\]: expected a table"),
    ("cameras.front.intrinsics", ..., r"cameras\.front: intrinsics are missing"),
    ("cameras.front.intrinsics", [500, 500, 320], r"cameras\.front\.intrinsics: expected 3 x 3 or 4 numbers, got 3"),
    ("cameras.front.intrinsics", [500, 500, "320", 240], r"intrinsics: expected 3 x 3 or 4 finite numbers.*'320'"),
    ("cameras.front.intrinsics", [500, 500, float("nan"), 240], r"intrinsics: expected 3 x 3 or 4 finite numbers"),
    ("cameras.front.intrinsics", [500, float("inf"), 320, 240], r"intrinsics: expected 3 x 3 or 4 finite numbers"),
    ("cameras.front.intrinsics", [500, True, 320, 240], r"intrinsics: expected 3 x 3 or 4 finite numbers"),
    ("cameras.front.intrinsics", [[500, 0], [0, 500, 1]], r"intrinsics: .*lists of unequal lengths"),
    ("cameras.front.intrinsics", [[500, 0, 0], [0, 500, 0], [320, 240, 1]], r"front\.intrinsics: .*transposed"),
    ("cameras.front.intrinsics", [-500, 500, 320, 240], r"front\.intrinsics: .*fx, fy > 0"),
    ("cameras.front.distortion", [0.1, 0.2], r"front\.distortion: expected 4 or 5 or 8 numbers, got 2"),
    ("cameras.front.axes", "unity", r"front\.axes: expected one of opencv, opengl"),
    ("cameras.front.camera_to_world", [], r"front has both world_to_camera and camera_to_world"),
    ("cameras.front.world_to_camera.center", ..., r"world_to_camera: needs a rotation and either"),
    ("cameras.front.world_to_camera.translation", [0, 0, 0], r"world_to_camera: needs a rotation and either"),
    ("cameras.front.world_to_camera.rotation", np.diag([1, 1, 2]).tolist(), r"world_to_camera: .*not orthonormal"),
    ("cameras.front.world_to_camera.rotation", np.diag([1, 1, -1]).tolist(), r"world_to_camera: .*determinant -1"),
    ("cameras.front.world_to_camera", rigid(np.eye(3), [1, 2, 3]).T.tolist(), r"the last row must be 0, 0, 0, 1"),
    ("cameras.front.rotation", [], r"cameras\.front: unknown entry 'rotation'"),
])
def test_wrong_files_are_refused_with_file_and_field(tmp_path, path, value, message):
    content = content_3d()
    set_entry(content, path, value)
    folder = write(tmp_path, content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ADAPTER.list_units(folder, "train")


def replaced(index, value):
    joints = copy.deepcopy(JOINTS3D)
    joints[index] = value
    return joints


@pytest.mark.parametrize(("changes", "message"), [
    ({"joints": []}, r": unknown entry 'joints'"),
    ({"joints3d_world": JOINTS3D[:7]}, r"\.joints3d_world: got 7 joints, but rig_8 has 8: head, pelvis, .*Write null"),
    ({"joints3d_world": replaced(2, [1, 2])}, r"\.joints3d_world\[2\] \(left_hip\): expected 3 numbers, got 2"),
    ({"joints3d_world": replaced(2, [1, 2, "3"])}, r"\.joints3d_world\[2\] \(left_hip\): expected 3 finite numbers"),
    ({"joints3d_world": replaced(2, [1, 2, float("nan")])}, r"\.joints3d_world\[2\] .*Write null"),
    ({"joints3d_world": replaced(2, [1, 2, float("-inf")])}, r"\.joints3d_world\[2\] .*finite numbers"),
    ({"joints3d_world": {"left_hop": [1, 2, 3]}}, r"\.joints3d_world: unknown .*Did you mean 'left_hip'"),
    ({"joints3d_world": "none"}, r"\.joints3d_world: expected a list of joints or a table"),
    ({"joints3d_world": [None] * 8}, r"\.joints3d_world: no joint has a label"),
    ({"joints3d_world": JOINTS3D[:6] + [[0, 0, 0]] * 2}, r".*: 2 joints are exactly at the origin\. Write null"),
    ({"joints3d_camera": JOINTS3D}, r" has both joints3d_world and joints3d_camera"),
    ({"bbox": [300, 140, -10, 200]}, r"\.bbox: expected x, y, width, height, both sizes positive"),
    ({"bbox": [300, 140, 40]}, r"\.bbox: expected 4 numbers, got 3"),
    ({"bbox": [10, 10, 40, 100]}, r"\.bbox: the person's joints, .* are not in the box"),
    ({"bbox": [305, 145, 335, 370]}, r"\.bbox: .* looks like two corners"),
    ({"joints2d": [[600, 20]] * 8}, r": its 3D joints project \d+ px \(median\) away from its joints2d"),
    ({"mask": "no.png"}, r"\.mask: .*no\.png is missing"),
    ({"mask": "../no.png"}, r"\.mask: the path '\.\./no\.png' leaves the folder"),
])
def test_wrong_people_are_reported_one_by_one(tmp_path, changes, message):
    content = content_3d()
    (good,) = content["images"][0]["people"]
    content["images"][0]["people"] = [{**good, **changes}, good]
    wrong, right = load_all(write(tmp_path, content))
    assert isinstance(right, RawExample)
    with pytest.raises(ValueError, match=PERSON + message):
        raise wrong


def test_kinds_are_not_mixed(tmp_path):
    content = content_3d()
    content["images"][0]["people"].append({"joints2d": [[320, 200 + i] for i in range(8)]})
    _, wrong = load_all(write(tmp_path, content))
    assert re.search(r"people\[1\] is labelled in 2D only, but the first person of the folder in 3D", str(wrong))


def test_3d_labels_need_a_camera_and_a_unit(tmp_path):
    content = content_3d()
    del content["images"][0]["camera"]
    assert "has 3D joints, but its image has no camera" in str(load_all(write(tmp_path, content))[0])
    content = content_3d()
    del content["cameras"]["front"]["world_to_camera"]
    assert "joints3d_world: its camera has no pose" in str(load_all(write(tmp_path, content))[0])
    del content["units"]
    content["images"][0]["people"] = [{"joints3d_camera": JOINTS3D}]
    assert "joints3d_camera: the unit is missing" in str(load_all(write(tmp_path, content))[0])


@pytest.mark.parametrize(("true_kind", "read_as", "suggested"), [
    ("camera to world", "world_to_camera with rotation and translation", "camera_to_world, axes opencv"),
    ("translation", "camera_to_world", "world_to_camera with rotation and translation, axes opencv"),
    ("center", "world_to_camera with rotation and translation",
     "world_to_camera with rotation and center, axes opencv"),
    ("opengl", "camera_to_world", "camera_to_world, axes opengl"),
])
def test_a_wrong_convention_is_named(tmp_path, true_kind, read_as, suggested):
    """A rig whose poses are of one kind, given under the name of another one."""
    true = next(value for key, value in pose(true_kind).items() if key != "axes")
    vector = true.get("translation", true.get("center"))
    key = "camera_to_world" if read_as == "camera_to_world" else "world_to_camera"
    content = content_3d()
    content["cameras"]["front"] = {"intrinsics": [500, 500, 320, 240],
                                   key: {"rotation": true["rotation"], "translation": vector}}
    (error,) = load_all(write(tmp_path, content))
    text = str(error)
    assert re.search(PERSON + r"\.joints3d_world: 0 of 8 joints are in the picture of 640 x 480 px", text)
    assert f"was read as {read_as}, axes opencv" in text
    assert suggested in text.split("It would fit as")[1]


def test_camera_frame_of_other_axes_is_named(tmp_path):
    content = content_3d()
    joints3d_gl = (np.array(JOINTS3D) - CENTER) @ ROTATION.T @ np.diag([1.0, -1, -1])
    content["images"][0]["people"] = [{"joints3d_camera": joints3d_gl.tolist()}]
    (error,) = load_all(write(tmp_path, content))
    assert re.search(r"joints3d_camera: 0 of 8 joints.*8 are behind the camera.* fit as: axes opengl\.", str(error))


def test_people_elsewhere_are_not_blamed_on_the_convention(tmp_path):
    content = content_3d()
    elsewhere = np.array([30_000, 9000, 20_000]) + JOINTS3D
    content["images"][0]["people"] = [{"joints3d_world": elsewhere.tolist()}]
    (error,) = load_all(write(tmp_path, content))
    assert "No other convention fits" in str(error)


def test_a_unit_mix_up_stops_the_whole_file(tmp_path):
    content = {**content_3d(), "units": "m"}
    with pytest.raises(ValueError, match=WHERE + r'images\[0\] to images\[0\]: read in m, .*set units to "mm"'):
        load_all(write(tmp_path, content))


def test_swapped_left_and_right_stop_the_whole_file(tmp_path):
    content = content_3d()
    content["images"] *= 8
    write(tmp_path, content)
    assert len(load_all(tmp_path)) == 8
    other_side = {"left": "right", "right": "left"}
    content["skeleton"]["joints"] = [re.sub("left|right", lambda side: other_side[side[0]], joint)
                                     for joint in JOINT_NAMES]
    with pytest.raises(ValueError, match=r"images\[0\] to images\[7\]: 16 of 16 bent knees and feet point to the back"):
        load_all(write(tmp_path, content))


@pytest.mark.parametrize(("joints2d", "message"), [
    ([[0.1 * i, 0.05 * i + 0.1] for i in range(8)], r"\.joints2d: all joints lie between 0 and 1\.5; expected px"),
    ([[3200 + 100 * i, 1000 + i] for i in range(8)], r"\.joints2d: 8 of 8 joints lie far outside of the image"),
    ([[0, 0]] * 3 + [[100 + i, 100 + 9 * i] for i in range(5)], r"\.joints2d: 3 joints are exactly at the origin"),
    ([[5, 6]] + [None] * 7, r" has too few joints in or near the image to make a box from"),
])
def test_wrong_2d_labels(tmp_path, joints2d, message):
    content = content_2d()
    content["images"][0]["people"][0]["joints2d"] = joints2d
    (error,) = load_all(write(tmp_path, content))
    assert re.search(PERSON + message, str(error))


def test_bad_images_are_reported_once_each(tmp_path):
    content = content_2d()
    (image,) = content["images"]
    content["images"] = [image, {**image, "file": "b.png"}, {**image, "file": "missing.png"}]
    write(tmp_path, content)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    good, truncated, missing = load_all(tmp_path)
    assert isinstance(good, RawExample)
    assert re.search(r"images\[1\]: image .*b\.png", str(truncated)) and "decoded" in str(truncated)
    assert re.search(r"images\[2\]: image .*missing\.png cannot be read", str(missing))


def test_image_size_is_checked(tmp_path):
    content = content_3d()
    content["cameras"]["front"]["image_size"] = [640, 480]
    load_one(write(tmp_path, content))
    content["cameras"]["front"]["image_size"] = [1280, 960]
    assert re.search(r"images\[0\] \(a\.png\): the image is 640 x 480 px, but image_size of its camera is 1280 x 960",
                     str(load_all(write(tmp_path, content))[0]))
    content["cameras"]["front"]["image_size"] = [480, 640]
    assert "EXIF" in str(load_all(write(tmp_path, content))[0])


def test_wrong_masks(tmp_path):
    content = content_3d()
    content["images"][0]["people"][0]["mask"] = "mask.png"
    write(tmp_path, content)
    for mask, message in ((np.zeros((480, 640), np.uint8), r"\.mask: .*mask\.png is black"),
                          (np.ones((640, 480), np.uint8), r"\.mask: .*mask\.png is 480 x 640 px, its image 640 x 480")):
        cv2.imwrite(str(tmp_path / "mask.png"), mask)
        assert re.search(PERSON + message, str(load_all(tmp_path)[0]))


def test_folders_without_annotations_or_people_or_one_skeleton(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no annotation file \(\*\.json\)"):
        ADAPTER.list_units(tmp_path, "train")
    with pytest.raises(ValueError, match="list no people"):
        ADAPTER.label_kind(write(tmp_path / "empty", {**content_2d(), "images": []}))
    write(tmp_path / "two", content_2d(), "a.json")
    write(tmp_path / "two", {**content_2d(), "skeleton": "coco_17"}, "b.json")
    with pytest.raises(ValueError, match=r"b\.json: its skeleton, coco_17, differs from rig_8 in a\.json"):
        ADAPTER.list_units(tmp_path / "two", "train")


# ------------------------------------------------------------------------------------------------------- real samples


@pytest.mark.parametrize(("write_custom", "max_mean_px", "max_px", "skeleton_name"), [
    (write_h36m_custom, 0.3, 0.3, "h36m_17"), (write_mpi_inf_3dhp_custom, 1.0, 2.5, "mpi_inf_3dhp_17")])
def test_real_3d_samples_project_onto_their_2d_labels(real_samples, tmp_path, write_custom, max_mean_px, max_px,
                                                      skeleton_name):
    write_custom(real_samples, tmp_path)
    assert ADAPTER.label_kind(tmp_path) == "3d" and ADAPTER.label_skeleton(tmp_path)["name"] == skeleton_name
    examples = load_all(tmp_path)
    labels = json.loads((tmp_path / "annotations.json").read_text())["images"]
    assert len(examples) == len(labels) == 3
    for example, label in zip(examples, labels, strict=True):
        pixels = np.array([[np.nan, np.nan] if p is None else p for p in label["people"][0]["joints2d"]])
        distance = np.linalg.norm(projected(example) - pixels, axis=1)
        assert np.isfinite(distance).sum() >= 15
        assert np.nanmean(distance) <= max_mean_px and np.nanmax(distance) <= max_px
        x, y, width, height = example.bbox
        inside = (pixels >= [x - 1, y - 1]) & (pixels <= [x + width + 1, y + height + 1])
        assert inside[np.isfinite(distance)].all()
        crop = crop_example(example)
        in_crop = project(np.float64(crop.joints3d), np.float64(crop.intrinsics))
        bx, by, bw, bh = crop.bbox
        near = (in_crop >= [bx - 0.15 * bw, by - 0.15 * bh]) & (in_crop <= [bx + 1.15 * bw, by + 1.15 * bh])
        assert near[np.isfinite(distance)].all()


def test_real_world_frame_agrees_with_the_published_one(real_samples, tmp_path):
    """Human3.6M publishes the same joints in the world's frame, in h36m_coco.json."""
    write_h36m_custom(real_samples, tmp_path)
    published = json.loads((real_samples / "h36m" / "h36m_coco.json").read_text())
    file_names = {image["id"]: image["file_name"] for image in published["images"]}
    world = {file_names[label["image_id"]]: 1000 * np.reshape(label["keypoints_3d"], (17, 4))[:, :3]
             for label in published["annotations"]}
    for example in load_all(tmp_path):
        np.testing.assert_allclose(example.joints3d_world, world[example.image.name], atol=0.01)


def test_real_2d_samples_as_training_splits(real_samples, tmp_path):
    counts = {}
    for name, raw_dir in link_2d_samples_for_training(real_samples, tmp_path).items():
        adapter = load_adapter(name)
        assert adapter.list_units(raw_dir, "validation") == []
        examples = [e for unit in adapter.list_units(raw_dir, "train") for e in adapter.load_unit(raw_dir, unit)]
        counts[name] = len(examples)
        for example in examples:
            crop = crop_example(example)
            np.testing.assert_array_equal(np.isfinite(crop.joints2d), np.isfinite(example.joints2d))
    assert counts == {"coco": 7, "mpii": 3, "posetrack": 3}
