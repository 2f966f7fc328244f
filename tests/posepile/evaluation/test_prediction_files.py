"""Files of predictions and annotations: what is read, what is refused, and how two are brought together."""

import json

import numpy as np
import pytest

from posepile.evaluation import metrics, scoring
from posepile.evaluation.prediction_files import (
    Poses,
    check_pair,
    check_protocol_pair,
    comparable_labels,
    read_annotations,
    read_predictions,
)
from posepile.geometry.skeleton import load_skeleton

NAMES = load_skeleton("mpi_inf_3dhp_17").joint_names
MIRRORED = [NAMES.index(name.replace("left", "x").replace("right", "left").replace("x", "right")) for name in NAMES]


@pytest.fixture(name="files")
def _files(tmp_path):
    rng = np.random.default_rng(2)
    true = rng.normal(0, 300, (20, 17, 3)) + np.array([0, 0, 4000])
    predictions, annotations = tmp_path / "P.npz", tmp_path / "A.npz"
    arrays = {"joints3d": true, "joint_validity_mask": rng.random((20, 17)) < 0.9, "root": 14,
              "sequence": np.repeat(["TS1", "TS2"], 10), "activity": np.arange(20) % 3}
    np.savez(predictions, joints3d=np.float32(true + rng.normal(0, 60, true.shape)))
    np.savez(annotations, **arrays)
    return predictions, annotations, arrays


