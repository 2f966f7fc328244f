"""The 3DOH50K adapter on entries in the authors' layout: one JSON file, pictures of painted people, masks in channels."""

import json
import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import threedoh50k
from datasets.prepare import prepare
from datasets.registry import load_adapter
from posepile.data.records import PreparedDataset, decode_mask
from posepile.geometry.camera import project, transform
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_jpeg

ADAPTER = threedoh50k.ADAPTER
SKELETON = load_skeleton("3doh_14")
NAMES = ["right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
         "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head"]
ORDER = [SKELETON.joint_names.index(name) for name in NAMES]
WIDTH, HEIGHT = 800, 640
INTRINSICS = np.array([[612.0, 0, 391.4], [0, 610.5, 330.2], [0, 0, 1]])
ANGLE, TILT = 0.5, 0.2  # radians; of the camera to the right and down, in a world with y down
ROTATION = (np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])
            @ np.array([[np.cos(ANGLE), 0, -np.sin(ANGLE)], [0, 1, 0], [np.sin(ANGLE), 0, np.cos(ANGLE)]]))
TRANSLATION = np.array([0.3, -0.2, 1.1])  # m


def truth_camera(index):
    """[14, 3] metres, in the camera's frame, in the order of the files."""
    return body(SKELETON, (-0.2 + 0.1 * index, -0.05, 2.9))[ORDER]


def truth_world(index):
    """[14, 3] mm: R X + t is the point in the camera's frame."""
    return 1000 * (truth_camera(index) - TRANSLATION) @ ROTATION


def make_entry(index, units_per_metre=7.0, folder="trainset", **changes):
    """`changes` replaces fields; None leaves them out."""
    joints = truth_camera(index)
    extrinsics = np.eye(4)
    extrinsics[:3, :3], extrinsics[:3, 3] = ROTATION, units_per_metre * TRANSLATION
    rays = joints @ INTRINSICS.T
    entry = {
        "extri": extrinsics.tolist(), "intri": INTRINSICS.tolist(), "img_path": f"images\\{index:05d}.jpg",
        "mask_path": f"masks\\{index:05d}.png" if folder == "trainset" else None,
        "bbox": [[200.5, 60.0], [520.25, 600.0]], "betas": [[0.0] * 10], "pose": [[0.0] * 72], "trans": [[0.0] * 3],
        "scale": [units_per_metre], "smpl_joints_2d": [[0.0] * 2] * 24, "smpl_joints_3d": [[0.0] * 3] * 24,
        "lsp_joints_2d": (rays[:, :2] / rays[:, 2:]).tolist(), "lsp_joints_3d": (units_per_metre * joints).tolist(), **changes}
    return {key: value for key, value in entry.items() if value is not None}


def write_set(raw_dir, entries, folder="trainset", masks=True):
    """The entries are numbered in their order; so are the pictures."""
    (raw_dir / folder).mkdir(parents=True, exist_ok=True)
    (raw_dir / folder / "annots.json").write_text(json.dumps({f"{i:05d}": entry for i, entry in enumerate(entries)}))
    for i in range(len(entries)):
        image, mask = gray_image(WIDTH, HEIGHT), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        paint(image, project(truth_camera(i) * 1000, INTRINSICS))
        write_jpeg(raw_dir / folder / "images" / f"{i:05d}.jpg", image)
        mask[100:300, 250:450, 0] = 255  # in two parts: something stands before the person
        mask[400:500, 250:450, 0] = 32
        mask[500:550, 250:450, 0] = 31
        mask[..., 1] = 255  # something else
        if masks:
            (raw_dir / folder / "masks").mkdir(exist_ok=True)
            assert cv2.imwrite(str(raw_dir / folder / "masks" / f"{i:05d}.png"), mask[..., ::-1])


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def test_prepared_joints_lie_on_their_dots(tmp_path):
    raw_dir = tmp_path / "raw"
    write_set(raw_dir, [make_entry(0), make_entry(1, 7.4), make_entry(2)])
    write_set(raw_dir, [make_entry(0, folder="testset")], "testset", masks=False)
    manifest = prepare(load_adapter("3doh50k"), raw_dir, tmp_path / "data", workers=1, progress=False)
    assert manifest["name"] == "3doh50k" and manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"]
    dataset = PreparedDataset(tmp_path / "data" / "3doh50k")
    assert {split: dataset.num_examples(split) for split in dataset.splits()} == {"train": 3, "test": 1}
    for split in dataset.splits():
        for i in range(dataset.num_examples(split)):
            example = dataset.read(split, i)
            check_crop(example, truth_world(i))
            assert example.provenance == {"source": f"{split}set/images/{i:05d}.jpg", "annotation": f"{i:05d}"}
            assert (example.mask_rle is None) == (split == "test")
    mask = decode_mask(dataset.read("train", 0).mask_rle, *dataset.read("train", 0).decode_image().shape[:2])
    assert 0.05 < mask.mean() < 0.6


@pytest.mark.parametrize(("units_per_metre", "stated", "factor"), [
    (7.4, [7.4], 1), (6.1, 6.1, 1), (7.0, [1.0], 1), (7.0, [12.3], 1), (7.0, None, 1), (7.0, "large", 1),
    (7.0, [float("nan")], 1), (7.0, [7.7], 7 / 7.7), (7.0, [], 1), (7.0, 10**400, 1)])
def test_an_entry_has_its_own_scale_if_that_is_close_to_seven(tmp_path, units_per_metre, stated, factor):
    write_set(tmp_path, [make_entry(0, units_per_metre, scale=stated)])
    (example,) = load_all(tmp_path)
    joints3d_camera = transform(example.joints3d_world, example.camera.world_to_camera)
    np.testing.assert_allclose(joints3d_camera, 1000 * factor * truth_camera(0))
    np.testing.assert_allclose(example.camera.world_to_camera[:3, 3], 1000 * factor * TRANSLATION)


