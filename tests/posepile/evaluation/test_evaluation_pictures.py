import dataclasses

import cv2
import numpy as np
import pytest

from posepile.evaluation import benchmark, evaluation_pictures, metrics
from posepile.geometry.camera import project
from posepile.visualization.prediction_sheet import VIEW_SIDE
from tests.posepile import small_model
from tests.posepile.data.prepared import IMAGE_SIDE, dotted_example, write_prepared

NUM_POSES = 45


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """45 poses; of pose 7 two joints of seven lie outside of the image, of pose 9 one is not labelled."""
    folder, rng = tmp_path_factory.mktemp("drawn"), np.random.default_rng(5)
    examples = [dotted_example(rng, small_model.MERGED, "3d") for _ in range(NUM_POSES)]
    joints3d = examples[7].joints3d.copy()
    joints3d[2, 0] += 5000
    joints3d[3, 1] -= 5000
    examples[7] = dataclasses.replace(examples[7], joints3d=joints3d)
    joints3d = examples[9].joints3d.copy()
    joints3d[1] = np.nan
    examples[9] = dataclasses.replace(examples[9], joints3d=joints3d)
    return write_prepared(folder, "mine", small_model.MERGED, examples, "3d", "test")


@pytest.fixture(scope="module")
def truth(dataset):
    return benchmark.read_scored(dataset, 32)


def predictions(truth, errors_mm):
    """The truth with the joint left_ankle off; its error is a seventh of that, over both formats."""
    pred = truth.joints3d.copy()
    pred[:, small_model.MERGED.index("left_ankle_legs"), 0] += 7 * np.asarray(errors_mm, np.float64)
    return pred


def test_errors_of_poses_by_hand():
    true = np.zeros((4, 2, 3))
    true[:, 1, 0] = 500
    pred = true.copy()
    pred[0, 1, 1] = 30
    pred[1, 1] = np.nan
    validity = np.array([[1, 1], [1, 1], [1, 0], [0, 1]], bool)
    distances = metrics.joint_distances(pred, true, validity, 0)
    three = metrics.joint_distances(np.concatenate([pred, pred[:, :1]], 1), np.concatenate([true, true[:, :1]], 1),
                                    np.concatenate([validity, validity[:, :1]], 1), 0)
    np.testing.assert_array_equal(evaluation_pictures.pose_errors([distances]), [15, np.inf, 0, np.nan])
    np.testing.assert_array_equal(evaluation_pictures.pose_errors([distances, three]), [12, np.inf, 0, np.nan])


def test_share_inside_the_image(dataset, truth):
    shares = evaluation_pictures.inside_shares(dataset, truth)
    assert shares[7] == pytest.approx(5 / 7)
    for i, share in enumerate(shares):
        example = dataset.read("test", i)
        joints2d = project(example.joints3d[np.isfinite(example.joints3d[:, 0])], example.intrinsics)
        is_inside = [-0.5 < x < IMAGE_SIDE - 0.5 and -0.5 < y < IMAGE_SIDE - 0.5 for x, y in joints2d]
        assert share == pytest.approx(np.mean(is_inside))