def rewrite(path, **changes):
    """Changes arrays of a file; None takes one out."""
    with np.load(path) as archive:
        arrays = {**archive, **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


def test_files_are_scored(files):
    predictions, annotations, arrays = files
    record = scoring.score_files(predictions, annotations)
    pred = np.load(predictions)["joints3d"]
    true, mask = arrays["joints3d"], arrays["joint_validity_mask"]
    assert record["metrics"] == metrics.compute_metrics(pred, true, mask, 14)
    assert record["per_sequence"]["TS2"] == pytest.approx(metrics.compute_metrics(pred[10:], true[10:], mask[10:], 14))
    assert record["per_activity"]["1"] == pytest.approx(metrics.compute_metrics(pred[1::3], true[1::3], mask[1::3], 14))
    assert record["per_joint"]["14"]["mpjpe"] == 0 and record["per_joint"]["14"]["auc31"] == pytest.approx(3000 / 31)
    relative = np.linalg.norm((pred - pred[:, 14:15]) - (true - true[:, 14:15]), axis=-1)[:, 3]
    assert record["per_joint"]["3"]["mpjpe"] == pytest.approx(relative[mask[:, 3] & mask[:, 14]].mean())
    assert record["stamp"]["root"] == "14" and record["stamp"]["predictions"] == str(predictions)
    assert json.loads(json.dumps(scoring.json_ready(record), allow_nan=False))["poses"]["num_poses"] == 20


def test_what_is_written_is_read_again(files, tmp_path):
    poses = read_annotations(files[1])
    rewrite(files[1], joint_names=NAMES, joints2d=np.arange(680.0).reshape(20, 17, 2), joints3d_universal=poses.joints3d * 2,
            split=["test"] * 20, frame=np.arange(20), person=np.zeros(20, int), root=-3)
    poses = read_annotations(files[1])
    assert poses.root == 14 and poses.joint_names == NAMES and poses.validity.dtype == bool
    np.savez(tmp_path / "again.npz", **poses.to_arrays())
    again = read_annotations(tmp_path / "again.npz")
    for name in ("joints3d", "joints2d", "joints3d_universal"):
        np.testing.assert_allclose(getattr(again, name), getattr(poses, name), rtol=1e-6)
    for name in ("validity", "sequence", "activity", "split", "frame", "person", "joint_names", "root"):
        np.testing.assert_array_equal(getattr(again, name), getattr(poses, name))
    picked = again.select(np.array([3, 1]))
    assert picked.frame.tolist() == [3, 1] and picked.joint_names == NAMES
    np.testing.assert_array_equal(picked.joints2d, again.joints2d[[3, 1]])


@pytest.mark.parametrize("which, changes, message", [
    (0, {"joints3d": None}, r"P\.npz lacks joints3d; it holds: nothing"),
    (0, {"joints3d": np.zeros((20, 17, 2))}, r"P\.npz: joints3d must be .*got shape \[20, 17, 2\]"),
    (0, {"joints3d": np.zeros((20, 51))}, r"P\.npz: joints3d must be \[num_poses, num_joints, 3\]; got shape \[20, 51\]"),
    (0, {"joints3d": np.zeros((20, 16, 3))}, r"P\.npz: joints3d is \[20, 16, 3\], but .*A\.npz is \[20, 17, 3\]"),
    (0, {"joints2d": np.zeros((20, 17, 3))}, r"P\.npz: joints2d must be \[20, 17, 2\]; got shape \[20, 17, 3\]"),
    (1, {"joints3d_universal": np.zeros((19, 17, 3))}, r"A\.npz: joints3d_universal must be \[20, 17, 3\]"),
    (1, {"joints3d": np.zeros((0, 17, 3))}, r"A\.npz: joints3d holds no pose"),
    (1, {"joints3d": np.full((20, 17, 3), "x")}, r"A\.npz: joints3d must hold numbers"),
    (1, {"joints3d": np.zeros((20, 17, 3), complex)}, r"A\.npz: joints3d must hold numbers; got complex128"),
    (1, {"root": 17}, "root is 17, but the poses have 17 joints"),
    (1, {"root": -18}, "root is -18, but the poses have 17 joints"),
    (1, {"root": [0, 1]}, r"A\.npz: root must be one joint index"),
    (1, {"root": 0.5}, r"A\.npz: root must be one joint index"),
    (1, {"joint_validity_mask": np.ones((20, 16), bool)}, r"A\.npz: joint_validity_mask must be \[20, 17\]"),
    (1, {"joint_validity_mask": np.full((20, 17), 0.5)}, r"A\.npz: joint_validity_mask must be boolean, or hold only 0 and"),
    (1, {"joint_validity_mask": np.full((20, 17), np.nan)}, r"A\.npz: joint_validity_mask must be boolean"),
    (1, {"sequence": ["TS1"]}, r"A\.npz: sequence must be \[20\], one label per pose; got shape \[1\]"),
    (0, {"frame": np.zeros((20, 2))}, r"P\.npz: frame must be \[20\]"),
    (1, {"joint_names": ["a"]}, r"A\.npz: joint_names has 1 names for 17"),
    (1, {"joint_names": ["a"] * 17}, r"A\.npz: joint_names has the same name twice"),
])
def test_files_that_do_not_fit_are_refused(files, which, changes, message):
    rewrite(files[which], **changes)
    with pytest.raises(ValueError, match=message):
        scoring.score_files(*files[:2])


def test_files_that_are_no_archives(files, tmp_path):
    predictions, annotations, _ = files
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        scoring.score_files(tmp_path / "nowhere.npz", annotations)
    for content in (b"", b"no archive at all", predictions.read_bytes()[:-50]):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.npz"):
            scoring.score_files(tmp_path / "broken.npz", annotations)
    np.save(tmp_path / "plain.npy", np.zeros((20, 17, 3)))
    with pytest.raises(ValueError, match=r"plain\.npy cannot be read .* a single array"):
        scoring.score_files(tmp_path / "plain.npy", annotations)
    np.savez(tmp_path / "objects.npz", joints3d=np.array([None, 1]))
    with pytest.raises(ValueError, match=r"objects\.npz cannot be read as .* plain numeric and text arrays.*numpy\.savez"):
        scoring.score_files(tmp_path / "objects.npz", annotations)
    with pytest.raises(ValueError, match="unknown protocol 'median'; known ones: flat"):
        scoring.score_files(predictions, annotations, "median")


# ---- Units


@pytest.mark.parametrize("which, name", [(0, "P.npz"), (1, "A.npz")])
def test_metres_are_refused(files, which, name):
    rewrite(files[which], joints3d=np.load(files[which])["joints3d"] / 1000)
    with pytest.raises(ValueError, match=rf"{name}: the median pose of joints3d is \d\.\d+ across, as if in metres\..*by 1000"):
        scoring.score_files(*files[:2])


def test_a_pose_1_7_units_tall_is_metres(files):
    joints3d = np.zeros((20, 17, 3))
    joints3d[:, :, 1] = np.linspace(0, 1.7, 17)
    rewrite(files[0], joints3d=joints3d)
    with pytest.raises(ValueError, match=r"P\.npz: the median pose of joints3d is 1\.7 across"):
        read_predictions(files[0])
    joints3d[:9] *= 1000  # as long as most poses are in metres
    rewrite(files[0], joints3d=joints3d)
    with pytest.raises(ValueError, match="metres"):
        read_predictions(files[0])
    joints3d[9:] *= 1000
    rewrite(files[0], joints3d=joints3d)
    assert read_predictions(files[0]).joints3d.max() == pytest.approx(1700)


def test_units_of_the_other_arrays(files):
    rewrite(files[1], joints3d_universal=files[2]["joints3d"] / 1000)
    with pytest.raises(ValueError, match=r"A\.npz: the median pose of joints3d_universal is .* metres"):
        read_annotations(files[1])
    rewrite(files[0], joints2d=np.random.default_rng(0).random((20, 17, 2)))
    with pytest.raises(ValueError, match=r"P\.npz: the median pose of joints2d is 0\.\d+ across, as if in shares of the image"):
        read_predictions(files[0])


def test_units_are_those_of_what_counts(files):
    """Garbage where there is no annotation does not hide metres; poses with all points in one place say nothing."""
    joints3d = files[2]["joints3d"] / 1000
    joints3d[~files[2]["joint_validity_mask"]] = 1e6
    rewrite(files[1], joints3d=joints3d)
    with pytest.raises(ValueError, match="metres"):
        read_annotations(files[1])
    rewrite(files[0], joints3d=np.full((20, 17, 3), 3.0))
    assert read_predictions(files[0]).joints3d.shape == (20, 17, 3)
    joints3d = files[2]["joints3d"] / 1000
    joints3d[5:] = np.nan
    rewrite(files[0], joints3d=joints3d)
    with pytest.raises(ValueError, match="metres"):
        read_predictions(files[0])


# ---- nan


@pytest.mark.parametrize("name, size", [("joints3d", 3), ("joints3d_universal", 3), ("joints2d", 2)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_annotation_that_is_not_finite_is_refused(files, name, size, bad):
    array, mask = files[2]["joints3d"][..., :size].copy(), files[2]["joint_validity_mask"].copy()
    array[4, 2, 1], mask[4, 2] = bad, True
    rewrite(files[1], joint_validity_mask=mask, **{name: array})
    with pytest.raises(ValueError, match=rf"A\.npz: {name} is not finite at pose 4, joint 2 .* Set joint_validity_mask to"):
        scoring.score_files(*files[:2])
    mask[4, 2] = False
    rewrite(files[1], joint_validity_mask=mask)
    scoring.score_files(*files[:2])
    rewrite(files[1], joint_validity_mask=None)  # then all count
    with pytest.raises(ValueError, match=f"{name} is not finite at pose 4, joint 2"):
        scoring.score_files(*files[:2])


def test_prediction_that_is_not_finite_is_scored(files):
    joints3d = np.load(files[0])["joints3d"]
    joints3d[4], joints3d[5, 2] = np.nan, np.inf
    rewrite(files[0], joints3d=joints3d, joint_names=NAMES)
    rewrite(files[1], joint_validity_mask=None)
    record = scoring.score_files(*files[:2])
    assert np.isnan(record["metrics"]["mpjpe"]) and record["poses"]["num_nonfinite"] == 2


# ---- Two files


def named(source, joints3d, names=NAMES, **more):
    return Poses(source, joints3d, joint_names=names, **more)


def test_joint_orders_are_compared_where_both_files_name_them(files):
    rewrite(files[1], joint_names=NAMES)
    assert list(scoring.score_files(*files[:2])["per_joint"]) == list(NAMES)
    rewrite(files[0], joint_names=load_skeleton("h36m_17").joint_names)
    with pytest.raises(ValueError, match=r"P\.npz: joint 0 is called 'pelvis', but 'head_top' in .*A\.npz"):
        scoring.score_files(*files[:2])


@pytest.mark.parametrize("name, values", [("sequence", ["a", "a", "b"]), ("frame", [3, 4, 5]), ("person", [0, 1, 0]),
                                          ("activity", ["run", "sit", "run"]), ("split", ["test", "train", "test"])])
def test_labels_in_another_order_are_refused(name, values):
    joints3d = np.random.default_rng(0).normal(0, 300, (3, 17, 3))
    values = np.array(values)
    order = [2, 1, 0] if values[0] != values[2] else [1, 0, 2]
    pose = int(np.argmax(values[order] != values))
    true = Poses("A", joints3d, **{name: values})
    with pytest.raises(ValueError, match=f"P: {name} of pose {pose} is {values[order][pose]}, but {values[pose]} in A"):
        check_pair(Poses("P", joints3d, **{name: values[order]}), true)
    check_pair(Poses("P", joints3d, **{name: values}), true)


def test_labels_of_other_types_are_equal():
    for a, b in (([3, 4], ["3", "4"]), (["0003", "4"], [3, 4]), ([3.0, 4.0], ["3", "4"]), ([3, 4], [3.0, 4.0]),
                 (["x", "y"], [b"x", b"y"])):
        a, b = comparable_labels(np.array(a), np.array(b))
        assert (a == b).all()
    for label in ("4", "x", "30000000000000000000"):
        a, b = comparable_labels(np.array([3]), np.array([label]))
        assert (a != b).all()


def test_bytes_are_text(files):
    """As in arrays of C strings, and in what MATLAB's files become."""
    rewrite(files[0], joint_names=np.array(NAMES, "S"))
    rewrite(files[1], joint_names=NAMES, sequence=np.repeat(["küche".encode(), b"TS2"], 10))
    record = scoring.score_files(*files[:2])
    assert list(record["per_joint"]) == list(NAMES) and set(record["per_sequence"]) == {"küche", "TS2"}
    rewrite(files[1], sequence=np.repeat([b"k\xfc"], 20))
    with pytest.raises(ValueError, match=r"A\.npz cannot be read as an \.npz archive of .* text arrays.*utf-8"):
        scoring.score_files(*files[:2])


@pytest.mark.parametrize("error_mm", [0, 60])
def test_left_and_right_swapped(error_mm):
    rng = np.random.default_rng(0)
    true = rng.normal(0, 300, (50, 17, 3)) + np.array([0, 0, 4000])
    pred = true + rng.normal(0, error_mm / 1.6, true.shape)
    for swapped in (named("P", pred[:, MIRRORED]), Poses("P", pred[:, MIRRORED])):
        with pytest.raises(ValueError, match=r"P: left and right seem to be swapped: .* the joints into the order head_top"):
            check_pair(swapped, named("A", true))
    swapped = named("P", pred[:, MIRRORED])
    swapped.joints3d[:10] = np.nan
    swapped.joints3d[10:, 3] = np.inf
    with pytest.raises(ValueError, match="swapped"):
        check_pair(swapped, named("A", true))
    # half of the poses, no names to tell sides by, no annotation of the other side: nothing is said
    check_pair(named("P", np.where(np.arange(50)[:, None, None] % 2, pred, pred[:, MIRRORED])), named("A", true))
    check_pair(Poses("P", pred[:, MIRRORED]), Poses("A", true))
    one_side = np.repeat([["left" not in name for name in NAMES]], 50, axis=0)
    check_pair(named("P", pred), named("A", true, validity=one_side))


def test_poor_predictions_are_not_taken_for_swapped_ones():
    rng = np.random.default_rng(1)
    true = rng.normal(0, 300, (50, 17, 3))
    check_pair(named("P", rng.normal(0, 300, true.shape)), named("A", true))  # wrong either way
    check_pair(named("P", true * [-1, 1, 1] + rng.normal(0, 50, true.shape)), named("A", true))
    check_pair(named("P", np.repeat(true.mean(axis=(0, 1), keepdims=True), 50, axis=0) + np.zeros_like(true)), named("A", true))


def test_good_predictions_are_right_whatever_swapping_gives():
    """A person from the side, nearly: both sides lie 10 mm apart."""
    true = np.random.default_rng(3).normal(0, 300, (50, 17, 3))
    true = (true + true[:, MIRRORED]) / 2 + 5 * np.sign(np.arange(17) - MIRRORED)[:, None] * np.array([0, 0, 1])
    check_pair(named("P", true[:, MIRRORED]), named("A", true))


def test_swapped_sides_are_found_in_many_poses():
    true = np.tile(np.random.default_rng(2).normal(0, 300, (50, 17, 3)), (500, 1, 1))
    with pytest.raises(ValueError, match="swapped"):
        check_pair(named("P", true[:, MIRRORED]), named("A", true))


def test_joints_are_brought_into_the_order_of_a_protocol():
    true = np.random.default_rng(0).normal(0, 300, (4, 17, 3))
    order = np.random.default_rng(1).permutation(17)
    names = tuple(NAMES[j] for j in order)
    pred, annotated = check_protocol_pair(Poses("P", true[:, order]), named("A", true[:, order], names, root=int(
        np.flatnonzero(order == 14)[0])), NAMES)
    np.testing.assert_array_equal(pred.joints3d, true)
    assert annotated.root == 14 and pred.joint_names == annotated.joint_names == NAMES
    with pytest.raises(ValueError, match="A: joint_names lacks pelvis, spine; the protocol scores head_top"):
        check_protocol_pair(named("P", true), named("A", true, (*NAMES[:14], "a", "b", "c"), root=0), (*NAMES[:16],))
