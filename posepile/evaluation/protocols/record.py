"""What the records of all protocols are made of: metrics of a part of the poses or joints, with intervals and a stamp."""

import dataclasses
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

    def metrics_of(self, sums: PoseSums, averaging: str = POOLED, **stamp) -> dict:
        """A part of a record: `metrics`, `intervals` ({metric: [low, high]}), `stamp`.

        Args:
            sums: of all poses; those that do not belong to the part count nothing.
            averaging: POOLED; PER_SEQUENCE or PER_ACTIVITY, where the annotations have such labels.
            stamp: what differs from that of the record.
        """
        num_poses = int((sums.denominators > 0).any(axis=0).sum())
        if averaging == PER_SEQUENCE:
            sums = sums.grouped(self.true.sequence).equally_weighted()
            groups, num_groups, unit = np.arange(sums.numerators.shape[1]), sums.numerators.shape[1], "sequences"
            values, resamples = sums.values(), bootstrap(sums, groups)
        else:
            groups, num_groups, unit = self.resampling.groups, self.resampling.num_groups, self.resampling.unit
            values, resamples = sums.values(), bootstrap(sums, groups)
            if averaging == PER_ACTIVITY:
                parts = [sums.only(self.true.activity == label) for label in np.unique(self.true.activity)]
                values = np.mean([part.values() for part in parts], axis=0)
                # A resample may lack an activity, and is then left out.
                resamples = np.mean([bootstrap(part, groups) for part in parts], axis=0)
        intervals = interval(values, resamples, num_groups, self.confidence)
        return {"metrics": {**dict(zip(sums.names, values.tolist(), strict=True)), "num_poses": num_poses},
                "intervals": dict(zip(sums.names, intervals.T.tolist(), strict=True)),
                "stamp": {**self.stamp, "averaging": averaging, "num_poses": num_poses, "resampled": unit, **stamp}}


def score_pair(pred: Poses, true: Poses, root: int | None, confidence: float, **stamp) -> Scored:
    """Distances of predictions to annotations that have been checked, see `prediction_files.check_pair`."""
    joint_names = true.joint_names or tuple(map(str, range(true.joints3d.shape[1])))
    true = dataclasses.replace(true, joint_names=joint_names, root=root)
    try:
        distances = metrics.joint_distances(pred.joints3d, true.joints3d, true.validity, root)
    except ValueError as error:
        raise ValueError(f"{pred.source} against {true.source}: {error}") from error
    stamp = {"predictions": pred.source, "annotations": true.source, "joints": ", ".join(joint_names),
             "num_joints": len(joint_names), "root": "mean of the valid joints" if root is None else joint_names[root], **stamp}
    return Scored(true, distances, make_resampling(true.sequence, len(true.joints3d)), confidence, stamp)


def flat_record(scored: Scored) -> dict:
    """The record of the flat averaging: one mean over all joints of all poses.

    Returns: `metrics`, see `metrics.compute_metrics`; `per_joint`, `per_sequence`, `per_activity`: {label: the same of that
        part}; a joint has no CPS, and a group is left out where the annotations have no such labels; `intervals`: the same
        tree with [low, high] in the place of each number, without `per_sequence`; `poses`: see `metrics.count_poses`;
        `stamp`.
    """
    distances, true = scored.distances, scored.true
    sums = metrics.pose_sums(distances)
    record = {"metrics": metrics.summarize(distances), "per_joint": {}}
    paths = [sums.prefixed("metrics")]
    for j, name in enumerate(true.joint_names):
        of_joint = distances.select(slice(None), slice(j, j + 1))
        record["per_joint"][name] = {key: value for key, value in metrics.summarize(of_joint).items()
                                     if not key.startswith("cps")}
        joint_sums = metrics.pose_sums(of_joint).select([name for name in sums.names if not name.startswith("cps")])
        paths.append(joint_sums.grouped(scored.resampling.groups).prefixed("per_joint", name))
    for group in ("sequence", "activity"):
        labels = getattr(true, group)
        if labels is None:
            continue
        values, numbers = np.unique(labels, return_inverse=True)
        record[f"per_{group}"] = {str(value): metrics.summarize(distances.select(numbers.ravel() == i))
                                  for i, value in enumerate(values)}
        if group == "activity":
            paths += [sums.only(numbers.ravel() == i).prefixed("per_activity", str(value)) for i, value in enumerate(values)]
    resampling = scored.resampling
    paths = beside([part if part.numerators.shape[1] == resampling.num_groups else part.grouped(resampling.groups)
                    for part in paths])
    resamples = bootstrap(paths, np.arange(resampling.num_groups))
    intervals = interval(paths.values(), resamples, resampling.num_groups, scored.confidence)
    stamp = {**scored.stamp, "averaging": POOLED, "num_poses": record["metrics"]["num_poses"], "resampled": resampling.unit,
             "num_groups": resampling.num_groups, "num_resamples": NUM_RESAMPLES, "confidence": scored.confidence}
    return {**record, "intervals": nested(paths.names, intervals.T.tolist()), "poses": metrics.count_distances(distances),
            "stamp": stamp}


def nested(paths, values) -> dict:
    """{("a", "b"): value} as {"a": {"b": value}}."""
    result: dict = {}
    for path, value in zip(paths, values, strict=True):
        table = result
        for key in path[:-1]:
            table = table.setdefault(key, {})
        table[path[-1]] = value
    return result
