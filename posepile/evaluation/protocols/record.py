"""What the records of all protocols are made of: metrics of a part of the poses or joints, with intervals and a stamp."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from posepile.evaluation import metrics
from posepile.evaluation.metrics import JointDistances
from posepile.evaluation.prediction_files import Poses
from posepile.evaluation.statistics import NUM_RESAMPLES, PoseSums, Resampling, beside, bootstrap, interval, make_resampling

POOLED = "all joints of all poses"
PER_SEQUENCE = "joints and poses of a sequence, then the mean of the sequences"
PER_ACTIVITY = "joints and poses of an activity, then the mean of the activities"


@dataclasses.dataclass(frozen=True)
class Scored:
    """Predictions and annotations with their distances, in the joint order of a protocol.

    Attributes:
        true: the annotations: labels, joint names and root.
        distances: of all joints.
        resampling: for the intervals.
        confidence: of the intervals.
        stamp: what all numbers have in common.
    """

    true: Poses
    distances: JointDistances
    resampling: Resampling
    confidence: float
    stamp: Mapping

    def select(self, poses: np.ndarray, **stamp) -> "Scored":
        """The same of some poses, [num_poses] bool. Args: stamp: what differs."""
        true = self.true.select(poses)
        return dataclasses.replace(self, true=true, distances=self.distances.select(poses), stamp={**self.stamp, **stamp},
                                   resampling=make_resampling(true.sequence, len(true.joints3d)))

    def metrics_of(self, sums: PoseSums, averaging: str = POOLED, **stamp) -> dict:
        """A part of a record: `metrics`, `intervals` ({metric: [low, high]}), `stamp`.

        Args:
            sums: of all poses; those that do not belong to the part count nothing.
            averaging: POOLED; PER_SEQUENCE or PER_ACTIVITY, where the annotations have such labels.
            stamp: what differs from that of the record.
        """
        num_poses = int((sums.denominators > 0).any(axis=0).sum())
        resampling = self.resampling
        if averaging == PER_SEQUENCE:
            sums = sums.grouped(self.true.sequence).equally_weighted()
            num_sequences = sums.numerators.shape[1]
            resampling = Resampling(np.arange(num_sequences), num_sequences, "sequences")
        if averaging == PER_ACTIVITY:
            values = sums.grouped(self.true.activity).equally_weighted().values()
            # A resample that lacks an activity is left out.
            resamples = np.mean([bootstrap(sums.only(self.true.activity == label), resampling.groups)
                                 for label in np.unique(self.true.activity)], axis=0)
        else:
            values, resamples = sums.values(), bootstrap(sums, resampling.groups)
        intervals = interval(values, resamples, sums.grouped(resampling.groups).num_counted(), self.confidence,
                             metrics.value_limits(sums.names))
        return {"metrics": {**dict(zip(sums.names, values.tolist(), strict=True)), "num_poses": num_poses},
                "intervals": dict(zip(sums.names, intervals.T.tolist(), strict=True)),
                "stamp": {**self.stamp, "averaging": averaging, "num_poses": num_poses, "resampled": resampling.unit, **stamp}}


def score_pair(pred: Poses, true: Poses, root: int | None, confidence: float, **stamp) -> Scored:
    """Distances of predictions to annotations that have been checked, see `prediction_files.check_pair`."""
    joint_names = true.joint_names or tuple(map(str, range(true.joints3d.shape[1])))
    true = dataclasses.replace(true, joint_names=joint_names, root=root)
    try:
        distances = metrics.joint_distances(pred.joints3d, true.joints3d, true.validity, root)
    except ValueError as error:
        raise ValueError(f"{pred.source} against {true.source}: {error}") from error
    stamp = {"predictions": pred.source, "annotations": true.source, "data": "all poses", "joints": ", ".join(joint_names),
             "num_joints": len(joint_names), "root": "mean of the valid joints" if root is None else joint_names[root], **stamp}
    return Scored(true, distances, make_resampling(true.sequence, len(true.joints3d)), confidence, stamp)


def flat_record(scored: Scored) -> dict:
    """The record of the flat averaging: one mean over all joints of all poses.

    Returns: `metrics`, see `metrics.compute_metrics`; `per_joint`, `per_sequence`, `per_activity`: {label: the same of that
        part}; CPS of a joint is the share of poses in which this joint is right; a group is left out where the annotations
        have no such labels; `intervals`: the same tree with [low, high] in the place of each number, without `per_sequence`;
        `poses`: see `metrics.count_poses`; `stamp`.
    """
    distances, true, resampling = scored.distances, scored.true, scored.resampling
    sums = metrics.pose_sums(distances)
    record = {"metrics": metrics.summarize(distances, sums), "per_joint": {}}
    parts = [sums.grouped(resampling.groups).prefixed("metrics")]
    for j, name in enumerate(true.joint_names):
        of_joint = distances.select(slice(None), slice(j, j + 1))
        joint_sums = metrics.pose_sums(of_joint)
        record["per_joint"][name] = metrics.summarize(of_joint, joint_sums)
        parts.append(joint_sums.grouped(resampling.groups).prefixed("per_joint", name))
    if true.sequence is not None:
        record["per_sequence"] = _by_label(sums, distances, true.sequence)
    if true.activity is not None:
        record["per_activity"] = _by_label(sums, distances, true.activity)
        parts += [sums.only(true.activity == label).grouped(resampling.groups).prefixed("per_activity", str(label))
                  for label in np.unique(true.activity)]
    groups = beside(parts)
    resamples = bootstrap(groups, np.arange(resampling.num_groups))
    intervals = interval(groups.values(), resamples, groups.num_counted(), scored.confidence,
                         metrics.value_limits(path[-1] for path in groups.names))
    stamp = {**scored.stamp, "averaging": POOLED, "num_poses": record["metrics"]["num_poses"], "resampled": resampling.unit,
             "num_groups": resampling.num_groups, "num_resamples": NUM_RESAMPLES, "confidence": scored.confidence}
    return {**record, "intervals": nested(groups.names, intervals.T.tolist()), "poses": metrics.count_distances(distances),
            "stamp": stamp}


def _by_label(sums, distances, labels):
    """{label: `metrics.summarize` of the poses that have it}."""
    values, numbers = np.unique(labels, return_inverse=True)
    flags = metrics.pose_flags(distances)
    counts = np.stack([np.bincount(numbers, flags[name]).astype(int) for name in metrics.POSE_COUNTS], axis=1)
    names = (*sums.names, *metrics.POSE_COUNTS)
    result = {str(value): dict(zip(names, (*ratios, *count), strict=True)) for value, ratios, count in
              zip(values, sums.grouped(numbers).ratios().T.tolist(), counts.tolist(), strict=True)}
    return {label: result[label] for label in sorted(result, key=natural_order)}


def natural_order(label: str) -> list:
    """For sorting: TS2 comes before TS10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split("([0-9]+)", label)]


def nested(paths, values) -> dict:
    """{("a", "b"): value} as {"a": {"b": value}}."""
    result: dict = {}
    for path, value in zip(paths, values, strict=True):
        table = result
        for key in path[:-1]:
            table = table.setdefault(key, {})
        table[path[-1]] = value
    return result
