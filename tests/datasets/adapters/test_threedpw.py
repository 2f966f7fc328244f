"""The 3DPW adapter on sequences in the authors' layout: pickles as Python 2 writes them, pictures of painted people."""

import io
import pickle
import struct
from typing import ClassVar

import numpy as np
import pytest

from datasets.adapters import threedpw
from datasets.prepare import prepare
from datasets.registry import list_adapters, load_adapter
from posepile.data.records import PreparedDataset
from posepile.geometry.camera import project, transform
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_jpeg

ADAPTER = threedpw.ADAPTER
SKELETON = load_skeleton("smpl_24")
WIDTH, HEIGHT = 1080, 1920  # a phone held upright
INTRINSICS = np.array([[1961.8, 0, 540], [0, 1969.2, 960], [0, 0, 1.0]])
NUM_FRAMES = 4
PLACES = (-0.3, 0.1, 5.0), (0.5, -0.1, 6.0)  # of the two people before the first camera, m


class Python2Pickler(pickle._Pickler):
    """Writes as Python 2 does: text and the bytes of arrays as 8-bit strings."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, text):
        data = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(content) -> bytes:
    """Protocol 2, arrays under the names of old numpy."""
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def world_to_cameras():
    """[4, 4, 4] metres: a camera that walks and turns; the world is y up, with the first camera beside its origin."""
    poses = np.tile(np.eye(4), (NUM_FRAMES, 1, 1))
    for frame, pose in enumerate(poses):
        angle = -0.04 * frame
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        pose[:3, :3] = turn @ np.diag([1.0, -1, -1])
        pose[:3, 3] = 0.1 * frame, 1.2, -0.2 * frame
    return poses


def truth():
    """[2, 4, 24, 3] metres, world: the second person moves, the first stands still."""
    first_camera = np.linalg.inv(world_to_cameras()[0])
    return np.array([[transform(body(SKELETON, np.add(place, (0.1 * person * frame, 0, 0))), first_camera)
                      for frame in range(NUM_FRAMES)] for person, place in enumerate(PLACES)])


def write_sequence(raw_dir, split="test", name="downtown_walking_00", **changes):
    """Two people in four frames. In picture i person i % 2 is painted, as dots of both would have the same colours."""
    joints, cameras = truth(), world_to_cameras()
    poses2d = [np.ones((NUM_FRAMES, 3, 18)) for _ in PLACES]
    poses2d[1][2] = 0  # not detected
    content = {
        "sequence": name, "genders": ["m", "f"], "betas": [np.zeros(300), np.zeros(300)],
        "betas_clothed": [np.zeros(10), np.zeros(10)], "poses": [np.zeros((NUM_FRAMES, 72))] * 2,
        "trans": [np.zeros((NUM_FRAMES, 3))] * 2, "poses_60Hz": [np.zeros((2 * NUM_FRAMES, 72))] * 2,
        "trans_60Hz": [np.zeros((2 * NUM_FRAMES, 3))] * 2, "poses2d": poses2d,
        "jointPositions": [joints[i].reshape(NUM_FRAMES, 72) for i in range(2)], "cam_poses": cameras,
        "campose_valid": [np.array([1, 1, 1, 0]), np.array([1, 1, 1, 1])], "cam_intrinsics": INTRINSICS,
        "img_frame_ids": 2 * np.arange(NUM_FRAMES), "texture_maps": [], "v_template_clothed": [np.zeros((10, 3))] * 2,
        **changes}
    path = raw_dir / "sequenceFiles" / split / f"{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2_pickle(content))
    for frame in range(NUM_FRAMES):
        image = gray_image(WIDTH, HEIGHT)
        paint(image, project(transform(joints[frame % 2, frame], cameras[frame]) * 1000, INTRINSICS))
        write_jpeg(raw_dir / "imageFiles" / name / f"image_{frame:05d}.jpg", image)


@pytest.fixture(name="raw_dir")
def make_raw_dir(tmp_path):
    write_sequence(tmp_path)
    return tmp_path


def load_all(raw_dir, split="test"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def test_prepared_joints_lie_on_their_dots(raw_dir, tmp_path_factory):
    data_root = tmp_path_factory.mktemp("data")
    manifest = prepare(load_adapter("3dpw"), raw_dir, data_root, workers=1, progress=False)
    assert manifest["name"] == "3dpw" and manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"]
    dataset = PreparedDataset(data_root / "3dpw")
    assert list(dataset.splits()) == ["test"]
    examples = [dataset.read("test", i) for i in range(dataset.num_examples("test"))]
    # Frame by frame; without (2, 1), who was not detected, and (3, 0), whose camera is wrong. Nobody moves: none is left out.
    assert [(e.provenance["frame"], e.provenance["person"]) for e in examples] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 1)]
    assert examples[3].provenance == {"source": "imageFiles/downtown_walking_00/image_00001.jpg",
                                      "sequence": "downtown_walking_00", "frame": 1, "person": 1}
    painted = [e for e in examples if e.provenance["person"] == e.provenance["frame"] % 2]
    assert len(painted) == 4
    for example in painted:
        check_crop(example, 1000 * truth()[example.provenance["person"], example.provenance["frame"]])


def test_boxes_hold_the_projected_joints(raw_dir):
    example = load_all(raw_dir)[2]
    joints2d = project(transform(truth()[0, 1], world_to_cameras()[1]) * 1000, INTRINSICS)
    low, high = joints2d.min(axis=0), joints2d.max(axis=0)
    np.testing.assert_allclose(example.bbox[2:], 1.15 * (high - low))
    np.testing.assert_allclose(example.bbox[:2] + example.bbox[2:] / 2, (low + high) / 2)


def test_up_is_up_in_the_image(raw_dir):
    np.testing.assert_array_equal(load_all(raw_dir)[0].camera.up, [0, -1, 0])


def test_splits_are_the_folders(tmp_path):
    for split, name in (("train", "b"), ("train", "a"), ("validation", "c"), ("test", "d")):
        write_sequence(tmp_path, split, name)
    assert ADAPTER.list_units(tmp_path, "train") == ["sequenceFiles/train/a.pkl", "sequenceFiles/train/b.pkl"]
    assert ADAPTER.list_units(tmp_path, "validation") == ["sequenceFiles/validation/c.pkl"]
    assert ADAPTER.list_units(tmp_path, "test") == ["sequenceFiles/test/d.pkl"]
    assert [e.provenance["frame"] for e in load_all(tmp_path, "train")[:6]] == [0, 0, 1, 1, 2, 3]  # training, too: no sampling


def test_one_person_behind_the_camera_or_one_broken_camera_does_not_stop_the_others(tmp_path):
    cameras, joints = world_to_cameras(), truth().reshape(2, NUM_FRAMES, 72)
    cameras[1, 0] *= 2
    joints[1, 0] = np.tile(np.linalg.inv(cameras[0])[:3, :3] @ [0, 0, -5.0], 24)
    write_sequence(tmp_path, cam_poses=cameras, jointPositions=list(joints))
    items = load_all(tmp_path)
    assert [isinstance(item, ValueError) for item in items] == [False, True, True, True, False, False]
    assert "downtown_walking_00.pkl: frame 0, person 1: " in str(items[1]) and "behind the camera" in str(items[1])
    assert "downtown_walking_00.pkl: frame 1" in str(items[2]) and "orthonormal" in str(items[2])


@pytest.mark.parametrize(("changes", "message"), [
    ({"cam_poses": np.tile(np.eye(4), (3, 1, 1))}, r"walking_00\.pkl: jointPositions of person 0: .*\[3, 24, 3\]"),
    ({"poses2d": [np.ones((NUM_FRAMES, 3, 18))]}, r"walking_00\.pkl: poses2d of person 1: "),
    ({"campose_valid": None}, r"walking_00\.pkl: campose_valid of person 0: "),
    ({"cam_poses": "none"}, r"walking_00\.pkl: cam_poses: "),
])
def test_annotations_that_do_not_fit_are_named(tmp_path, changes, message):
    write_sequence(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_all(tmp_path)


def test_a_pickle_that_runs_something_is_refused(raw_dir):
    path = raw_dir / "sequenceFiles" / "test" / "downtown_walking_00.pkl"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"walking_00\.pkl .*system"):
        load_all(raw_dir)
    for content in ([1, 2], {"cam_poses": world_to_cameras()}):
        path.write_bytes(python2_pickle(content))
        with pytest.raises(ValueError, match=r"walking_00\.pkl is not an annotation .* with a list jointPositions"):
            load_all(raw_dir)


@pytest.mark.parametrize("folder", ["sequenceFiles", "imageFiles"])
def test_missing_folders_are_named(raw_dir, folder):
    (raw_dir / folder).rename(raw_dir / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"no folder .*{folder}.*https://virtualhumans"):
        ADAPTER.list_units(raw_dir, "test")


def test_adapter_is_found_by_a_name_that_no_module_can_have():
    assert "3dpw" in list_adapters() and "threedpw" not in list_adapters()
    with pytest.raises(ValueError, match="there are: 3"):
        load_adapter("threedpw")
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "3dpw"
