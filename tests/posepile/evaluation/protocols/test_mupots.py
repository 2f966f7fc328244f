"""MuPoTS-3D against a slow implementation of its rules, pose by pose and joint by joint, and by hand."""

import numpy as np
import pytest

from posepile.evaluation import metrics
from posepile.evaluation.prediction_files import Poses
from posepile.evaluation.protocols import mupots

PELVIS = 14
NAMES = {name: j for j, name in enumerate(mupots.JOINTS)}
PARENTS = {"spine": "pelvis", "neck": "spine", "head_top": "neck", "head": "neck",
           **{f"{side}_{joint}": f"{side}_{parent}" for side in ("left", "right") for joint, parent in
              (("elbow", "shoulder"), ("wrist", "elbow"), ("knee", "hip"), ("ankle", "knee"))},
           **{f"{side}_{joint}": parent for side in ("left", "right") for joint, parent in
              (("shoulder", "neck"), ("hip", "pelvis"))}}


def project(joints3d):
    return joints3d[..., :2] / joints3d[..., 2:] * 1500 + np.array([1000, 800])


def people(num, seed=0):
    """[num, 17, 3] mm: people 600 mm apart."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 300, (num, 17, 3)) + np.stack([600 * np.arange(num) - 300 * num, np.zeros(num),
                                                        np.full(num, 5000)], axis=1)[:, None]


def poses(source, joints3d, frame, sequence=None, **more):
    frame = np.array(frame)
    sequence = np.array(["TS1"] * len(frame) if sequence is None else sequence)
    return Poses(source, joints3d, **{"joints2d": project(joints3d), "frame": frame, "sequence": sequence, **more})


def slow_match(pred, true):
    match, taken = [], set()
    for i in range(len(true.joints3d)):
        best, best_count = -1, 0
        for k in range(len(pred.joints3d)):
            if k in taken or (pred.sequence[k], pred.frame[k]) != (true.sequence[i], true.frame[i]):
                continue
            count = 0
            for j in range(1, 14):
                x, y = pred.joints2d[k, j]
                count += (abs(x - true.joints2d[i, j, 0]) < 40 and abs(y - true.joints2d[i, j, 1]) < 40 and (x, y) != (0, 0))
            if count > best_count:
                best, best_count = k, count
        match.append(best)
        taken.add(best) if best >= 0 else None
    return match


def slow_rescale(pred, true):
    result = {"pelvis": pred[PELVIS]}
    while len(result) < 17:
        for child, parent in PARENTS.items():
            if parent in result and child not in result:
                bone = pred[NAMES[child]] - pred[NAMES[parent]]
                length = np.linalg.norm(true[NAMES[child]] - true[NAMES[parent]])
                result[child] = result[parent] + bone / np.linalg.norm(bone) * length
    return np.array([result[name] for name in mupots.JOINTS])


def slow_scores(pred, true, target, is_rescaled):
    """Of matched people, joints then poses then sequences; and matched values times the share matched, by sequence."""
    match, rows = slow_match(pred, true), {}
    for sequence in np.unique(true.sequence):
        rows[sequence] = []
        for i in np.flatnonzero(true.sequence == sequence):
            if match[i] >= 0:
                p, g = pred.joints3d[match[i]], target[i]
                p = slow_rescale(p, g) if is_rescaled else p
                d = [np.linalg.norm((p[j] - p[PELVIS]) - (g[j] - g[PELVIS])) for j in range(17)]
                a = [np.linalg.norm(p[j] - g[j]) for j in range(17)]
                rows[sequence].append({
                    "pck150": 100 * np.mean([x < 150 for x in d[:14]]), "apck150": 100 * np.mean([x < 150 for x in a[:14]]),
                    "auc31": 100 * np.mean([[x < t for x in d[:14]] for t in range(0, 151, 5)]),
                    "aauc31": 100 * np.mean([[x < t for x in a[:14]] for t in range(0, 151, 5)]),
                    "mpjpe14": np.mean(d[:14]), "mpjpe16": np.mean(d[:14] + d[15:]), "mpjpe17": np.mean(d),
                    "a_mpjpe17": np.mean(a)})
    by_sequence = {sequence: {name: np.mean([row[name] for row in own]) for name in own[0]} for sequence, own in rows.items()}
    matched = {name: np.mean([own[name] for own in by_sequence.values()]) for name in next(iter(by_sequence.values()))}
    everyone = {name: np.mean([own[name] * len(rows[sequence]) / np.sum(true.sequence == sequence)
                               for sequence, own in by_sequence.items()]) for name in ("pck150", "auc31", "apck150", "aauc31")}
    return matched, everyone


@pytest.fixture(name="crowd")
def _crowd():
    """3 people a frame in 8 frames of 2 uneven sequences; some are not predicted, some predictions are of nobody, and the
    order is another."""
    rng = np.random.default_rng(1)
    true = np.concatenate([people(3, seed) for seed in range(8)])
    frame, sequence = np.repeat([0, 1, 2, 0, 1, 2, 3, 4], 3), np.repeat(["TS2", "TS1"], [9, 15])
    order = rng.permutation(24)[:19]
    pred = true[order] + rng.normal(0, 60, (19, 17, 3))
    pred[:3] += [3000, 0, 0]
    return (poses("P", pred, frame[order], sequence[order], person=np.arange(19)),
            poses("A", true, frame, sequence, person=np.tile(np.arange(3), 8),
                  joints3d_universal=(true - true[:, PELVIS:PELVIS + 1]) * 1.1 + true[:, PELVIS:PELVIS + 1]))


def test_equals_a_slow_implementation(crowd):
    pred, true = crowd
    match = slow_match(pred, true)
    assert 10 < sum(row >= 0 for row in match) < 20
    np.testing.assert_array_equal(mupots.match_people(pred, true), match)
    record = mupots.score(pred, true)
    for kind, target in (("metric", true.joints3d), ("universal", true.joints3d_universal)):
        for suffix in ("", "_rescaled"):
            matched, everyone = slow_scores(pred, true, target, bool(suffix))
            part = record["matched"][kind + suffix]
            assert part["metrics"] == pytest.approx({**matched, "num_poses": sum(row >= 0 for row in match)}, rel=1e-9)
            assert record["all_annotated"][kind + suffix]["metrics"] == pytest.approx({**everyone, "num_poses": 24}, rel=1e-9)
            assert part["stamp"]["bones"] == ("of annotated length" if suffix else "as predicted")
            assert part["stamp"]["annotation"].startswith(kind) and part["stamp"]["data"] == "matched people"
    is_matched = np.array(match) >= 0
    expected = metrics.compute_metrics(pred.joints3d[np.array(match)[is_matched]], true.joints3d[is_matched], root=PELVIS)
    assert {name: record["metrics"][name] for name in expected} == pytest.approx(expected)
    recall = 100 * is_matched.mean()
    assert {name: record["metrics"][name] for name in ("recall", "num_annotated", "num_predicted")} == {
        "recall": pytest.approx(recall), "num_annotated": 24, "num_predicted": 19}
    assert record["stamp"]["recall"] == record["matched"]["metric"]["stamp"]["recall"] == round(recall, 2)
    assert record["recall_per_sequence"] == pytest.approx({name: 100 * is_matched[true.sequence == name].mean()
                                                           for name in ("TS1", "TS2")})
    low, high = record["intervals"]["metrics"]["recall"]
    assert low < recall < high


def one_frame(joints2d_pred, joints2d_true):
    """Everyone in one frame; [num_people, 17, 2] px."""
    pred, true = (poses(source, people(len(joints2d)), [0] * len(joints2d), joints2d=np.array(joints2d, float))
                  for source, joints2d in (("P", joints2d_pred), ("A", joints2d_true)))
    return mupots.match_people(pred, true).tolist()


def test_matching_by_hand():
    base = np.tile([500.0, 500.0], (17, 1))
    assert one_frame([base + 39.9], [base]) == [0]  # a box: farther than 40 px along the diagonal
    for offset in ([40, 0], [0, -40]):  # strict
        assert one_frame([base + np.array(offset)], [base]) == [-1]
    other = base + 500
    other[[0, 14, 15, 16]] = base[0]  # head top, pelvis, spine and head do not count
    assert one_frame([other], [base]) == [-1]
    one_joint = base + 500
    one_joint[13] = base[13]
    assert one_frame([one_joint], [base]) == [0]
    assert one_frame([one_joint, base, base], [base]) == [1]  # most joints; the first of equal ones
    assert one_frame([base], [base, base]) == [0, -1]  # nobody twice
    # greedy in the order of the annotations: the first one takes what the second one needs, though both could be matched
    both, second_only = base + np.array([20, 0]), base + np.array([-60, 0])
    second_only[1] = base[1]
    assert one_frame([both, second_only], [base + np.array([39, 0]), base + np.array([40, 0])]) == [0, -1]
    assert one_frame([both, second_only], [base, base + np.array([30, 0])]) == [0, 1]


def test_a_predicted_joint_at_the_origin_of_the_image_does_not_count():
    near_corner = np.tile([5.0, 5.0], (17, 1))
    assert one_frame([np.zeros((17, 2))], [near_corner]) == [-1]
    assert one_frame([np.tile([0.0, 1.0], (17, 1))], [near_corner]) == [0]
    assert one_frame([np.full((17, 2), np.nan)], [near_corner]) == [-1]


def test_frames_and_sequences_are_told_apart_whatever_their_type():
    joints3d = people(1)
    true = poses("A", joints3d, [7], ["TS1"])
    assert mupots.match_people(poses("P", joints3d, [8], ["TS1"]), true).tolist() == [-1]
    assert mupots.match_people(poses("P", joints3d, [7], ["TS2"]), true).tolist() == [-1]
    for frame in (["7"], [7.0], [np.int8(7)]):
        assert mupots.match_people(poses("P", joints3d, frame, ["TS1"]), true).tolist() == [0]


def test_one_missed_person_by_hand():
    """Sequence a: one of two people is found, a wrist off by 160 mm; b: the one person is exact. The missed one is so small
    that any pose would be near."""
    true = np.concatenate([people(2), people(1, 1)])
    true[1] = true[1, PELVIS] + 0.05 * (true[1] - true[1, PELVIS])
    pred = true[[0, 2]].copy()
    pred[0, NAMES["left_wrist"], 2] += 160
    record = mupots.score(poses("P", pred, [0, 0], ["a", "b"]), poses("A", true, [0, 0, 0], ["a", "a", "b"]))
    assert record["metrics"]["recall"] == pytest.approx(200 / 3) and record["metrics"]["mpjpe"] == pytest.approx(160 / 34)
    matched, everyone = record["matched"]["metric"]["metrics"], record["all_annotated"]["metric"]["metrics"]
    assert matched["pck150"] == pytest.approx((100 * 13 / 14 + 100) / 2)
    assert everyone["pck150"] == pytest.approx((100 * 13 / 28 + 100) / 2)
    assert matched["mpjpe14"] == pytest.approx(160 / 14 / 2) and matched["mpjpe16"] == pytest.approx(160 / 16 / 2)
    assert matched["mpjpe17"] == matched["a_mpjpe17"] == pytest.approx(160 / 17 / 2)
    assert set(everyone) == {"pck150", "auc31", "apck150", "aauc31", "num_poses"} and set(record["matched"]) == {
        "metric", "metric_rescaled"}
    assert record["recall_per_sequence"] == {"a": 50, "b": 100}


def test_a_sequence_in_which_nobody_is_found():
    true = people(2)
    record = mupots.score(poses("P", true[:1], [0], ["a"]), poses("A", true, [0, 0], ["a", "b"]))
    assert record["matched"]["metric"]["metrics"]["pck150"] == 100  # of matched people there are none in b
    assert record["all_annotated"]["metric"]["metrics"]["pck150"] == 50
    assert record["recall_per_sequence"] == {"a": 100, "b": 0}


def test_people_and_joints_without_annotation_do_not_count():
    """The second person has no valid joint: neither found, though predicted, nor missed. An ankle of the first one and a wrist
    of the missed third have none."""
    true = people(3)
    validity = np.ones((3, 17), bool)
    validity[1], validity[0, NAMES["left_ankle"]], validity[2, NAMES["left_wrist"]] = False, False, False
    annotated = np.where(validity[..., None], true, np.nan)
    pred = true[:2].copy()
    pred[0, NAMES["left_ankle"]] += 9000
    record = mupots.score(poses("P", pred, [0, 0]), poses("A", annotated, [0, 0, 0], validity=validity, joints2d=project(true)))
    assert record["metrics"]["recall"] == 50 and record["metrics"]["num_annotated"] == 2
    for variant in ("metric", "metric_rescaled"):
        assert record["matched"][variant]["metrics"]["pck150"] == 100
        assert record["matched"][variant]["metrics"]["mpjpe17"] == pytest.approx(0, abs=1e-9)
        assert record["all_annotated"][variant]["metrics"]["pck150"] == pytest.approx(100 * 13 / 26)


def test_bones_get_annotated_lengths_and_keep_directions():
    rng = np.random.default_rng(2)
    pred, true = rng.normal(0, 300, (2, 6, 17, 3))
    moved = mupots.rescale_bones(pred, true)
    np.testing.assert_array_equal(moved[:, PELVIS], pred[:, PELVIS])
    for child, parent in ((NAMES[child], NAMES[parent]) for child, parent in PARENTS.items()):
        bones = [pose[:, child] - pose[:, parent] for pose in (moved, pred, true)]
        lengths = [np.linalg.norm(bone, axis=-1) for bone in bones]
        np.testing.assert_allclose(lengths[0], lengths[2])
        np.testing.assert_allclose((bones[0] * bones[1]).sum(axis=-1), lengths[0] * lengths[1])
    np.testing.assert_allclose(mupots.rescale_bones(moved, true), moved)
    pred[:, NAMES["left_elbow"]] = pred[:, NAMES["left_shoulder"]]
    with np.errstate(all="raise"):
        collapsed = mupots.rescale_bones(pred, true)
    np.testing.assert_array_equal(collapsed[:, NAMES["left_elbow"]], collapsed[:, NAMES["left_shoulder"]])
    assert np.isfinite(collapsed).all()


def test_garbage_in_joints_without_annotation_moves_no_bone():
    rng = np.random.default_rng(3)
    pred, true = rng.normal(0, 300, (2, 4, 17, 3))
    validity = np.ones((4, 17), bool)
    validity[:, NAMES["neck"]] = False
    garbage = true.copy()
    garbage[:, NAMES["neck"]] = np.nan
    moved = mupots.rescale_bones(pred, garbage, validity)
    np.testing.assert_array_equal(moved, mupots.rescale_bones(pred, true, validity))
    bone = moved[:, NAMES["left_shoulder"]] - moved[:, NAMES["neck"]]
    np.testing.assert_allclose(bone, pred[:, NAMES["left_shoulder"]] - pred[:, NAMES["neck"]])


def test_a_prediction_that_is_not_finite_is_wrong_in_every_variant(crowd):
    pred, true = crowd
    k = next(row for row in slow_match(pred, true) if row >= 0)
    joints3d = pred.joints3d.copy()
    joints3d[k, NAMES["left_wrist"]] = np.nan  # nothing hangs on it
    broken = mupots.score(poses("P", joints3d, pred.frame, pred.sequence, joints2d=pred.joints2d), true)
    joints3d[k, NAMES["left_wrist"]] = 1e9
    far = mupots.score(poses("P", joints3d, pred.frame, pred.sequence, joints2d=pred.joints2d), true)
    assert broken["metrics"]["recall"] == far["metrics"]["recall"] and np.isnan(broken["metrics"]["mpjpe"])
    for variant in ("metric", "universal"):
        assert np.isnan(broken["matched"][variant]["metrics"]["mpjpe14"])
        for part in ("matched", "all_annotated"):
            for name in ("pck150", "auc31", "apck150", "aauc31"):
                assert broken[part][variant]["metrics"][name] == pytest.approx(far[part][variant]["metrics"][name])
    assert np.isnan(broken["matched"]["metric_rescaled"]["metrics"]["mpjpe17"])


def test_bad_pairs(crowd):
    pred, true = crowd
    with pytest.raises(ValueError, match="P lacks joints2d, frame: people are matched by 2D joints, frame by frame"):
        mupots.score(Poses("P", pred.joints3d, sequence=pred.sequence), true)
    with pytest.raises(ValueError, match="P: nobody is within 40 px of an annotated person of A"):
        mupots.score(poses("P", pred.joints3d, pred.frame + 100, pred.sequence), true)
    with pytest.raises(ValueError, match="A: joints3d has 24 joints; the protocol takes 17"):
        mupots.score(pred, poses("A", np.ones((3, 24, 3)), [0, 0, 0]))
    mirrored = [NAMES[name.replace("left", "x").replace("right", "left").replace("x", "right")] for name in mupots.JOINTS]
    with pytest.raises(ValueError, match="P: left and right seem to be swapped"):
        mupots.score(poses("P", pred.joints3d[:, mirrored], pred.frame, pred.sequence, joints2d=pred.joints2d), true)
