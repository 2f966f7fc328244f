"""What all protocols share: averaging, intervals, stamps; and evaluate.py on files, once per protocol."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats

from posepile.evaluation import metrics
from posepile.evaluation.prediction_files import Poses
from posepile.evaluation.protocols import h36m, mpi_inf_3dhp, record, threedpw
from posepile.evaluation.statistics import PoseSums
from tests import end_to_end

KEYS = {"mpjpe", "pa_mpjpe", "n_mpjpe", "a_mpjpe", "pck50", "pck100", "pck150", "auc50", "auc100", "auc150", "auc31",
        "cps100", "cps150", "cps200", "cps_auc100", "cps_auc150", "cps_auc200", "apck150", "apck300", "num_poses",
        "num_undefined"}


def scored_of_distances(distances, confidence=0.95, **labels):
    """Three joints, the root first and exact; the two others off by `distances`, [num_poses, 2] mm, along x."""
    distances = np.array(distances, float)
    true = np.random.default_rng(0).normal(0, 300, (len(distances), 3, 3)) + np.array([0, 0, 4000])
    pred = true.copy()
    pred[:, 1:, 0] += distances
    labels = {name: np.array(values) for name, values in labels.items()}
    return record.score_pair(Poses("P", pred), Poses("A", true, **labels), 0, confidence)


def mpjpe_part(scored, averaging):
    return scored.metrics_of(metrics.pose_sums(scored.distances).select(["mpjpe"]), averaging)


def literal_interval(statistic, sequence, confidence):
    """The statistic of [poses] indices, of resampled sequences, one resample at a time; Student's t around the estimate."""
    sequence = np.array(sequence)
    names = np.unique(sequence)
    values = []
    for draw in np.random.default_rng(0).integers(len(names), size=(2000, len(names))):
        values.append(statistic(np.concatenate([np.flatnonzero(sequence == names[i]) for i in draw])))
    error = np.nanstd(values) * math.sqrt(len(names) / (len(names) - 1))
    reach = scipy.stats.t.ppf((1 + confidence) / 2, len(names) - 1) * error
    estimate = statistic(np.arange(len(sequence)))
    return [estimate - reach, estimate + reach]


def test_averaging_by_hand():
    # means of the poses, root included: 10, 20, 40 and 60
    scored = scored_of_distances([[30, 0], [30, 30], [60, 60], [90, 90]], sequence=["s", "s", "s", "t"],
                                 activity=["sit", "run", "run", "run"])
    pooled, by_sequence, by_activity = (mpjpe_part(scored, averaging) for averaging in
                                        (record.POOLED, record.PER_SEQUENCE, record.PER_ACTIVITY))
    assert pooled["metrics"] == {"mpjpe": pytest.approx(130 / 4), "num_poses": 4}
    assert by_sequence["metrics"] == {"mpjpe": pytest.approx((70 / 3 + 60) / 2), "num_poses": 4}
    assert by_activity["metrics"] == {"mpjpe": pytest.approx((10 + 40) / 2), "num_poses": 4}
    assert {part["stamp"]["averaging"] for part in (pooled, by_sequence, by_activity)} == {
        record.POOLED, record.PER_SEQUENCE, record.PER_ACTIVITY}
    assert all(part["stamp"]["resampled"] == "sequences" for part in (pooled, by_sequence, by_activity))


def test_intervals_are_those_of_a_loop_over_resamples():
    rng = np.random.default_rng(2)
    sequence = np.repeat(["d", "b", "a", "c"], [3, 5, 4, 2])
    activity = np.array(["sit", "run"])[np.arange(14) % 2]
    distances = rng.uniform(0, 200, (14, 2))
    error = distances.sum(axis=1) / 3
    scored = scored_of_distances(distances, 0.9, sequence=sequence, activity=activity)

    def mean_of(labels):
        return lambda poses: np.mean([error[poses[labels[poses] == label]].mean() for label in np.unique(labels)])

    assert mpjpe_part(scored, record.POOLED)["intervals"]["mpjpe"] == pytest.approx(
        literal_interval(lambda poses: error[poses].mean(), sequence, 0.9))
    assert mpjpe_part(scored, record.PER_ACTIVITY)["intervals"]["mpjpe"] == pytest.approx(
        literal_interval(mean_of(activity), sequence, 0.9))
    of_sequences = np.array([error[sequence == name].mean() for name in "abcd"])
    assert mpjpe_part(scored, record.PER_SEQUENCE)["intervals"]["mpjpe"] == pytest.approx(
        literal_interval(lambda sequences: of_sequences[sequences].mean(), np.arange(4), 0.9))


