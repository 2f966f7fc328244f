import dataclasses
import json

import numpy as np
import pytest

from posepile.data.crops import crop_examples
from posepile.evaluation import benchmark
from posepile.geometry.skeleton import joint_indices
from posepile.prediction.test_time_augmentation import PLAIN, make_views
from tests.posepile import small_model
from tests.posepile.data.prepared import dotted_example, write_prepared


class _KnowsTheTruth:
    """Answers with the labels in the frames of its crops, off by `offset`, whatever it is shown; other joints are nan."""

    skeleton = small_model.MERGED
    batch_size = 8

    class model:
        crop_side = 32

    def __init__(self, dataset, split, offset, views=PLAIN):
        num_examples = dataset.num_examples(split)
        geometry = views.geometry(np.tile(np.arange(len(views)), num_examples))
        truth = crop_examples(dataset, split, np.repeat(np.arange(num_examples), len(views)), 32, geometry=geometry)["joints3d"]
        self.poses = np.full((len(truth), 7, 3), np.nan, np.float32)
        self.poses[:, joint_indices(self.skeleton, dataset.skeleton)] = truth + np.float32(offset)
        self.position = 0

    def predict_crops(self, image, intrinsics):
        start, self.position = self.position, self.position + len(image)
        return self.poses[start:self.position]


@pytest.fixture(scope="module")
def legs(tmp_path_factory):
    """30 test poses and 10 training poses in the format legs."""
    folder, rng = tmp_path_factory.mktemp("evaluated"), np.random.default_rng(3)
    examples = [dotted_example(rng, small_model.LEGS, "3d") for _ in range(40)]
    write_prepared(folder, "legs", small_model.LEGS, examples[:10], "3d", "train")
    return write_prepared(folder, "legs", small_model.LEGS, examples[10:], "3d", "test")


def test_the_test_split_is_scored_if_there_is_one(legs, batch_plan):
    assert benchmark.evaluation_splits(legs) == ("test",)
    assert benchmark.evaluation_splits(batch_plan.datasets_3d[0][0]) == ("train",)


def test_scores_of_planted_errors(legs, tmp_path):
    # all joints 300 mm to the right, and the ankles 40 mm further back
    offset = np.array([[300, 0, 0], [300, 0, 40], [300, 0, 40], [300, 0, 0]])
    path = tmp_path / "evaluation" / "initial_legs.npz"
    scores = benchmark.evaluate_dataset(_KnowsTheTruth(legs, "test", offset), legs, path)
    assert scores["stamp"]["num_poses"] == 30
    assert scores["stamp"]["split"] == "test"
    assert scores["pooled"]["mpjpe"] == pytest.approx((0 + 40 + 40 + 0) / 4, rel=1e-3)  # the pelvis is the root
    exact = benchmark.evaluate_dataset(_KnowsTheTruth(legs, "test", 0), legs)
    assert exact["pooled"]["mpjpe"] == pytest.approx(0, abs=1e-3)
    with np.load(path) as file:
        assert file["joint_names"].tolist() == list(small_model.LEGS.joint_names)
        truth, mask = benchmark.read_truth(legs, "test", range(30), 32)
        np.testing.assert_allclose(file["joints3d"], truth + offset, rtol=1e-5)
        assert mask.all()


def test_test_time_augmentation_of_scores_comparisons_and_saved_predictions(legs, tmp_path):
    """An ankle that is 40 mm too far in the plain and in the mirrored crop: on average each ankle is by 20 mm."""
    offset, views = np.array([[0, 0, 0], [0, 0, 40], [0, 0, 0], [0, 0, 0]]), make_views(flip_aug=True)

    scores = benchmark.evaluate_dataset(_KnowsTheTruth(legs, "test", offset, views), legs, views=views)
    assert scores["pooled"]["mpjpe"] == pytest.approx((20 + 20) / 4, rel=1e-3)
    assert (scores["stamp"]["num_aug"], scores["stamp"]["flip"]) == (2, True)
    plain = benchmark.evaluate_dataset(_KnowsTheTruth(legs, "test", offset), legs)
    assert plain["pooled"]["pck100"] == 100 and (plain["stamp"]["num_aug"], plain["stamp"]["flip"]) == (1, False)

    models = {name: _KnowsTheTruth(legs, "test", error, views) for name, error in (("exact", 0), ("off", offset))}
    record = benchmark.compare_models(models, legs, views=views)
    assert record["differences"]["off"]["pooled"]["mpjpe"]["difference"] == pytest.approx(10, rel=1e-3)
    assert (record["stamp"]["num_aug"], record["stamp"]["flip"]) == (2, True)

    predictor, path = _KnowsTheTruth(legs, "train", offset, views), tmp_path / "both.npz"
    predictor.poses[np.isnan(predictor.poses)] = 4000
    benchmark.save_predictions(predictor, legs, path, views)
    with np.load(path) as file:
        errors = file["joints3d"][:, joint_indices(small_model.MERGED, small_model.LEGS)] - file["new_joints3d"]
        np.testing.assert_allclose(errors[..., 2], np.broadcast_to([0, 20, 20, 0], (10, 4)), atol=0.01)


