"""The MuPoTS-3D adapter on sequences in the authors' layout: MATLAB 5 cells of structs, pictures of painted people."""

import pickle

import numpy as np
import pytest
import scipy.io

from datasets.adapters import mupots
from datasets.calibration import fit_intrinsics
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.camera import project
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_jpeg

ADAPTER = mupots.ADAPTER
SKELETON = load_skeleton("mpi_inf_3dhp_17")
SIZES = {"TS1": (2048, 2048), "TS6": (1920, 1080)}
CAMERAS = {"TS1": np.array([[1497.7, 0, 1024.5], [0, 1499.3, 1010.1], [0, 0, 1]]),
           "TS6": np.array([[1185.0, 0, 951.2], [0, 1186.2, 540.9], [0, 0, 1]])}
PLACES = (-0.6, 0.1, 3.4), (0.7, 0.0, 4.2)  # of the two people, m
UNIVERSAL = 0.9


def truth(frame, person):
    """[17, 3] mm, camera frame."""
    return 1000 * body(SKELETON, np.add(PLACES[person], (0.0, 0.0, 0.1 * frame)))


def entry(joints, camera, valid=1):
    return {"annot2": project(joints, camera).T, "annot3": joints.T, "univ_annot3": UNIVERSAL * joints.T,
            "isValidFrame": np.uint8(valid)}


def write_sequence(raw_dir, name="TS1", num_frames=3, num_people=2, **replaced):
    """Visible dots are those of person 0 in even pictures, of person 1 in odd ones. `replaced`: entries by "fF_pP"."""
    camera = CAMERAS[name]
    annotations, occlusion = (np.empty((num_frames, num_people), object) for _ in range(2))
    for frame in range(num_frames):
        image = gray_image(*SIZES[name])
        for person in range(num_people):
            joints = truth(frame, person)
            annotations[frame, person] = replaced.get(f"f{frame}_p{person}", entry(joints, camera))
            occlusion[frame, person] = np.uint8([[joint in (4, 10 + person) for joint in range(17)]])
        paint(image, project(truth(frame, frame % num_people), camera))
        write_jpeg(raw_dir / name / f"img_{frame:06d}.jpg", image)
    scipy.io.savemat(raw_dir / name / "annot.mat", {"annotations": annotations}, do_compression=True)
    scipy.io.savemat(raw_dir / name / "occlusion.mat", {"occlusion_labels": occlusion}, do_compression=True)


def load_all(raw_dir):
    return [item for unit in ADAPTER.list_units(raw_dir, "test") for item in ADAPTER.load_unit(raw_dir, unit)]


def test_prepared_joints_lie_on_their_dots(tmp_path):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    nobody, unknown = np.zeros((0, 0)), entry(np.full((17, 3), np.nan), CAMERAS["TS1"], valid=0)
    write_sequence(raw_dir, f1_p0=nobody, f2_p1=unknown)
    write_sequence(raw_dir, "TS6", num_frames=2, num_people=1)
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False)
    assert list(manifest["splits"]) == ["test"] and not manifest["skipped"] and manifest["skeleton"] == SKELETON.to_dict()
    dataset = PreparedDataset(data_root / "mupots")
    examples = [dataset.read("test", i) for i in range(dataset.num_examples("test"))]
    assert [[e.provenance[key] for key in ("sequence", "frame", "person")] for e in examples] == [
        ["TS1", 0, 0], ["TS1", 0, 1], ["TS1", 1, 1], ["TS1", 2, 0], ["TS6", 0, 0], ["TS6", 1, 0]]  # not sampled by motion
    painted = [examples[i] for i in (0, 2, 3, 4, 5)]
    for example in painted:
        check_crop(example, truth(example.provenance["frame"], example.provenance["person"]))


def test_what_the_protocols_need_is_in_the_provenance(tmp_path):
    write_sequence(tmp_path)
    example = load_all(tmp_path)[3]
    assert example.provenance["source"] == "TS1/img_000001.jpg" and example.provenance["occluded"] == [4, 11]
    np.testing.assert_allclose(example.provenance["joints3d_universal"], UNIVERSAL * truth(1, 1), atol=0.005)
    np.testing.assert_allclose(example.provenance["intrinsics"], [1497.7, 1499.3, 1024.5, 1010.1])
    low, high = (limit(project(truth(1, 1), CAMERAS["TS1"]), axis=0) for limit in (np.min, np.max))
    np.testing.assert_allclose(example.bbox[2:], 1.1 * (high - low))
    np.testing.assert_allclose(example.bbox[:2] + example.bbox[2:] / 2, (low + high) / 2)


