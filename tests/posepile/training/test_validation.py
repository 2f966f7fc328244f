import numpy as np
import pytest

from posepile.data.crops import crop_examples
from posepile.data.tfrecord import CorruptRecordError
from posepile.evaluation.scoring import score_merged
from posepile.geometry.skeleton import joint_indices, merge_skeletons, skeleton_from_dict
from posepile.training import validation
from posepile.training.validation import make_validation
from tests.posepile.data.prepared import dotted_example, write_prepared
from tests.posepile.small_model import ARMS, CROP_SIDE, LEGS, MERGED

ROOTLESS = skeleton_from_dict({"name": "rootless", "joints": ["left_ear", "right_ear", "nose"],
                               "mirror_pairs": [["left_ear", "right_ear"]], "edges": []})


def _prepared(folder, name, skeleton, num_examples=6, kind="3d", split="validation", missing=()):
    """Examples with random joints; `missing` (example, joint) have no label."""
    rng = np.random.default_rng(len(name))
    examples = [dotted_example(rng, skeleton, kind) for _ in range(num_examples)]
    for i, joint in missing:
        examples[i].joints3d[joint] = np.nan
    return write_prepared(folder, name, skeleton, examples, kind, split)


def _truth(dataset):
    count = dataset.num_examples("validation")
    return crop_examples(dataset, "validation", range(count), CROP_SIDE)


def _predictor(datasets, merged, error=0.0, elsewhere=np.nan):
    """Predicts the truth plus an error, a number or [num_joints, 3], and `elsewhere` for joints of other data sets."""
    table = {}
    for dataset in datasets:
        batch = _truth(dataset)
        for intrinsics, joints3d in zip(batch["intrinsics"], batch["joints3d"], strict=True):
            pose = np.full((merged.num_joints, 3), elsewhere)
            pose[joint_indices(merged, dataset.skeleton)] = joints3d
            table[intrinsics.tobytes()] = pose

    def predict(image, intrinsics):
        assert image.dtype == np.uint8 and image.shape == (len(intrinsics), CROP_SIDE, CROP_SIDE, 3)
        return np.stack([table[k.tobytes()] for k in intrinsics]) + error

    return predict


@pytest.fixture(scope="module")
def arms_and_legs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return [_prepared(folder, "arms", ARMS), _prepared(folder, "legs_set", LEGS, num_examples=5)]


def test_score_is_relative_to_the_root_and_a_mean_over_data_sets(arms_and_legs):
    check = make_validation(arms_and_legs, MERGED, CROP_SIDE)
    assert check.num_examples == {"arms": 6, "legs_set": 5}
    names = ["validation_mpjpe", "validation_mpjpe/arms", "validation_mpjpe/legs_set"]
    moved = check.score(_predictor(arms_and_legs, MERGED, error=np.array([500.0, -70, 900])))
    assert list(moved) == names and np.allclose(list(moved.values()), 0, atol=1e-3)
    error = np.zeros((MERGED.num_joints, 3))
    error[MERGED.index("left_wrist_arms")] = [30, 0, 40]
    error[MERGED.index("pelvis_legs")] = [0, 8, 0]  # the root: the three others are off
    scores = check.score(_predictor(arms_and_legs, MERGED, error))
    assert list(scores.values()) == pytest.approx([(50 / 3 + 6) / 2, 50 / 3, 6], abs=1e-3)


