"""The RICH adapter on sequences in the authors' layouts: OpenCV's XML, SMPL-X parameters of a made-up body, painted dots."""

import functools
import os
import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import rich
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from tests.datasets.adapters import rich_files as files
from tests.datasets.adapters.painted_people import check_crop

ADAPTER = rich.ADAPTER
MALE, FEMALE = 5, 13


@pytest.fixture(scope="module", name="models")
def make_models(tmp_path_factory):
    return files.write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def write(tmp_path):
    """Writes a sequence of the validation split in the layout of the official toolkit, and its cameras."""
    files.write_cameras(tmp_path / "scan_calibration", "BBQ")
    return functools.partial(files.write_sequence, tmp_path / "images" / "val", tmp_path / "bodies" / "val")


@pytest.fixture
def load_all(tmp_path, models):
    def load(split="validation"):
        return [item for unit in ADAPTER.list_units(tmp_path, split, body_models=models)
                for item in ADAPTER.load_unit(tmp_path, unit, body_models=models)]
    return load


def keys(items):
    return [(item.provenance["frame"], item.provenance["camera"], item.provenance["subject"]) for item in items]


def test_prepared_joints_lie_on_the_dots(tmp_path, models):
    release = tmp_path / "raw" / "ps" / "project" / "multi-ioi" / "rich_release"
    files.write_cameras(release / "scan_calibration", "Pavallion")
    files.write_cameras(release / "scan_calibration", "BBQ")
    files.write_sequence(release / "train", release / "train_body", "Pavallion_013_yoga2",
                         {FEMALE: ("female", [files.fit(), files.fit(0.15)])}, numbers=(0, 3, 5, 10))
    files.write_sequence(release / "val", release / "val_body", "BBQ_005_guitar", {MALE: ("male", [files.fit()])}, "bmp")
    manifest = prepare(ADAPTER, tmp_path / "raw", tmp_path / "data", body_models=models, workers=1, progress=False)
    assert not manifest["skipped"] and manifest["skeleton"] == files.SKELETON.to_dict()
    dataset = PreparedDataset(tmp_path / "data" / "rich")
    assert list(dataset.splits()) == ["train", "validation"]
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert keys(examples) == [(frame, camera, "013") for frame in (150, 155) for camera in ("00", "03", "05")]
    for i, example in enumerate(examples):
        parameters = files.fit(0.15 * (i // 3))
        check_crop(example, files.truth("female", parameters)[files.LABELLED], files.painted_joints(i // 3, (0, 3, 5)[i % 3]))
    assert examples[1].provenance == {
        "source": "ps/project/multi-ioi/rich_release/train/Pavallion_013_yoga2/cam_03/00150_03.png",
        "sequence": "Pavallion_013_yoga2", "subject": "013", "camera": "03", "frame": 150}
    examples = [dataset.read("validation", i) for i in range(dataset.num_examples("validation"))]
    assert keys(examples) == [(150, "00", "005"), (150, "03", "005")]
    for number, example in zip((0, 3), examples, strict=True):
        check_crop(example, files.truth("male", files.fit())[files.LABELLED], files.painted_joints(0, number))


def test_boxes_hold_all_points_in_the_image(write, load_all):
    person = files.fit()
    aside = files.fit(-1.4)  # half out of view at the left
    write("BBQ_005_guitar", {MALE: ("male", [person, aside])}, numbers=(0,))
    examples = load_all()
    points = files.image_points(files.truth("male", person), 0)
    assert len(points) == 127
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(examples[0].bbox[2:], 1.05 * (high - low), rtol=1e-6)
    np.testing.assert_allclose(examples[0].bbox[:2] + examples[0].bbox[2:] / 2, (low + high) / 2, rtol=1e-6)
    points = files.image_points(files.truth("male", aside), 0)
    assert points[:, 0].min() < -20
    low, high = points.min(axis=0), points.max(axis=0)
    right = (low + high)[0] / 2 + 1.05 * (high - low)[0] / 2
    np.testing.assert_allclose(examples[1].bbox[[0, 2]], [-0.5, right + 0.5], rtol=1e-6)


def test_people_who_are_small_or_out_of_view_are_left_out(write, load_all):
    far, outside, behind = files.fit(), files.fit(6.0), files.fit()
    far["transl"][0, 2], behind["transl"][0, 2] = 15.0, -4.0  # far: 93 px wide
    write("BBQ_005_guitar", {MALE: ("male", [far, outside, behind, files.fit(0.3)])}, numbers=(0,))
    assert keys(load_all()) == [(165, "00", "005")]


def test_up_is_up_in_the_image(write, load_all):
    write("BBQ_005_guitar", {MALE: ("male", [files.fit()])}, numbers=(3,))
    (example,) = load_all()
    np.testing.assert_array_equal(example.camera.up, [0, -1, 0])


def test_each_person_is_kept_after_a_movement_and_not_where_they_have_been_before(write, load_all):
    # Movements are along x, m; 0.1 needs a little more, since the parameters are float32.
    first = [files.fit(offset) for offset in (0, 0.06, 0.12, 0.0, 0.06, -0.09, 0.0)]
    second = [files.fit(offset) for offset in (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.39)]
    write("BBQ_005_013_talk", {MALE: ("male", first), FEMALE: ("female", second)})
    assert keys(load_all()) == [(150, "00", "005"), (150, "00", "013"), (150, "03", "005"), (150, "03", "013"),
                                (160, "00", "005"), (160, "03", "005"), (180, "00", "013"), (180, "03", "013")]


def test_a_person_without_a_fit_is_left_out_of_that_frame(write, load_all):
    write("BBQ_005_013_talk", {MALE: ("male", [files.fit(), files.fit(0.2)]), FEMALE: ("female", [None, files.fit(0.5)])},
          numbers=(0,))
    assert keys(load_all()) == [(150, "00", "005"), (155, "00", "005"), (155, "00", "013")]


def test_frames_need_a_picture_and_cameras_may_lack_some(write, load_all, tmp_path):
    write("BBQ_005_guitar", {MALE: ("male", [files.fit(0.2 * i) for i in range(3)])}, frames=(7, 8, 10))
    pictures = tmp_path / "images" / "val" / "BBQ_005_guitar"
    for name in ("cam_00/00007_00", "cam_03/00007_03", "cam_03/00010_03"):
        (pictures / f"{name}.png").unlink()
    assert keys(load_all()) == [(8, "00", "005"), (8, "03", "005"), (10, "00", "005")]


@pytest.mark.parametrize(("changes", "message"), [
    ({"transl": np.full((1, 3), np.nan)}, "translation holds nan"), ({"jaw_pose": None}, "jaw_pose"),
    ({"body_pose": np.zeros((1, 60))}, r"body_pose has shape \[1, 60\]"), ({"betas": np.zeros((1, 11))}, "betas has shape"),
    ({"global_orient": np.zeros((2, 3))}, r"body_pose has shape"), ({"transl": "here"}, "does not hold parameters")])
def test_a_broken_fit_is_reported_and_the_rest_goes_on(write, load_all, changes, message):
    broken = {**files.fit(), **changes}
    write("BBQ_013_005_talk", {FEMALE: ("female", [files.fit(), files.fit()]), MALE: ("male", [broken, files.fit(0.5)])},
          numbers=(0,))
    items = load_all()
    assert keys(items[1:]) == [(150, "00", "013"), (155, "00", "005")]
    with pytest.raises(ValueError, match=rf"00150/005\.pkl does not hold parameters of SMPL-X.*{message}|{message}"):
        raise items[0]
    assert "00150/005.pkl" in str(items[0])


def test_a_fit_that_runs_something_or_has_no_parameters_is_reported(write, load_all, tmp_path):
    write("BBQ_005_guitar", {MALE: ("male", [files.fit(), files.fit(), files.fit()])}, numbers=(0,))
    folder = tmp_path / "bodies" / "val" / "BBQ_005_guitar"
    (folder / "00150" / "005.pkl").write_bytes(pickle.dumps(os.getcwd))
    (folder / "00155" / "005.pkl").write_bytes(pickle.dumps([1]))
    first, second, example = load_all()
    assert "00150/005.pkl" in str(first) and "posix.getcwd, which is refused" in str(first)
    assert "00155/005.pkl does not hold" in str(second)
    assert example.provenance["frame"] == 160


def test_an_image_that_cannot_be_read_is_reported_once(write, load_all, tmp_path):
    write("BBQ_005_013_talk", {MALE: ("male", [files.fit()]), FEMALE: ("female", [files.fit(0.5)])})
    (tmp_path / "images" / "val" / "BBQ_005_013_talk" / "cam_00" / "00150_00.png").write_bytes(b"nothing")
    error, *examples = load_all()
    assert "00150_00.png" in str(error) and "cannot be decoded" in str(error)
    assert keys(examples) == [(150, "03", "005"), (150, "03", "013")]


def test_cameras_that_are_missing_or_broken_are_reported_but_not_the_moving_one(write, load_all, tmp_path):
    write("BBQ_005_guitar", {MALE: ("male", [files.fit()])}, numbers=(0, 3, 5, 10))
    folder = tmp_path / "scan_calibration" / "BBQ" / "calibration"
    (folder / "003.xml").unlink()
    for content, message in [("<a>", "cannot be read as XML"), ("<a></a>", r"CameraMatrix/data has 0 numbers, expected 12"),
                             ("<a><CameraMatrix><data>1 x</data></CameraMatrix></a>", "CameraMatrix/data: could not convert")]:
        (folder / "005.xml").write_text(content)
        missing, broken, example = load_all()
        assert "has no calibration 003.xml of the camera of" in str(missing) and "rich.is.tue.mpg.de" in str(missing)
        with pytest.raises(ValueError, match=rf"005\.xml.*{message}"):
            raise broken
        assert keys([example]) == [(150, "00", "005")]
    storage = cv2.FileStorage(str(folder / "005.xml"), cv2.FileStorage_WRITE)
    storage.write("CameraMatrix", np.diag([1.0, 1, -1, 0])[:3])
    storage.write("Intrinsics", files.intrinsics(5))
    storage.release()
    with pytest.raises(ValueError, match=r"005\.xml: .*mirrors"):
        raise load_all()[1]


def test_a_lens_without_distortion_may_have_no_coefficients(write, load_all, tmp_path):
    write("BBQ_005_guitar", {MALE: ("male", [files.fit()])}, numbers=(0,))
    path = tmp_path / "scan_calibration" / "BBQ" / "calibration" / "000.xml"
    path.write_text(path.read_text().replace("Distortion", "Unused"))
    assert load_all()[0].camera.distortion is None


def test_subjects_of_unknown_gender_and_sequences_without_bodies_are_errors(write, load_all, tmp_path):
    write("BBQ_022_guitar", {22: ("male", [files.fit()])}, numbers=(0,))
    with pytest.raises(ValueError, match=r"BBQ_022_guitar has fits of subjects \[22\]"):
        load_all()
    (tmp_path / "bodies" / "val" / "BBQ_022_guitar").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no body parameters .*BBQ_022_guitar/FRAME/SUBJECT\.pkl.*rich\.is\.tue"):
        load_all()


def test_genders_of_the_subjects_as_published():
    male = {0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 15, 20}
    assert {subject for subject, gender in rich.GENDERS.items() if gender == "male"} == male
    assert {subject for subject, gender in rich.GENDERS.items() if gender == "female"} == {9, 10, 12, 13, 16, 17, 18, 19, 21}


def test_splits_are_the_folders(tmp_path, models):
    for folder, name in (("train", "b"), ("train", "a"), ("val", "c"), ("test", "d")):
        (tmp_path / folder / f"{name}_005_x" / "cam_00").mkdir(parents=True)
        (tmp_path / f"{folder}_body").mkdir(exist_ok=True)
    (tmp_path / "scan_calibration").mkdir()
    units = {split: ADAPTER.list_units(tmp_path, split, body_models=models) for split in ("train", "validation", "test", "x")}
    assert units["train"] == [{"images": f"train/{name}_005_x", "bodies": f"train_body/{name}_005_x",
                               "cameras": f"scan_calibration/{name}/calibration"} for name in "ab"]
    assert [unit["images"] for unit in units["validation"] + units["test"]] == ["val/c_005_x", "test/d_005_x"]
    assert units["x"] == []
    (tmp_path / "test" / "d_005_x" / "cam_00").rmdir()
    (tmp_path / "test" / "d_005_x").rmdir()
    (tmp_path / "test").rmdir()
    assert ADAPTER.list_units(tmp_path, "test", body_models=models) == []  # not downloaded


def test_missing_files_are_named(write, tmp_path, models):
    with pytest.raises(FileNotFoundError, match=r"no folder train, val or test in .*rich\.is\.tue\.mpg\.de"):
        ADAPTER.list_units(tmp_path, "train", body_models=models)
    write("BBQ_005_guitar", {MALE: ("male", [files.fit()])}, numbers=(0,))
    with pytest.raises(FileNotFoundError, match=r"female SMPL-X model is needed, SMPLX_FEMALE\.npz"):
        ADAPTER.list_units(tmp_path, "validation", body_models=None)
    (tmp_path / "scan_calibration").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no folder scan_calibration in .*rich\.is\.tue\.mpg\.de"):
        ADAPTER.list_units(tmp_path, "validation", body_models=models)
    (tmp_path / "bodies").rename(tmp_path / "others")
    with pytest.raises(FileNotFoundError, match=r"no folder val_body or bodies/val in .*rich\.is\.tue\.mpg\.de"):
        ADAPTER.list_units(tmp_path, "validation", body_models=models)


def test_adapter_can_be_sent_to_a_worker():
    adapter = pickle.loads(pickle.dumps(ADAPTER))
    assert adapter.label_skeleton(None) == "smplx_42" and adapter.uses_body_models and adapter.detection_rule.min_iou == 0.5