def test_joints_in_the_world_are_recognised(tmp_path):
    in_world = 7 * truth_world(1) / 1000
    write_set(tmp_path, [make_entry(0), make_entry(1, lsp_joints_3d=in_world.tolist())])
    for i, example in enumerate(load_all(tmp_path)):
        np.testing.assert_allclose(example.joints3d_world, truth_world(i), atol=1e-6)


def test_box_mask_and_up(tmp_path):
    write_set(tmp_path, [make_entry(0)])
    (example,) = load_all(tmp_path)
    np.testing.assert_array_equal(example.bbox, [200.5, 60, 319.75, 540])
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[100:300, 250:450] = expected[400:500, 250:450] = True
    np.testing.assert_array_equal(example.mask, expected)
    np.testing.assert_allclose(example.camera.up, [0, -1, 0])


def test_a_person_without_a_mask_is_kept(tmp_path):
    write_set(tmp_path, [make_entry(0), make_entry(1, mask_path=None)])
    (tmp_path / "trainset" / "masks" / "00000.png").unlink()
    assert [example.mask for example in load_all(tmp_path)] == [None, None]


@pytest.mark.parametrize(("changes", "message"), [
    ({"intri": None}, "intri: expected [3, 3] numbers"),
    ({"lsp_joints_3d": [[1.0, 2.0, 7.0]] * 24}, "lsp_joints_3d has shape [24, 3]; expected [14, 3]"),
    ({"lsp_joints_3d": [[float("nan")] * 3] * 14}, "lsp_joints_3d has shape [14, 3]; expected [14, 3] finite numbers"),
    ({"lsp_joints_2d": [[1.0, 2.0], [3.0]]}, "lsp_joints_2d: expected [14, 2] numbers"),
    ({"lsp_joints_2d": [[10**400, 2.0]] * 14}, "lsp_joints_2d: expected [14, 2] numbers; problem: OverflowError"),
    ({"lsp_joints_2d": [[20.0, 30.0]] * 14}, "lsp_joints_3d project away from lsp_joints_2d"),
    ({"bbox": [[200, 600], [500, 60]]}, "bbox is [[200.0, 600.0], [500.0, 60.0]]; expected [[left, top], [right, bottom]]"),
    ({"extri": np.diag([1.0, 1, -1, 1]).tolist()}, "intri, extri: the rotation"),
    ({"img_path": "images/99999.jpg"}, "images/99999.jpg is missing. Get 3DOH50K"),
    ({"img_path": "..\\elsewhere.jpg"}, "img_path: the path '..\\\\elsewhere.jpg' leaves the folder"),
    ({"img_path": None}, "img_path: expected a file path"),
    ({"mask_path": "/etc/mask.png"}, "mask_path: the path '/etc/mask.png' leaves the folder"),
])
def test_a_wrong_entry_is_named_and_the_rest_read(tmp_path, changes, message):
    write_set(tmp_path, [make_entry(0), make_entry(1, **changes), make_entry(2)])
    first, error, last = load_all(tmp_path)
    assert first.provenance["annotation"] == "00000" and last.provenance["annotation"] == "00002"
    assert isinstance(error, ValueError) and "trainset/annots.json: entry 00001: " in str(error) and message in str(error)


def test_joints_that_project_a_few_pixels_away_pass(tmp_path):
    joints2d = np.array(make_entry(0)["lsp_joints_2d"])
    write_set(tmp_path, [make_entry(0, lsp_joints_2d=(joints2d + 3).tolist()),
                         make_entry(1, lsp_joints_2d=(joints2d + 100).tolist())])
    example, error = load_all(tmp_path)
    np.testing.assert_allclose(example.joints3d_world, truth_world(0), atol=1e-6)
    assert "the camera's frame (" in str(error) and "expected less than 5.0 px" in str(error)


def test_unreadable_mask_is_reported(tmp_path):
    write_set(tmp_path, [make_entry(0), make_entry(1)])
    (tmp_path / "trainset" / "masks" / "00000.png").write_bytes(b"\0" * 99)
    error, _ = load_all(tmp_path)
    assert "annots.json: entry 00000: " in str(error) and "masks/00000.png (99 bytes) cannot be decoded" in str(error)


def test_units_are_runs_of_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(threedoh50k, "ENTRIES_PER_UNIT", 2)
    write_set(tmp_path, [make_entry(i) for i in range(3)])
    assert ADAPTER.list_units(tmp_path, "train") == [{"folder": "trainset", "first": 0, "last": 2},
                                                     {"folder": "trainset", "first": 2, "last": 3}]
    assert [example.provenance["annotation"] for example in load_all(tmp_path)] == ["00000", "00001", "00002"]
    assert ADAPTER.list_units(tmp_path, "test") == ADAPTER.list_units(tmp_path, "validation") == []


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"trainset/annots\.json nor .*testset/annots\.json .*https://www\.yangangwang\.com"):
        ADAPTER.list_units(tmp_path, "train")
    path = tmp_path / "trainset" / "annots.json"
    path.parent.mkdir()
    for content, message in (("[1, 2]", "is not an annotation of 3DOH50K"), ("{", "is not valid JSON")):
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"annots\.json {message}"):
            ADAPTER.list_units(tmp_path, "train")
    path.write_text('{"00000": [1, 2], "00001": null}')
    assert [f"entry 0000{i}: intri: expected" in str(error) for i, error in enumerate(load_all(tmp_path))] == [True, True]


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "3doh50k"