def test_score_is_the_pooled_mpjpe_of_the_evaluation(tmp_path):
    merged = merge_skeletons([ARMS, LEGS, ROOTLESS])
    # example 2 has no root of arms (joint 0), example 4 no ear, example 5 nothing
    missing = [(2, 0), (4, 7), *((5, j) for j in range(merged.num_joints))]
    dataset = _prepared(tmp_path, "all", merged, 8, missing=missing)
    predict = _predictor([dataset], merged, np.random.default_rng(3).normal(0, 90, (merged.num_joints, 3)))
    batch = _truth(dataset)
    expected = score_merged(predict(batch["image"], batch["intrinsics"]), batch["joints3d"], batch["joints3d_mask"], merged)
    score = make_validation([dataset], merged, CROP_SIDE).score(predict)
    assert score["validation_mpjpe"] == pytest.approx(expected["pooled"]["mpjpe"], rel=1e-9) and score["validation_mpjpe"] > 50


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_predictions_that_are_not_finite_show_in_the_score_and_spoil_no_picture(arms_and_legs, value):
    check = make_validation(arms_and_legs, MERGED, CROP_SIDE)
    error = np.zeros((MERGED.num_joints, 3))
    error[MERGED.index("right_wrist_arms")] = value
    predict = _predictor(arms_and_legs, MERGED, error)
    scores = check.score(predict)
    assert not np.isfinite(scores["validation_mpjpe/arms"]) and not np.isfinite(scores["validation_mpjpe"])
    assert scores["validation_mpjpe/legs_set"] == pytest.approx(0, abs=1e-3)
    assert len(check.pictures(predict)) == 2


def test_pictures_are_of_the_same_few_crops_every_time(arms_and_legs):
    check, calls = make_validation(arms_and_legs, MERGED, CROP_SIDE), []
    oracle = _predictor(arms_and_legs, MERGED, elsewhere=0)

    def predict(image, intrinsics):
        calls.append(image)
        return oracle(image, intrinsics)

    first, second = check.pictures(predict), check.pictures(predict)
    assert list(first) == ["predictions/arms", "predictions/legs_set"]
    for name, picture in first.items():
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        np.testing.assert_array_equal(picture, second[name])
    arms = _truth(arms_and_legs[0])["image"]
    np.testing.assert_array_equal(calls[0], arms[[0, 2, 5]])
    off = check.pictures(lambda image, intrinsics: oracle(image, intrinsics) + np.arange(MERGED.num_joints)[:, None] * 20)
    assert (off["predictions/arms"] != first["predictions/arms"]).any()


def test_crops_are_evenly_spread_and_bounded(arms_and_legs, monkeypatch):
    def seen(**options):
        images = []
        make_validation(arms_and_legs, MERGED, CROP_SIDE, **options).score(
            lambda image, intrinsics: images.append(image) or np.zeros((len(image), MERGED.num_joints, 3)))
        return images

    arms, legs = (_truth(dataset)["image"] for dataset in arms_and_legs)
    np.testing.assert_array_equal(seen(max_per_dataset=3)[0], arms[[0, 2, 5]])
    monkeypatch.setattr(validation, "MAX_EXAMPLES", 5)
    np.testing.assert_array_equal(seen()[1], legs[[0, 4]])


def test_data_sets_without_3d_labels_or_validation_split_are_left_out(tmp_path, arms_and_legs):
    trained = _prepared(tmp_path, "trained", ARMS, split="train")
    photos = _prepared(tmp_path, "photos", ARMS, kind="2d")
    unlabelled = _prepared(tmp_path, "unlabelled", ARMS, 2, missing=[(0, 0), (1, 0)])  # no root
    assert make_validation([trained, photos, unlabelled], MERGED, CROP_SIDE) is None
    check = make_validation([trained, arms_and_legs[1], photos, unlabelled], MERGED, CROP_SIDE)
    assert check.num_examples == {"legs_set": 5}


def test_format_that_the_model_does_not_predict_is_refused(arms_and_legs):
    with pytest.raises(ValueError, match="pelvis_legs"):
        make_validation(arms_and_legs, merge_skeletons([ARMS]), CROP_SIDE)


def test_bad_records_stop_or_are_skipped(tmp_path):
    dataset = _prepared(tmp_path, "arms", ARMS)
    predict = _predictor([dataset], MERGED)
    _, offset, num_bytes = dataset.index("validation")[2]
    shard = tmp_path / "arms" / "validation-00000-of-00001.tfrecord"
    data = bytearray(shard.read_bytes())
    data[offset + num_bytes // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptRecordError, match=f"at byte {offset}"):
        make_validation([dataset], MERGED, CROP_SIDE)
    check = make_validation([dataset], MERGED, CROP_SIDE, skip_bad=True)
    assert check.num_examples == {"arms": 5}
    assert check.score(predict)["validation_mpjpe"] == pytest.approx(0, abs=1e-3)