def test_fitted_intrinsics_minimise_the_squared_distance_in_the_image():
    rng = np.random.default_rng(3)
    joints3d = rng.uniform([-1000, -1000, 2000], [1000, 1000, 5000], (200, 3))
    true = np.array([[1500.0, 0, 1020], [0, 1510, 1030], [0, 0, 1]])
    joints2d = project(joints3d, true) + rng.normal(0, 2, (200, 2))
    fitted = fit_intrinsics(joints2d, joints3d)
    np.testing.assert_allclose(fitted, true, atol=3)
    best = np.sum((project(joints3d, fitted) - joints2d)**2)
    for index in ((0, 0), (1, 1), (0, 2), (1, 2)):
        for step in (-0.1, 0.1):
            other = fitted.copy()
            other[index] += step
            assert np.sum((project(joints3d, other) - joints2d)**2) > best


def test_invalid_people_do_not_enter_the_fit(tmp_path):
    wrong = {**entry(truth(0, 0), CAMERAS["TS1"], valid=0), "annot2": np.zeros((2, 17))}
    write_sequence(tmp_path, f0_p0=wrong)
    np.testing.assert_allclose(load_all(tmp_path)[0].camera.intrinsics, CAMERAS["TS1"])


def test_sequences_are_in_the_order_of_their_numbers(tmp_path):
    for name in ("TS10", "TS9", "TS1", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "annot.mat").touch()
    assert ADAPTER.list_units(tmp_path, "test") == ["TS1", "TS9", "TS10"]
    assert ADAPTER.list_units(tmp_path, "train") == ADAPTER.list_units(tmp_path, "validation") == []


def test_a_sequence_without_valid_people_is_empty(tmp_path):
    nobody = np.zeros((0, 0))
    write_sequence(tmp_path, num_frames=2, f0_p0=nobody, f0_p1=nobody, f1_p0=nobody, f1_p1=nobody)
    assert load_all(tmp_path) == []


@pytest.mark.parametrize(("changes", "message"), [
    ({"annot3": np.zeros((3, 28))}, r"TS1/annot\.mat: frame 2, person 1: annot3 has shape \[3, 28\]; expected 3 x 17"),
    ({"univ_annot3": np.full((3, 17), np.nan)}, r"TS1/annot\.mat: frame 2, person 1: univ_annot3 has shape"),
    ({"annot3": -np.ones((3, 17))}, r"TS1/annot\.mat: annot3 has valid joints behind the camera"),
])
def test_broken_annotations_are_named(tmp_path, changes, message):
    write_sequence(tmp_path, f1_p0={**entry(truth(1, 0), CAMERAS["TS1"]), **changes})
    with pytest.raises(ValueError, match=message):
        load_all(tmp_path)


def test_occlusion_labels_must_fit(tmp_path):
    write_sequence(tmp_path)
    labels = scipy.io.loadmat(tmp_path / "TS1" / "occlusion.mat")["occlusion_labels"]
    labels[1, 1] = np.zeros((1, 14))
    scipy.io.savemat(tmp_path / "TS1" / "occlusion.mat", {"occlusion_labels": labels})
    items = load_all(tmp_path)
    assert [isinstance(item, ValueError) for item in items] == [False, False, False, True, False, False]
    assert "TS1/occlusion.mat: frame 2, person 2 has 14 flags" in str(items[3])
    scipy.io.savemat(tmp_path / "TS1" / "occlusion.mat", {"occlusion_labels": labels[:2]})
    with pytest.raises(ValueError, match=r"TS1/occlusion\.mat is of \[2, 2\] frames and people, annot\.mat of \[3, 2\]"):
        load_all(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*annot\.mat.*MultiPersonTestSet\.zip from http"):
        ADAPTER.list_units(tmp_path, "test")
    write_sequence(tmp_path)
    (tmp_path / "TS1" / "occlusion.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"occlusion\.mat is missing\. Get MultiPersonTestSet"):
        load_all(tmp_path)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "mupots"