def test_a_part_is_as_sure_as_the_sequences_that_it_has():
    """Sequences without a pose of the part tell nothing of it: of 6, 2 have one."""
    sequence = np.repeat(np.arange(6), 2)
    scored = scored_of_distances(np.arange(100.0, 124).reshape(12, 2), sequence=sequence, activity=np.minimum(sequence, 1))
    sums = metrics.pose_sums(scored.distances).select(["mpjpe"])
    low, high = scored.metrics_of(sums.only(sequence < 2))["intervals"]["mpjpe"]
    means = np.array([100 + 101 + 102 + 103, 104 + 105 + 106 + 107]) / 6
    classical = scipy.stats.t.ppf(0.975, 1) * scipy.stats.sem(means)
    assert classical < (high - low) / 2 < 1.3 * classical
    assert np.isnan(scored.metrics_of(sums.only(sequence < 1))["intervals"]["mpjpe"]).all()
    by_activity = record.flat_record(scored)["intervals"]["per_activity"]
    assert np.isnan(by_activity["0"]["mpjpe"]).all() and np.diff(by_activity["1"]["mpjpe"]) > 0


def test_intervals_end_where_there_are_no_values():
    """Two sequences, one much worse: Student's t reaches below 0 mm, below 0 % and above 100 %."""
    scored = scored_of_distances([[60, 30], [600, 900]], sequence=["s", "t"])
    part = scored.metrics_of(metrics.pose_sums(scored.distances))
    intervals = record.flat_record(scored)["intervals"]
    for name, (low, high) in part["intervals"].items():
        assert intervals["metrics"][name] == [low, high]
        assert low == 0 and (high > 265 if "mpjpe" in name else high <= 100), name
    assert part["intervals"]["pck100"] == [0, 100] and intervals["per_joint"]["1"]["cps200"] == [0, 100]
    assert intervals["per_joint"]["1"]["mpjpe"][1] > 330


def test_undefined_and_empty_parts():
    scored = scored_of_distances([[30, 0], [np.nan, 30], [60, 60]], sequence=["s", "t", "u"], activity=["a", "b", "b"])
    part = mpjpe_part(scored, record.PER_SEQUENCE)
    assert np.isnan([part["metrics"]["mpjpe"], *part["intervals"]["mpjpe"]]).all()  # never dropped
    sums = metrics.pose_sums(scored.distances).select(["mpjpe", "pck100"])
    assert scored.metrics_of(sums, record.PER_SEQUENCE)["metrics"]["pck100"] == pytest.approx((100 + 200 / 3 + 100) / 3)
    without = scored.metrics_of(sums.only(np.array([True, False, True])), record.PER_SEQUENCE)["metrics"]
    assert without == {"mpjpe": pytest.approx((10 + 40) / 2), "pck100": 100, "num_poses": 2}  # nothing counts in t


def test_tree_of_the_flat_record():
    scored = scored_of_distances([[30, 120], [60, 240], [90, 0], [0, 0]], sequence=["s", "t", "t", "s"], activity=[1, 1, 2, 2])
    tree = record.flat_record(scored)
    assert set(tree["metrics"]) == KEYS and tree["metrics"]["mpjpe"] == pytest.approx(540 / 12)
    assert list(tree["per_joint"]) == ["0", "1", "2"]
    assert tree["per_joint"]["1"]["mpjpe"] == pytest.approx(45) and tree["per_joint"]["2"]["mpjpe"] == pytest.approx(90)
    assert tree["per_joint"]["2"]["pck150"] == tree["per_joint"]["2"]["cps150"] == 75
    assert tree["per_sequence"]["s"]["mpjpe"] == pytest.approx(25) and tree["per_sequence"]["t"]["num_poses"] == 2
    assert tree["per_activity"]["1"]["cps200"] == 50 and tree["per_activity"]["2"]["cps200"] == 100
    for group in ("per_joint", "per_sequence", "per_activity"):
        assert all(set(table) == KEYS for table in tree[group].values())
    values = KEYS - {"num_poses", "num_undefined"}
    assert set(tree["intervals"]["metrics"]) == set(tree["intervals"]["per_joint"]["1"]) == values
    assert set(tree["intervals"]["per_activity"]) == {"1", "2"} and "per_sequence" not in tree["intervals"]
    low, high = tree["intervals"]["metrics"]["mpjpe"]
    assert low < 45 < high
    assert {"root": "0", "joints": "0, 1, 2", "num_joints": 3, "num_poses": 4, "resampled": "sequences", "num_groups": 2,
            "confidence": 0.95, "data": "all poses"}.items() <= tree["stamp"].items()


def test_parts_of_the_flat_record_are_what_each_has_alone():
    rng = np.random.default_rng(3)
    true = rng.normal(0, 300, (40, 5, 3)) + np.array([0, 0, 4000])
    pred = true + rng.normal(0, 80, true.shape)
    pred[7, 2] = np.inf
    validity = rng.random((40, 5)) < 0.8
    validity[3], validity[4, 2:] = False, False
    sequence, activity = rng.permutation(np.arange(40) % 6), rng.integers(0, 3, 40)
    tree = record.flat_record(record.score_pair(Poses("P", pred), Poses("A", true, validity=validity, sequence=sequence,
                                                                        activity=activity), 0, 0.95))
    for group, labels in (("per_sequence", sequence), ("per_activity", activity)):
        for label in np.unique(labels):
            poses = labels == label
            expected = metrics.compute_metrics(pred[poses], true[poses], validity[poses], 0)
            assert tree[group][str(label)] == pytest.approx(expected, nan_ok=True)
    assert tree["poses"] == metrics.count_poses(pred, true, validity, 0)
    assert tree["poses"]["num_empty"] == np.count_nonzero(~validity.any(axis=1)) > 0