def test_worst_and_median_poses_are_drawn_in_order(dataset, truth):
    errors = np.random.default_rng(1).permutation(NUM_POSES) + 1.0
    worst, median = evaluation_pictures.draw_crops(dataset, predictions(truth, errors), truth)
    assert (worst.title, median.title) == ("Worst 20", "Median 20")

    def shown(crops):
        return [int(caption.partition(":")[0].split()[0]) for caption in crops.captions]

    # pose 9 has one joint less, so that its error is larger by 7 / 6
    expected = np.sort(np.where(np.arange(NUM_POSES) == 9, errors * 7 / 6, errors))[::-1]
    assert shown(worst) == [round(error) for error in expected[:20]]
    assert shown(median) == [round(error) for error in expected[12:32]]
    position = int(worst.captions[0].split()[3])
    assert errors[position] == NUM_POSES or position == 9
    picture = cv2.imdecode(np.frombuffer(worst.pictures[0], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (VIEW_SIDE, 3 * VIEW_SIDE, 3) and len(worst.pictures) == 20


def test_undefined_predictions_are_the_worst_and_unlabelled_poses_left_out(dataset, truth):
    pred = predictions(truth, np.ones(NUM_POSES))
    pred[30, 0] = np.nan
    validity = truth.validity.copy()
    validity[31] = False
    worst, median = evaluation_pictures.draw_crops(dataset, pred, dataclasses.replace(truth, validity=validity))
    assert worst.captions[0].startswith("inf mm: test 30")
    assert not any("test 31" in caption for crops in (worst, median) for caption in crops.captions)


def test_positions_start_anew_in_every_split(truth):
    split = np.array(["train"] * 10 + ["validation"] * 5 + ["test"] * 30)
    positions = evaluation_pictures._positions(dataclasses.replace(truth, split=split))
    assert [positions[i] for i in (0, 9, 10, 14, 15, 44)] == [("train", 0), ("train", 9), ("validation", 0), ("validation", 4),
                                                              ("test", 0), ("test", 29)]


def test_figures_show_what_there_is(dataset, truth, monkeypatch):
    seen = {}
    monkeypatch.setattr(evaluation_pictures, "body_outline", lambda errors: seen.update(joints=errors) or b"")
    monkeypatch.setattr(evaluation_pictures, "share_curves", lambda curves: seen.update(curves=curves) or b"")
    monkeypatch.setattr(evaluation_pictures, "error_boxes", lambda groups, x_label: seen.update({x_label: dict(groups)}) or b"")
    errors = np.arange(NUM_POSES) / 7
    per_joint = {"arms": {"neck_arms": 1.0, "left_wrist_arms": 2.0, "right_wrist_arms": 3.0},
                 "legs": {"pelvis_legs": 4.0, "left_ankle_legs": 5.0, "right_ankle_legs": 6.0, "neck_legs": 7.0}}
    figures = evaluation_pictures.draw_errors(dataset, predictions(truth, errors), truth, per_joint)
    assert [figure.title for figure in figures] == ["Error per joint", "PCK curve", "Error over depth", "Error over truncation"]
    assert seen["joints"]["legs"] == {"pelvis": 4.0, "left_ankle": 5.0, "right_ankle": 6.0, "neck": 7.0}
    cps = np.sort(seen["curves"]["CPS"])
    np.testing.assert_allclose(cps[-3:], [42, 43, 44], atol=1e-3)  # of the format legs
    assert np.allclose(cps[:NUM_POSES + 1], 0, atol=1e-6)  # all of the format arms, and pose 0
    np.testing.assert_allclose(seen["curves"]["PCK of legs"].max(), 44, atol=1e-3)
    depth = np.array([np.mean(pose[valid, 2]) for pose, valid in zip(truth.joints3d, truth.validity, strict=True)])
    by_depth = list(seen["depth of the person, m"].values())
    assert sum(map(len, by_depth)) == NUM_POSES
    assert errors[depth.argmin()] == pytest.approx(by_depth[0][0], abs=1e-3)
    by_share = seen["annotated joints inside the image"]
    assert by_share["50-75 %"] == pytest.approx([1.0], abs=1e-3) and sum(map(len, by_share.values())) == NUM_POSES


def test_data_sets_of_one_format_are_drawn(tmp_path):
    rng = np.random.default_rng(2)
    examples = [dotted_example(rng, small_model.LEGS, "3d") for _ in range(3)]
    dataset = write_prepared(tmp_path, "legs", small_model.LEGS, examples, "3d", "test")
    truth = benchmark.read_scored(dataset, 32)
    pictures = evaluation_pictures.draw_pictures(dataset, truth.joints3d, truth, {"legs": dict.fromkeys("abcd", 0.0)})
    assert [crops.title for crops in pictures.crops] == ["Worst 3", "Median 3"]
    assert all(figure.data.startswith(b"\x89PNG") for figure in pictures.figures)