def test_predictions_are_saved_beside_labels(legs, batch_plan, tmp_path):
    """In the frames of the crops, of the train split; the pose with a joint too near is left out."""
    predictor, path = _KnowsTheTruth(legs, "train", 5), tmp_path / "both.npz"
    predictor.poses[:, np.isnan(predictor.poses[0, :, 0])] = 4000
    predictor.poses[3, 0, 2] = 299
    assert benchmark.save_predictions(predictor, legs, path) == {"split": "train", "num_poses": 10, "num_left_out": 1}
    with np.load(path) as file:
        assert file["joint_names"].tolist() == list(small_model.MERGED.joint_names)
        assert file["new_joint_names"].tolist() == list(small_model.LEGS.joint_names)
        assert small_model.skeleton_from_dict(json.loads(str(file["skeleton"]))) == small_model.LEGS
        joints = file["joints3d"]
        assert np.flatnonzero(np.isnan(joints).any(axis=(1, 2))).tolist() == [3] and np.isnan(joints[3]).all()
        np.testing.assert_allclose(np.delete(joints[:, joint_indices(small_model.MERGED, small_model.LEGS)], 3, axis=0),
                                   np.delete(file["new_joints3d"], 3, axis=0) + 5, rtol=1e-5)
    photos = batch_plan.datasets_2d[0][0]
    crops = crop_examples(photos, "train", range(photos.num_examples("train")), 32)
    predictor.poses = np.full((len(crops["image"]), 7, 3), 4000.0)
    predictor.position = 0
    benchmark.save_predictions(predictor, photos, path)
    with np.load(path) as file:
        expected = np.where(crops["joints2d_mask"][..., None], crops["joints2d"], np.nan)
        np.testing.assert_array_equal(file["new_joints2d"], expected)
        np.testing.assert_array_equal(file["intrinsics"], crops["intrinsics"])


def test_truth_is_read_in_pieces_in_order(legs, monkeypatch):
    whole = benchmark.read_truth(legs, "test", range(30), 32)[0]
    one_by_one = np.concatenate([benchmark.read_truth(legs, "test", [i], 32)[0] for i in range(30)])
    np.testing.assert_array_equal(whole, one_by_one)


def test_data_set_without_3d_labels_is_refused(batch_plan, legs):
    photos = batch_plan.datasets_2d[0][0]
    with pytest.raises(ValueError, match="photos has 2D labels only"):
        benchmark.evaluate_dataset(_KnowsTheTruth(legs, "test", 0), photos)


def test_joints_that_a_model_lacks_are_named(legs):
    arms_only = _KnowsTheTruth(legs, "test", 0)
    arms_only.skeleton = small_model.ARMS
    with pytest.raises(ValueError, match=r"second: data set legs is labelled in legs.*it lacks pelvis_legs, left_ankle_legs, "
                                         r"right_ankle_legs, neck_legs; its formats: arms"):
        benchmark.check_models({"first": _KnowsTheTruth(legs, "test", 0), "second": arms_only}, [legs])


def test_models_are_compared_on_the_same_images(legs):
    near, far = np.array([[0, 0, 0], [30, 0, 0], [0, 0, 0], [0, 0, 0]]), np.array([[0, 0, 0], [90, 0, 0], [0, 0, 0], [0, 0, 0]])
    record = benchmark.compare_models({"far": _KnowsTheTruth(legs, "test", far), "near": _KnowsTheTruth(legs, "test", near)},
                                      legs, confidence=0.9)
    difference = record["differences"]["near"]["pooled"]["mpjpe"]
    assert difference["difference"] == pytest.approx(-60 / 4, rel=1e-4)
    assert record["models"]["near"]["pooled"]["mpjpe"] == pytest.approx(30 / 4, rel=1e-4)
    assert {"dataset": "legs", "split": "test", "num_poses": 30, "resampled": "poses", "num_groups": 30, "reference": "far",
            "confidence": 0.9}.items() <= record["stamp"].items()  # these examples carry no sequence


def test_sequences_of_the_examples_are_resampled_and_activities_told_apart(tmp_path):
    rng = np.random.default_rng(1)
    examples = [dataclasses.replace(dotted_example(rng, small_model.LEGS, "3d"),
                                    provenance={"sequence": f"S{i // 4}", "activity": "run" if i < 8 else "sit"})
                for i in range(12)]
    dataset = write_prepared(tmp_path, "legs", small_model.LEGS, examples, "3d", "test")
    labels = benchmark.read_scored(dataset, 32).labels
    assert labels["sequence"].tolist() == ["S0"] * 4 + ["S1"] * 4 + ["S2"] * 4 and "frame" not in labels
    models = {"a": _KnowsTheTruth(dataset, "test", 0), "b": _KnowsTheTruth(dataset, "test", 0)}
    models["b"].poses[:8, small_model.MERGED.index("left_ankle_legs")] += 40
    record = benchmark.compare_models(models, dataset)
    assert (record["stamp"]["resampled"], record["stamp"]["num_groups"]) == ("sequences", 3)
    by_activity = record["differences"]["b"]["per_activity"]
    assert by_activity["run"]["mpjpe"]["difference"] == pytest.approx(40 * 3 ** 0.5 / 4, rel=1e-4)
    assert by_activity["sit"]["mpjpe"]["difference"] == 0


def test_mean_pose_baseline_by_hand(legs):
    scores = benchmark.evaluate_baseline([legs], legs, 32)
    train = benchmark.read_truth(legs, "train", range(10), 32)[0].astype(float)
    test = benchmark.read_truth(legs, "test", range(30), 32)[0].astype(float)
    mean_pose = (train - train[:, :1]).mean(axis=0)
    expected = np.linalg.norm(test - test[:, :1] - mean_pose, axis=-1).mean()
    assert scores["pooled"]["mpjpe"] == pytest.approx(expected, rel=1e-4)


def test_no_baseline_where_no_training_set_has_the_format(batch_plan, legs):
    arms = batch_plan.datasets_3d[0][0]
    assert benchmark.evaluate_baseline([arms], legs, 32) is None


def test_scores_are_saved_as_json(tmp_path):
    benchmark.save_scores(tmp_path / "evaluation" / "scores.json", {"mpjpe": np.float32(1.5), "pck": float("nan")})
    assert json.loads((tmp_path / "evaluation" / "scores.json").read_text()) == {"mpjpe": 1.5, "pck": None}
