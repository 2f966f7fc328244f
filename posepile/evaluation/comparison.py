"""Predictions of several models for the same poses: paired differences to the first model, with intervals."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from posepile.evaluation import metrics
from posepile.evaluation.consistency import inconsistency_sums
from posepile.evaluation.prediction_files import check_pair, named_alike, read_annotations, read_predictions
from posepile.evaluation.protocols.record import nested
from posepile.evaluation.scoring import HEADLINE_METRICS, formats_of, score_poses
from posepile.evaluation.statistics import NUM_RESAMPLES, PoseSums, beside, bootstrap, interval, make_resampling
from posepile.geometry.skeleton import Skeleton


def compare_poses(predictions: Mapping[str, np.ndarray], joints3d_true, validity, skeleton: Skeleton, *, sequence=None,
                  activity=None, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> dict:
    """Compares every model with the first one, pose by pose.

    Args:
        predictions: {model: [num_poses, num_joints, 3]} camera space, mm; two or more.
        joints3d_true: [num_poses, num_joints, 3] camera space, mm.
        validity: [num_poses, num_joints] bool, which annotations count; None: all.
        skeleton: a merged skeleton or a plain format.
        sequence: [num_poses] labels; all poses of a sequence are resampled together. None, or one label for all: see
            `statistics.make_resampling`; the intervals are too narrow if neighbouring poses err alike.
        activity: [num_poses] labels for the break-down; None: no break-down.
        confidence: of the intervals, above 0, below 1.
        num_resamples, seed: of the bootstrap.

    Returns:
        `differences`: {model: groups} for every model but the first, with the groups `pooled` and `formats` of
            `scoring.score_merged`, `inconsistency` of merged skeletons, `per_joint` ({format: {joint: MPJPE}}) and
            `per_activity` ({label: the headline metrics, pooled}). In the place of each number stands {`reference`: that of
            the first model, `value`: of this one, `difference`: value - reference, `low`, `high`: the interval}; nan where
            a metric is undefined;
        `stamp`: `reference`, what is `resampled` and how many groups that are, `num_resamples`, `seed`, `confidence`.
    Raises: ValueError for fewer than two models, a confidence out of range, or arrays that do not fit together.
    """
    if len(predictions) < 2:
        raise ValueError(f"a comparison takes two models or more; got {', '.join(predictions) or 'none'}")
    num_poses = len(joints3d_true)
    for name, labels in (("sequence", sequence), ("activity", activity)):
        if labels is not None and np.shape(labels) != (num_poses,):
            raise ValueError(f"{name} must be [{num_poses}], one label per pose; got shape {list(np.shape(labels))}")
    resampling = make_resampling(sequence, num_poses)

    def measure(joints3d_pred):
        sums = _all_sums(joints3d_pred, joints3d_true, validity, skeleton, activity)
        num_groups = sums.grouped(resampling.groups).num_counted()
        return sums.names, sums.values(), bootstrap(sums, resampling.groups, num_resamples, seed), num_groups

    reference, *others = predictions
    names, reference_values, reference_resamples, num_groups = measure(predictions[reference])
    differences = {}
    for model in others:
        _, values, resamples, _ = measure(predictions[model])
        difference = values - reference_values
        low, high = interval(difference, resamples - reference_resamples, num_groups, confidence)
        columns = np.stack([reference_values, values, difference, low, high], axis=1).tolist()
        differences[model] = nested(names, [dict(zip(("reference", "value", "difference", "low", "high"), row, strict=True))
                                             for row in columns])
    stamp = {"reference": reference, "resampled": resampling.unit, "num_groups": resampling.num_groups,
             "num_resamples": num_resamples, "seed": seed, "confidence": confidence}
    return {"differences": differences, "stamp": stamp}


def measure_poses(joints3d_pred, joints3d_true, validity, skeleton: Skeleton, *, sequence=None, activity=None,
                  confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> dict:
    """The intervals of one model's numbers. Args: as `compare_poses`.

    Returns: `intervals`: groups as in `compare_poses`, with [low, high] in the place of each number; `per_joint` and
        `per_activity`: the numbers themselves; `stamp`: `resampled`, `num_groups`, `num_resamples`, `confidence`.
    """
    resampling = make_resampling(sequence, len(joints3d_true))
    sums = _all_sums(joints3d_pred, joints3d_true, validity, skeleton, activity)
    values = sums.values()
    num_groups = sums.grouped(resampling.groups).num_counted()
    low_high = interval(values, bootstrap(sums, resampling.groups, num_resamples, seed), num_groups, confidence,
                        metrics.value_limits(path[-1] for path in sums.names))
    tree = nested(sums.names, values.tolist())
    return {"intervals": nested(sums.names, low_high.T.tolist()),
            **{group: tree[group] for group in ("per_joint", "per_activity") if group in tree},
            "stamp": {"resampled": resampling.unit, "num_groups": resampling.num_groups, "num_resamples": num_resamples,
                      "confidence": confidence}}


def compare_files(predictions: Mapping[str, str | pathlib.Path], annotations: str | pathlib.Path, protocol: str = "flat",
                  confidence: float = 0.95) -> dict:
    """Compares prediction files of any methods; needs no data set and no TensorFlow.

    Args:
        predictions: {name: .npz}, two or more.
        annotations: .npz; for both see `prediction_files`.
        protocol: how each is scored, a key of `scoring.PROTOCOLS`.
        confidence: of the intervals.

    Returns: `models`: {name: record of `scoring.score_files`}; `differences` and `stamp` of `compare_poses`.
    Raises: ValueError, FileNotFoundError: a message that names the file and the array, and says what to do.
    """
    if protocol == "mupots":
        raise ValueError("predictions of the protocol mupots are matched with other people each and cannot be compared pose by "
                         "pose; store one prediction per annotated person and compare these with --protocol=flat")
    true = read_annotations(annotations)
    pairs = {name: check_pair(*named_alike(read_predictions(path), true)) for name, path in predictions.items()}
    records = {name: score_poses(pred, true, protocol, confidence) for name, (pred, _) in pairs.items()}
    num_joints = true.joints3d.shape[1]
    joint_names = next((pred.joint_names for pred, _ in pairs.values() if pred.joint_names), map(str, range(num_joints)))
    skeleton = Skeleton(name="all joints", family="all joints", joint_names=tuple(joint_names),
                        mirror=tuple(range(num_joints)), edges=(), root=true.root or 0)
    comparison = compare_poses({name: pred.joints3d for name, (pred, _) in pairs.items()}, true.joints3d, true.validity,
                               skeleton, sequence=true.sequence, activity=true.activity, confidence=confidence)
    stamp = {"annotations": true.source, "num_poses": len(true.joints3d), **comparison["stamp"]}
    return {"models": records, "differences": comparison["differences"], "stamp": stamp}


def distinct_names(paths: Sequence[str | pathlib.Path]) -> list[str]:
    """Short names of files: the ends of their paths, as long as needed to tell them apart; the same file again is numbered."""
    parts = [pathlib.Path(path).resolve().with_suffix("").parts for path in paths]
    different = set(parts)
    length = next(n for n in range(1, max(map(len, parts)) + 1) if len({p[-n:] for p in different}) == len(different))
    names = ["/".join(p[-length:]) for p in parts]
    return [name if name not in names[:i] else f"{name} ({names[:i].count(name) + 1})" for i, name in enumerate(names)]


def _all_sums(joints3d_pred, joints3d_true, validity, skeleton, activity) -> PoseSums:
    """All metrics that are compared; their names are the paths to them in a record."""
    pred, true, validity = metrics.check_poses(joints3d_pred, joints3d_true, validity)
    by_format, per_joint = {}, []
    for name, joints, root in formats_of(skeleton):
        distances = metrics.joint_distances(pred[:, joints], true[:, joints], validity[:, joints], root)
        by_format[name] = metrics.pose_sums(distances)
        is_counted = distances.relative_validity.T
        per_joint.append(PoseSums(tuple(skeleton.joint_names[j] for j in joints),
                                  np.where(is_counted, distances.relative.T, 0.0),
                                  is_counted.astype(np.float64)).prefixed("per_joint", name))
    first, *others = by_format.values()
    pooled = sum(others, start=first)
    parts = [pooled.prefixed("pooled"), *(sums.prefixed("formats", name) for name, sums in by_format.items())]
    if skeleton.formats:
        parts.append(inconsistency_sums(pred, true, validity, skeleton).prefixed("inconsistency"))
    parts += per_joint
    for label in () if activity is None else np.unique(activity):
        parts.append(pooled.select(HEADLINE_METRICS).only(np.asarray(activity) == label).prefixed("per_activity", str(label)))
    return beside(parts)