def test_all_parts_are_resampled_alike():
    """Of one joint the whole and the part are the same; every pose is a sequence, and their names are in no order."""
    rng = np.random.default_rng(4)
    true = rng.normal(0, 300, (5, 1, 3))
    scored = record.score_pair(Poses("P", true + rng.normal(0, 100, true.shape)),
                               Poses("A", true, sequence=np.array(["d", "a", "e", "c", "b"])), 0, 0.95)
    intervals = record.flat_record(scored)["intervals"]
    assert intervals["metrics"]["a_mpjpe"] == intervals["per_joint"]["0"]["a_mpjpe"]
    assert np.diff(intervals["metrics"]["a_mpjpe"]) > 0


def test_nested():
    assert record.nested([("a", "b"), ("a", "c"), ("d",)], [1, 2, 3]) == {"a": {"b": 1, "c": 2}, "d": 3}


def test_pose_sums_of_other_denominators_count_their_poses():
    scored = scored_of_distances([[30, 0], [30, 30]])
    part = scored.metrics_of(PoseSums(("share",), np.array([[100.0, 0]]), np.array([[1.0, 0]])), joints="some")
    assert part["metrics"] == {"share": 100, "num_poses": 1}
    assert part["stamp"]["joints"] == "some" and part["stamp"]["resampled"] == "poses"


PARTS = {"flat": [], "h36m": ["mean_of_activities"], "3dpw": ["challenge", "ncps", "test_split"], "mupots": [],
         "mpi_inf_3dhp": ["official_metric", "official_universal", "official_aligned", "outdoor"]}


@pytest.mark.parametrize("protocol", PARTS)
def test_files_on_the_command_line(protocol, tmp_path):
    """Two sequences of 6 poses in which joint 5 is 60 mm off; the root counts with 0."""
    joints = {"flat": ("a", "b", "c", "d", "e", "f"), "h36m": h36m.JOINTS, "3dpw": threedpw.JOINTS}.get(
        protocol, mpi_inf_3dhp.JOINTS)
    true = np.random.default_rng(0).normal(0, 300, (12, len(joints), 3)) + np.array([0, 0, 4000])
    pred = true.copy()
    pred[:, 5, 1] += 60
    labels = {"sequence": np.repeat(["TS5", "TS6"], 6), "frame": np.tile(np.arange(6), 2), "person": np.zeros(12, int),
              "joints2d": true[..., :2] / true[..., 2:] * 1500 + 1000}
    np.savez(tmp_path / "P.npz", joints3d=pred, joint_names=joints, **labels)
    np.savez(tmp_path / "A.npz", joints3d=true, joint_names=joints, joint_validity_mask=np.ones((12, len(joints)), bool),
             joints3d_universal=true * 1.1, activity=np.arange(12) % 3, split=["test"] * 12, **labels)
    result = end_to_end.run_program("evaluate.py", "--predictions=P.npz", "--annotations=A.npz", f"--protocol={protocol}",
                                    "--output=scores.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["metrics"]["mpjpe"] == pytest.approx(60 / len(joints))
    for table in (scores["metrics"], *itertools.chain(*(scores[group].values() for group in (
            "per_sequence", "per_activity", "per_joint")))):
        assert set(table) >= KEYS
    assert set(scores["per_sequence"]) == {"TS5", "TS6"} and set(scores["per_activity"]) == {"0", "1", "2"}
    assert list(scores["per_joint"]) == list(joints)
    assert {"data", "joints", "root", "annotation", "averaging", "num_poses"} <= set(scores["stamp"])
    for part in PARTS[protocol]:
        assert scores[part]["stamp"]["averaging"] and scores[part]["intervals"] and scores[part]["metrics"]["num_poses"] == 12
    if protocol == "mupots":
        assert scores["metrics"]["recall"] == scores["stamp"]["recall"] == 100
        variants = {"metric", "metric_rescaled", "universal", "universal_rescaled"}
        assert set(scores["matched"]) == set(scores["all_annotated"]) == variants
        assert scores["matched"]["metric"]["metrics"]["mpjpe17"] == pytest.approx(60 / 17)


def test_labels_stand_in_the_order_of_their_numbers():
    labels = ["TS10", "TS2", "a", "3", "TS1", "12", "TS2b"]
    assert sorted(labels, key=record.natural_order) == ["3", "12", "TS1", "TS2", "TS2b", "TS10", "a"]
    true = np.tile([0.0, 0, 3000], (3, 2, 1))
    true[:, 1] += 100
    poses = Poses("A", true, sequence=np.array(["TS10", "TS1", "TS2"]))
    tree = record.flat_record(record.score_pair(Poses("P", true), poses, 0, 0.95))
    assert list(tree["per_sequence"]) == ["TS1", "TS2", "TS10"]
